#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts tests. Arguments: label=path of a meson testlog.json; label= says that the build failed.

A program that speaks cmocka's standard output counts as the tests that it announces, any other
program as one test. A skip's reason is the line "skip: <reason>" that the test prints before it
skips, or else the last that it prints. With DIRTYLOG_EXPECT_KVM=1 a skip whose reason names
/dev/kvm is a failure.

What cmocka prints on stdout, which is all that is read here:
    [==========] Running 2 test(s).
    [ RUN      ] name
    [       OK ] name           or FAILED, SKIPPED; nothing where a setup function failed
    [==========] 2 test(s) run.
"""

import collections
import json
import os
import re
import sys

Case = collections.namedtuple("Case", "program name outcome reason")

GROUP_BEGINS = re.compile(r"\[={10}\] .*\bRunning (\d+) test")
GROUP_ENDS = re.compile(r"\[={10}\] .*\btest\(s\) run")
TEST_BEGINS = re.compile(r"\[ RUN      \] (.+)$")
TEST_ENDS = re.compile(r"\[ +(OK|FAILED|SKIPPED) +\] (.+)$")
SKIP_REASON = re.compile(r"^skip: *(.*)$")
OUTCOMES = {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}

NO_REASON = "(no reason given)"
OUTPUT_LINES_MAX = 200
SLOWEST = 5
SKIPS_APART_MAX = 3
LABEL = re.compile(r" \((.+)\)$")


class CmockaReader:
    """Follows one program's output, group by group."""

    def __init__(self, program):
        self.program = program
        self.cases = []
        self.announced = 0
        self.seen = 0
        self.running = None
        self.reason, self.last_words = "", NO_REASON

    def end_test(self, outcome, reason=""):
        self.cases.append(Case(self.program, self.running, outcome, reason))
        self.seen += 1
        self.running = None

    def end_group(self):
        if self.running is not None:
            self.end_test("failed", "ended without a result")
        for number in range(self.seen, self.announced):
            name = "test %d of %d" % (number + 1, self.announced)
            self.cases.append(Case(self.program, name, "failed", "never ran"))
        self.announced = self.seen = 0

    def line(self, text):
        begins, ends = TEST_BEGINS.search(text), TEST_ENDS.search(text)
        group, reason = GROUP_BEGINS.search(text), SKIP_REASON.match(text)
        if group:
            self.end_group()
            self.announced = int(group.group(1))
        elif GROUP_ENDS.search(text):
            self.end_group()
        elif begins:
            if self.running is not None:
                self.end_test("failed", "ended without a result")
            self.running, self.reason, self.last_words = begins.group(1), "", NO_REASON
        elif ends and ends.group(2) == self.running:
            outcome = OUTCOMES[ends.group(1)]
            self.end_test(outcome, self.reason or self.last_words if outcome == "skipped" else "")
        elif reason:
            self.reason = reason.group(1)
        elif text.strip():
            self.last_words = text.strip()


def how_it_ended(entry):
    status = entry.get("returncode") or 0
    if entry["result"] == "TIMEOUT":
        return "timeout"
    return "signal %d" % -status if status < 0 else "exit status %d" % status


def plain_case(program, entry, stdout, stderr):
    result = entry["result"]
    if result in ("OK", "EXPECTEDFAIL"):
        return Case(program, "", "passed", "")
    if result != "SKIP":
        return Case(program, "", "failed", how_it_ended(entry))
    reasons = [SKIP_REASON.match(line) for line in (stdout + "\n" + stderr).splitlines()]
    reasons = [match.group(1) for match in reasons if match]
    return Case(program, "", "skipped", reasons[-1] if reasons else NO_REASON)


