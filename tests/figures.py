#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures how strong the tests are, and writes the table of doc/testing.md.

Without MEASURE it lists what there is. Each measure replaces its own rows of the table and leaves
the others as they are, with the commit that they were measured at. Some take long: run those that a
change concerns.
"""

import argparse
import collections
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
DOCUMENT = TOP / "doc/testing.md"
MUTATION = TOP / "tests/mutation"
BEGIN, END = "<!-- figures: begin, written by tests/figures.py -->", "<!-- figures: end -->"
HEAD = ["| what | figure | seconds | at |", "| --- | --- | --- | --- |"]

Row = collections.namedtuple("Row", "what figure seconds")


def run(*command, check=True, **more):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False, **more)
    if check and done.returncode:
        sys.exit(f"figures.py: {command[0]} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def build(args, *targets):
    if not (args.build_dir / "build.ninja").exists():
        run("meson", "setup", "-Dtests=true", args.build_dir, TOP)
    run("ninja", "-C", args.build_dir, *targets)


def find(pattern, output):
    """The groups of a pattern. The output may have taken an hour: do not lose it."""
    found = re.search(pattern, output, re.M)
    if not found:
        sys.exit(f"figures.py: nothing like {pattern!r} in what was printed:\n{output[-2000:]}")
    return found.groups()


def suites(args):
    """what the fast suite counts, room by room"""
    build(args)
    begin = time.monotonic()
    run("meson", "test", "-C", args.build_dir, "--suite", "fast", check=False)
    seconds = time.monotonic() - begin
    with open(args.build_dir / "meson-logs/testlog.json", encoding="utf-8") as log:
        entries = [json.loads(line) for line in log]
    rooms = collections.Counter()
    passed = failed = skipped = 0
    for entry in entries:
        # As the project has no subprojects, a name is "project:suite+suite / test".
        room = re.sub(r"^.*:|\+.*", "", entry["name"].split(" / ")[0])
        output = entry.get("stdout") or ""
        tests = sum(map(int, re.findall(r"\] (\d+) test\(s\) run\.", output))) or 1
        rooms[room] += tests
        failed += entry["result"] not in ("OK", "SKIP")
        skipped += len(re.findall(r"^\[  SKIPPED \] \w", output, re.M)) or entry["result"] == "SKIP"
        passed += tests
    text = ", ".join(f"{room} {n}" for room, n in sorted(rooms.items()))
    yield Row("fast suite: tests", f"{passed} in {len(entries)} programs, {failed} programs "
              f"failed, {skipped} skipped ({text})", seconds)


def simulation(args):
    """a minute of schedules"""
    build(args, "tests/simulation/simulation")
    begin = time.monotonic()
    output = run(args.build_dir / "tests/simulation/simulation", "--schedules", args.schedules,
                 "--jobs", os.cpu_count(), check=False)
    overwritten, faulty = find(r"(\d+) with cells overwritten, (\d+) with faults", output)
    failed, = find(r"^(\d+) failed", output)
    yield Row("simulation: schedules", f"{args.schedules}, {overwritten} with an overflow, "
              f"{faulty} with faults: {failed} failed", time.monotonic() - begin)


def planted(args):
    """every planted defect (an hour)"""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        output = run(MUTATION / "planted.py", "--work", work, check=False)
    after = [int(n) for n in re.findall(r"^\| .* \| after (\d+) \|", output, re.M)]
    ends = len(re.findall(r"^\| .* \| found \|", output, re.M))
    held = len(re.findall(r"^\| .* \| held by ", output, re.M))
    missed = int(*find(r"^(\d+) not found", output))
    total, found = len(after) + ends + held + missed, len(after) + ends
    early = sum(n <= 100 for n in after) + ends
    yield Row("planted defects", f"{total}: {found} found by the simulation ({early} within 100 "
              f"schedules), {held} by a named program, {missed} not found",
              time.monotonic() - begin)


def orderings(args):
    """every memory order, weakened (ten minutes)"""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        output = run(MUTATION / "orderings.py", "--build-dir", Path(work) / "build", check=False)
    weakened, reported = find(r"(\d+) weakened, (\d+) reported", output)
    yield Row("memory orders", f"{weakened} weakened, {reported} reported",
              time.monotonic() - begin)


def mutants(args):
    """a sample of mutants, against the unit tests (minutes)"""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        output = run(MUTATION / "mutants.py", "--sample", args.mutants,
                     "--seed", args.seed, "--rooms", "unit,tuning,migrations,simulation",
                     "--work", work, "--results", Path(work) / "results.json", check=False)
    survived, explained = find(r"(\d+) survived, of which (\d+) are explained", output)
    yield Row(f"mutants, a sample of {args.mutants} (seed {args.seed})",
              f"{survived} survived, {explained} of them explained", time.monotonic() - begin)


def coverage(args):
    """lines, branches and functions of lib/ that the fast suite reaches"""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        directory = Path(work) / "coverage"
        run("meson", "setup", directory, TOP, "-Dtests=true", "-Db_coverage=true")
        run("ninja", "-C", directory)
        run("meson", "test", "-C", directory, "--suite", "fast", "--no-suite", "examples",
            check=False)
        summary = json.loads(run("gcovr", "-r", TOP, "--object-directory", directory, "--filter",
                                 str(TOP / "lib/"), "--json-summary", cwd=directory))
    yield Row("coverage of lib/", ", ".join(
        f"{summary[kind + '_covered']} of {summary[kind + '_total']} {name}"
        for kind, name in (("line", "lines"), ("branch", "branches"), ("function", "functions"))
        if kind + "_total" in summary), time.monotonic() - begin)


def faults(args):
    """every call that the library makes, failing once in every way"""
    build(args, "tests/process/process-faults")
    begin = time.monotonic()
    output = run(args.build_dir / "tests/process/process-faults", "--long")
    tours, = find(r"^(\d+) tours with a fault", output)
    yield Row("faults: tours with one injected", tours, time.monotonic() - begin)


MEASURES = {f.__name__: f for f in
            (suites, simulation, faults, orderings, planted, mutants, coverage)}


def written_rows(text):
    """{what: line} of the table as it stands."""
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[len(HEAD):]
    return {line.split("|")[1].strip(): line for line in lines}


def write(rows, at):
    text = DOCUMENT.read_text(encoding="utf-8")
    table = written_rows(text)
    for row in rows:
        kind = re.sub(r"[,:(].*", "", row.what)
        for old in [what for what in table if re.sub(r"[,:(].*", "", what) == kind]:
            del table[old]
        table[row.what] = f"| {row.what} | {row.figure} | {row.seconds:.0f} | {at} |"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text("\n".join([before + BEGIN, *HEAD, *table.values(), END]) + after,
                        encoding="utf-8")


def main():
    listing = "\n".join(f"  {name:11} {f.__doc__}" for name, f in MEASURES.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog="measures:\n" + listing,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", nargs="*", metavar="MEASURE", choices=[*MEASURES, []])
    parser.add_argument("--document", action="store_true",
                        help="write the rows into doc/testing.md")
    parser.add_argument("--build-dir", type=Path, default=TOP / "build", metavar="DIR",
                        help="default: build")
    parser.add_argument("--schedules", type=int, default=500000, metavar="N",
                        help="of the simulation; default: %(default)s")
    parser.add_argument("--mutants", type=int, default=200, metavar="N",
                        help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1,
                        help="of the mutants; default: %(default)s")
    args = parser.parse_args()
    if not args.measure:
        print("Measures; tests/figures.py --help tells more:\n" + listing)
        return
    commit = run("git", "-C", TOP, "rev-parse", "--short", "HEAD").strip()
    at = f"{commit}, {datetime.date.today().isoformat()}"
    for name in args.measure:
        rows = list(MEASURES[name](args))
        for row in rows:
            print(f"{row.what}: {row.figure} ({row.seconds:.0f} s)", flush=True)
        if args.document:
            write(rows, at)


if __name__ == "__main__":
    main()
