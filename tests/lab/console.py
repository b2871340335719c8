#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Parses the console output of a lab machine. Arguments: the kernel's name, the mode that the
library must choose there, the directory with NAME.console.

Writes NAME.json, the results in the format of meson's testlog.json, which tests/summary.py counts,
and NAME.answers, the output of probe and answers. Prints one line for the kernel, and the failures.
The exit status is 0 if nothing failed, 3 if the plan was never started, otherwise 1.
"""

import json
import os
import re
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import summary  # noqa: E402

BAD_LOG = re.compile(
    r"WARNING:|BUG: (?!soft lockup)|Oops|Unable to handle|general protection|KASAN")
# These tests corrupt a ring on purpose, so the kernel warns (once; therefore they run last).
MAY_WARN = "model-differential"
FAILURES_MAX = 20
CHECKS = ("lab / choice", "lab / kernel-log")
CHECK_LINES_MAX = 40


class Machine:
    """The programs that ran, in the order of the console."""

    def __init__(self):
        self.release = None
        self.done = False
        self.ran = []  # [kind, name, how, number, milliseconds, output lines]
        self.log = []
        self.trouble = []
        self.rest = []

    def line(self, text):
        if not text.startswith("LAB "):
            (self.ran[-1][5] if self.ran and self.ran[-1][2] is None else self.rest).append(text)
            return
        word, _, rest = text[4:].partition(" ")
        if word == "kernel":
            self.release = rest
        elif word == "begin":
            kind, name = rest.split()
            self.ran.append([kind, name, None, 0, 0, []])
        elif word == "end" and self.ran:
            _, how, number, milliseconds = rest.split()
            self.ran[-1][2:5] = [how, int(number), int(milliseconds)]
        elif word == "log":
            self.log.append(rest)
        elif word == "trouble":
            self.trouble.append(rest)
        elif word == "done":
            self.done = True


def entry(name, result, returncode, seconds, output):
    return {
        "name": "lab / " + name,
        "result": result,
        "returncode": returncode,
        "duration": seconds,
        "stdout": output,
        "stderr": "",
    }


def entry_of(ran):
    _, name, how, number, milliseconds, lines = ran
    if how == "exit":
        result = "OK" if number == 0 else "SKIP" if number == 77 else "FAIL"
    else:
        result = "TIMEOUT" if how == "timeout" else "FAIL"
    returncode = -number if how == "signal" else number
    if how is None:
        lines = lines + ["the machine ended or hung while this ran"]
    return entry(name, result, returncode, milliseconds / 1000, "\n".join(lines) + "\n")


def check(name, problems):
    return entry(name, "FAIL" if problems else "OK", len(problems), 0, "\n".join(problems) + "\n")


def answers_of(machine):
    """Maps the name of each show to its JSON, or to its "key: value" lines."""
    answers = {"kernel": machine.release}
    for kind, name, _, _, _, lines in machine.ran:
        if kind != "show":
            continue
        try:
            answers[name] = json.loads("\n".join(lines))
        except ValueError:
            pairs = [line.split(": ", 1) for line in lines if ": " in line]
            answers[name] = dict(pairs)
    return answers


def choice_problems(answers, expected):
    choice = answers.get("probe", {}).get("choice")
    if not choice:
        return ["expected the library to choose %s; it chose nothing" % expected]
    mode = choice["mode"] + ("+backup" if choice["backup"] else "")
    return [] if mode == expected else [
        "expected the library to choose %s; it chose %s" % (expected, mode)]


def entries_of(machine, answers, expected):
    entries = [entry_of(ran) for ran in machine.ran if ran[0] == "test"]
    entries.append(check("choice", choice_problems(answers, expected)))
    bad = [line for line in machine.log
           if BAD_LOG.search(line) and not line.startswith(MAY_WARN)]
    problems = machine.trouble + bad
    if problems:
        problems += ["the kernel log:"] + machine.log
    if not machine.done:
        problems.append("the machine did not finish the plan; its last output:")
        problems += machine.rest[-30:]
    entries.append(check("kernel-log", problems))
    return entries


def counted(name, path):
    """Reads a results file: counts by outcome, the seconds, and the failed cases."""
    os.environ["DIRTYLOG_EXPECT_KVM"] = "1"
    programs = list(summary.read_log(name, path))
    cases = [case for each in programs for case in each[2]]
    count = {outcome: sum(case.outcome == outcome for case in cases)
             for outcome in ("passed", "failed", "skipped")}
    failed = [case for case in cases if case.outcome == "failed"]
    return count, sum(each[1] for each in programs), failed


def print_failures(failed):
    for case in failed[:FAILURES_MAX]:
        print("  failed: " + ": ".join(part for part in (*case[:2], case.reason) if part))
    if len(failed) > FAILURES_MAX:
        print("  and %d more" % (len(failed) - FAILURES_MAX))


def main(name, expected, directory):
    base = os.path.join(directory, name)
    machine = Machine()
    with open(base + ".console", encoding="utf-8", errors="replace") as console:
        for line in console:
            machine.line(line.rstrip("\r\n"))
    if machine.release is None:
        return 3
    answers = answers_of(machine)
    with open(base + ".answers", "w", encoding="utf-8") as out:
        json.dump(answers, out, indent=1)
    entries = entries_of(machine, answers, expected)
    with open(base + ".json", "w", encoding="utf-8") as out:
        out.writelines(json.dumps(each) + "\n" for each in entries)

    count, seconds, failed = counted(name, base + ".json")
    print("%s: %d passed, %d failed, %d skipped, %.0f s (%s)" % (
        name, count["passed"], count["failed"], count["skipped"], seconds, machine.release))
    print_failures(failed)
    for each in entries:
        if each["name"] in CHECKS and each["result"] == "FAIL":
            print("  " + "\n  ".join(each["stdout"].splitlines()[:CHECK_LINES_MAX]))
    return 1 if failed or not count["passed"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
