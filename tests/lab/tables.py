#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints the tables of doc/kernels.md from what tests/lab/run.sh left in its output directory.
Arguments: that directory, then the kernels' names in the order of the columns."""

import json
import os
import sys

from console import counted

OFFERS = [
    ("ring_tso", "ring, TSO (192)"),
    ("ring_acq_rel", "ring, acquire/release (223)"),
    ("backup", "backup bitmap (225)"),
    ("manual_protect", "manual protect (168)"),
    ("initially_set", "initially set (168)"),
]
REQUESTS = [
    ("probe", "nothing"),
    ("probe-backup-required", "backup `required`"),
    ("probe-mode-ring", "mode `ring`"),
    ("probe-mode-ring-backup-off", "mode `ring`, backup `off`"),
    ("probe-mode-bitmap", "mode `bitmap`"),
]


def print_table(corner, columns, rows):
    print("| " + " | ".join([corner] + columns) + " |")
    print("|" + " --- |" * (len(columns) + 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def choice(answer):
    if "choice" not in answer:
        return "refused: " + os.strerror(answer["error"])
    mode = answer["choice"]["mode"]
    return mode + " + backup" if answer["choice"]["backup"] else mode


def offer(answer, key):
    return "yes" if answer["offers"][key] else "no"


def results(directory, name):
    count, seconds = counted(name, os.path.join(directory, name + ".json"))[:2]
    return ["%d" % count[outcome] for outcome in ("passed", "failed", "skipped")] + [
        "%.0f" % seconds]


def main(directory, names):
    answers = []
    for name in names:
        with open(os.path.join(directory, name + ".answers"), encoding="utf-8") as file:
            answers.append(json.load(file))
    print_table("", ["kernel", "page", "passed", "failed", "skipped", "seconds"], [
        ["`%s`" % name, each["kernel"].split()[0],
         "%d KiB" % (each["probe"]["offers"]["page_bytes"] // 1024)] + results(directory, name)
        for name, each in zip(names, answers)])
    print_table("What the kernel has", names, [
        [text] + [offer(each["probe"], key) for each in answers] for key, text in OFFERS])
    print_table("What the library takes, asked for", names, [
        [text] + [choice(each[key]) for each in answers] for key, text in REQUESTS])
    questions = list(answers[0]["answers"])
    print_table("What the kernel answers", names, [
        [question] + [each["answers"].get(question, "") for each in answers]
        for question in questions])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
