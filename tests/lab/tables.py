#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes the tables of doc/kernels.md from the output directory of tests/lab/run.sh.

Usage: tests/lab/tables.py [--help] OUTPUT [FILE]

Lists the kernels in the order of tests/lab/run.sh --list. With FILE, replaces the text between its
begin and end markers; otherwise prints the tables.
"""

import contextlib
import errno
import io
import json
import os
import re
import subprocess
import sys

from console import counted

OFFERS = [
    ("ring_tso", "ring, TSO (192)"),
    ("ring_acq_rel", "ring, acquire/release (223)"),
    ("backup", "backup bitmap (225)"),
    ("manual_protect", "manual protect (168)"),
    ("initially_set", "initially set (168)"),
]
ERRORS = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EINVAL: "EINVAL", errno.EPERM: "EPERM"}
BEGIN = "<!-- tests/lab/tables.py: begin -->\n"
END = "<!-- tests/lab/tables.py: end -->\n"
REQUESTS = [
    ("probe", "none"),
    ("probe-backup-required", "backup `required`"),
    ("probe-mode-ring", "mode `ring`"),
    ("probe-mode-ring-backup-off", "mode `ring`, backup `off`"),
    ("probe-mode-bitmap", "mode `bitmap`"),
]
# Program, test, and what it shows. The last pass of the test is printed.
WRITERS = [
    ("lab-vhost-net", "bitmap_mode_reports_all_that_vhost_net_writes", "vhost-net, logged"),
    ("lab-vhost-net", "without_log_all_the_buffers_are_lost", "vhost-net, without VHOST_F_LOG_ALL"),
    ("lab-vhost-net", "without_the_rings_log_the_used_rings_are_lost",
     "vhost-net, without VHOST_VRING_F_LOG"),
    ("lab-vhost-net", "without_the_mark_everything_is_lost",
     "vhost-net, logged, without `dl_mark_bitmap()`"),
    ("lab-vhost-net", "a_watch_of_its_mapping_needs_no_log", "vhost-net, watched, not logged"),
    ("lab-vhost-vsock", "bitmap_mode_misses_the_buffers_of_vhost_vsock", "vhost-vsock, logged"),
    ("lab-vhost-vsock", "with_marked_buffers_nothing_is_lost",
     "vhost-vsock, logged, buffers marked"),
    ("lab-vhost-vsock", "a_watch_of_its_mapping_finds_the_buffers",
     "vhost-vsock, watched, not logged"),
]
PASS = re.compile(r" +(\d+) pages changed, (\d+) reported, \d+ lost")


def print_table(corner, columns, rows):
    print("| " + " | ".join([corner] + columns) + " |")
    print("|" + " --- |" * (len(columns) + 1))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def choice(answer):
    if "choice" not in answer:
        return "refused (%s)" % ERRORS.get(answer["error"], os.strerror(answer["error"]))
    mode = answer["choice"]["mode"]
    return mode + " + backup" if answer["choice"]["backup"] else mode


def offer(answer, key):
    return "yes" if answer["offers"][key] else "no"


def results(directory, name):
    count, seconds = counted(name, os.path.join(directory, name + ".json"))[:2]
    return ["%d" % count[outcome] for outcome in ("passed", "failed", "skipped")] + [
        "%.0f" % seconds]


def output_of(directory, name, program):
    with open(os.path.join(directory, name + ".json"), encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    return "".join(each["stdout"] for each in entries if each["name"] == "lab / " + program)


def last_pass(output, test):
    """How many pages the last pass of a test reported, of those that had changed."""
    parts = output.split("] %s\n" % test)
    if len(parts) < 3 or not parts[1].endswith("OK "):
        return "skipped"
    changed, reported = PASS.findall(parts[1])[-1]
    return "%s of %s" % (reported, changed)


def print_tables(directory, names):
    answers = []
    for name in names:
        with open(os.path.join(directory, name + ".answers"), encoding="utf-8") as file:
            answers.append(json.load(file))
    columns = ["release", "page", "passed", "failed", "skipped", "seconds"]
    print_table("Kernel in the lab", columns, [
        ["`%s`" % name, each["kernel"].split()[0],
         "%d KiB" % (each["probe"]["offers"]["page_bytes"] // 1024)] + results(directory, name)
        for name, each in zip(names, answers)])
    print_table("What the kernel supports", names, [
        [text] + [offer(each["probe"], key) for each in answers] for key, text in OFFERS])
    print_table("What the library chooses, with options", names, [
        [text] + [choice(each[key]) for each in answers] for key, text in REQUESTS])
    print_table("Changed pages that a pass has", names, [
        [text] + [last_pass(output_of(directory, name, program), test) for name in names]
        for program, test, text in WRITERS])
    questions = list(answers[0]["answers"])
    print_table("What the kernel returns", names, [
        [question] + [each["answers"].get(question, "") for each in answers]
        for question in questions])


def main(arguments):
    if "--help" in arguments or len(arguments) not in (1, 2):
        print(__doc__.strip())
        return 0 if "--help" in arguments else 2
    run = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run.sh")
    listed = subprocess.run([run, "--list"], stdout=subprocess.PIPE, check=True)
    tables = io.StringIO()
    with contextlib.redirect_stdout(tables):
        print_tables(arguments[0], listed.stdout.decode().split())
    if len(arguments) == 1:
        print(tables.getvalue(), end="")
        return 0
    with open(arguments[1], encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN)
    with open(arguments[1], "w", encoding="utf-8") as file:
        file.write(before + BEGIN + "\n" + tables.getvalue() + END + rest.split(END)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