def program_cases(program, entry):
    stdout, stderr = entry.get("stdout") or "", entry.get("stderr") or ""
    reader = CmockaReader(program)
    for line in stdout.splitlines():
        reader.line(line)
    reader.end_group()
    if not reader.cases:
        return [plain_case(program, entry, stdout, stderr)]
    went_well = entry["result"] in ("OK", "SKIP", "EXPECTEDFAIL")
    if not went_well and all(case.outcome != "failed" for case in reader.cases):
        reader.cases.append(Case(program, "after its tests", "failed", how_it_ended(entry)))
    return reader.cases


def held_to_kvm(cases):
    """Where KVM works, not to find it is a failure."""
    for case in cases:
        if case.outcome == "skipped" and "/dev/kvm" in case.reason:
            case = case._replace(outcome="failed", reason="/dev/kvm works, skipped: " + case.reason)
        yield case


def program_name(label, name):
    """"project:room+fast / name" becomes "room/name"; other builds than the usual one are named."""
    suites, _, test = name.rpartition(" / ")
    rooms = [suite for suite in suites.rpartition(":")[2].split("+") if suite not in ("", "fast")]
    short = "/".join(rooms[:1] + [test])
    return short if label == "plain" else "%s (%s)" % (short, label)


def read_log(label, path):
    """Yields (program, seconds, cases, output) for each program of a log."""
    if not path:
        yield label, 0, [Case(label, "build", "failed", "does not build; see above")], ""
        return
    if not os.path.exists(path):
        yield label, 0, [Case(label, "", "failed", "no test ran")], ""
        return
    with open(path, encoding="utf-8", errors="replace") as log:
        entries = [json.loads(line) for line in log if line.strip()]
    for entry in entries:
        program = program_name(label, entry["name"])
        cases = program_cases(program, entry)
        if os.environ.get("DIRTYLOG_EXPECT_KVM") == "1":
            cases = list(held_to_kvm(cases))
        output = (entry.get("stdout") or "") + (entry.get("stderr") or "")
        yield program, entry.get("duration") or 0, cases, output


def print_cases(title, cases):
    if cases:
        print("\n" + title)
    for case in cases:
        print("  " + ": ".join(part for part in case[:2] + (case.reason,) if part))


def print_skips(cases):
    """One line for many tests of a build, or of a lab's kernel, that skip for the same reason."""
    groups = collections.OrderedDict()
    for case in cases:
        label = LABEL.search(case.program)
        groups.setdefault((label.group(1) if label else "", case.reason), []).append(case)
    if cases:
        print("\nskipped")
    for (label, reason), group in groups.items():
        if len(group) <= SKIPS_APART_MAX:
            for case in group:
                print("  " + ": ".join(part for part in case[:2] + (case.reason,) if part))
        else:
            print("  %d tests%s: %s" % (len(group), label and " of " + label, reason))


def print_output(program, output):
    lines = output.splitlines()
    print("\n---- output of %s" % program)
    if len(lines) > OUTPUT_LINES_MAX:
        print("(the last %d lines of %d)" % (OUTPUT_LINES_MAX, len(lines)))
    print("\n".join(lines[-OUTPUT_LINES_MAX:]))


def main(arguments):
    programs = [each for argument in arguments for each in read_log(*argument.split("=", 1))]
    cases = [case for each in programs for case in each[2]]
    by_outcome = {
        outcome: [case for case in cases if case.outcome == outcome]
        for outcome in ("passed", "failed", "skipped")
    }
    for program, _, its_cases, output in programs:
        if output and any(case.outcome == "failed" for case in its_cases):
            print_output(program, output)
    print("\nslowest")
    for program, seconds, _, _ in sorted(programs, key=lambda each: -each[1])[:SLOWEST]:
        print("  %6.1f s  %s" % (seconds, program))
    print_skips(by_outcome["skipped"])
    print_cases("failed", by_outcome["failed"])

    counts = {outcome: len(group) for outcome, group in by_outcome.items()}
    nothing_ran = counts["passed"] + counts["failed"] == 0
    if nothing_ran:
        print("\nno test ran")
    print("\n%(passed)d passed, %(failed)d failed, %(skipped)d skipped" % counts)
    return 1 if counts["failed"] or nothing_ran else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
