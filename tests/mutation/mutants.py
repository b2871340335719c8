#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Changes the library in one place at a time and checks whether the tests notice.

Each mutant of lib/ is compiled in a copy of the tree, and the fast tests run until one fails:
  killed      a test failed, crashed or hung
  survived    every test passed
  equivalent  the compiler made the same objects as from the original
  stillborn   it does not compile
survivors.md lists survivors that have been examined, and why they change nothing that matters. The
others are printed with their diffs, and make the exit status 1.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import operators  # noqa: E402
import report  # noqa: E402
from workshop import LIBRARY, TREE, Workshop, say  # noqa: E402

EXPLANATIONS = pathlib.Path(__file__).resolve().parent / "survivors.md"
# The rooms that may kill, the cheap ones first. One that does not exist is not an error.
ROOMS = ["unit", "tuning", "migrations", "abi", "simulation", "process", "race", "fuzz", "kvm"]
HANG_SECONDS_MIN = 15
HANG_FACTOR = 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--sample", type=int, metavar="N",
                        help="this many, spread evenly over the files")
    chosen.add_argument("--all", action="store_true", help="every mutant (hours)")
    chosen.add_argument("--id", action="append", help="this one (may be repeated)")
    parser.add_argument("--list", action="store_true", help="only list what would be tried")
    parser.add_argument("--check", action="store_true",
                        help="only see that each row of survivors.md names a mutant")
    parser.add_argument("--report", action="store_true", help="only print what --results contains")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample (default: 1)")
    parser.add_argument("--only", action="append", metavar="FILE",
                        help="only mutants of this file, as in lib/ring/ring.c or ring.c")
    parser.add_argument("--operator", action="append", choices=operators.OPERATORS)
    parser.add_argument("--results", type=pathlib.Path, metavar="FILE",
                        help="a JSON file; mutants that it already contains are not tried again")
    parser.add_argument("--again", action="store_true",
                        help="only try the unexplained survivors of --results again")
    parser.add_argument("--rooms", default=",".join(ROOMS),
                        help="the rooms whose tests may kill (default: %(default)s)")
    parser.add_argument("--work", type=pathlib.Path, metavar="DIR",
                        help="where to copy and build (default: a new temporary directory)")
    parser.add_argument("--minutes", type=float, help="start no mutant after this many minutes")
    parser.add_argument("--memory-mib", type=int, default=32768,
                        help="limit on the address space of a test (default: %(default)s)")
    return parser.parse_args()


def candidates(only, wanted):
    """The text of each file, and all mutants in the order of the files."""
    texts, found = {}, []
    for path in sorted((TREE / "lib").rglob("*.[ch]")):
        name = str(path.relative_to(TREE))
        if only and name not in only and path.name not in only:
            continue
        texts[name] = path.read_text()
        found += [m for m in operators.mutants(name, texts[name])
                  if not wanted or m.operator in wanted]
    return texts, found


def interleave(groups):
    """Takes one from each group in turn until all are used up."""
    queues = [collections.deque(group) for group in groups]
    while any(queues):
        for queue in queues:
            if queue:
                yield queue.popleft()


def shuffled_by(generator, mutants, key):
    groups = collections.defaultdict(list)
    for mutant in mutants:
        groups[key(mutant)].append(mutant)
    groups = list(groups.values())
    for group in groups:
        generator.shuffle(group)
    generator.shuffle(groups)
    return groups


def sample(mutants, n, seed):
    """A sample spread evenly over the files and, within a file, over the operators."""
    generator = random.Random(seed)
    by_file = collections.defaultdict(list)
    for mutant in mutants:
        by_file[mutant.file].append(mutant)
    queues = [interleave(shuffled_by(generator, group, lambda m: m.operator))
              for group in by_file.values()]
    chosen = [m for _, m in zip(range(n), interleave(queues))]
    # In the order of the files, so that less is compiled.
    return sorted(chosen, key=lambda m: (m.file, m.line))


class Results:
    def __init__(self, path):
        self.path = path
        self.data = {"baseline": {}, "mutants": {}}
        if path and path.exists():
            self.data = json.loads(path.read_text())

    def add(self, mutant, entry):
        self.data["mutants"][mutant.id] = entry
        self.save()

    def save(self):
        if self.path:
            temporary = self.path.with_suffix(".new")
            temporary.write_text(json.dumps(self.data, indent=1))
            temporary.replace(self.path)

    def kills(self):
        return collections.Counter(
            e["killer"] for e in self.data["mutants"].values() if e["status"] == "killed")


class Trial:
    """Runs the tests on mutants."""

    def __init__(self, shop, results, rooms, memory_bytes):
        self.shop, self.results, self.rooms = shop, results, rooms
        self.memory_bytes, self.without_limit = memory_bytes, set()
        self.killers, self.seconds = [], {}

    def run(self, test, seconds):
        limit = 0 if test.name in self.without_limit else self.memory_bytes
        return self.shop.run(test.command, seconds, limit)

    def baseline(self):
        """Selects the tests that pass on the original; no other test proves anything."""
        for test in self.shop.tests(self.rooms):
            if not self.shop.compile(test.target):
                say("not used, since it does not build: %s" % test.name)
                continue
            patience = 10 * HANG_SECONDS_MIN + test.timeout
            run = self.run(test, patience)
            if run.failed:
                # Some reserve more address space than any limit that would protect the machine.
                self.without_limit.add(test.name)
                run = self.run(test, patience)
            if run.how == "exit 0":
                self.killers.append(test)
                self.seconds[test.name] = run.seconds
            else:
                say("not used, since on the original it ends with %s: %s" % (run.how, test.name))
        self.results.data["baseline"] = self.seconds
        if not self.killers:
            sys.exit("no test can be used")

    def in_order(self, mutant, kills):
        """The file's own unit test first, then room by room the tests that kill most per second."""
        stem = pathlib.Path(mutant.file).stem

        def rank(killer):
            own = killer.name.removeprefix("unit-")
            is_own = killer.room == "unit" and (own.startswith(stem) or stem.startswith(own))
            worth = (kills[killer.name] + 1) / (self.seconds[killer.name] + 0.05)
            return (not is_own, self.rooms.index(killer.room), -worth)

        return sorted(self.killers, key=rank)

    def judge(self, mutant):
        if not self.shop.compile(LIBRARY):
            return {"status": "stillborn"}
        if self.shop.is_unchanged():
            return {"status": "equivalent"}
        for killer in self.in_order(mutant, self.results.kills()):
            if not self.shop.compile(killer.target):
                return {"status": "stillborn"}
            run = self.run(killer, HANG_SECONDS_MIN + HANG_FACTOR * self.seconds[killer.name])
            if run.failed:
                return {"status": "killed", "killer": killer.name, "how": run.how}
        return {"status": "survived", "rooms": self.rooms}

    def test(self, mutant, text):
        begin = time.monotonic()
        with self.shop.broken(mutant.file, operators.apply(text, mutant.edits)):
            entry = self.judge(mutant)
        entry.update(file=mutant.file, line=mutant.line, function=mutant.function,
                     operator=mutant.operator, seconds=round(time.monotonic() - begin, 1),
                     diff=operators.diff(mutant.file, text, mutant.edits))
        self.results.add(mutant, entry)
        report.progress(mutant, entry)


def choose(options, mutants, results):
    if options.id:
        return [m for m in mutants if m.id in options.id]
    done = results.data["mutants"]
    if options.again:
        explained = report.explained(EXPLANATIONS)
        return [m for m in mutants if m.id not in explained and
                done.get(m.id, {}).get("status") == "survived"]
    if not options.all:
        mutants = sample(mutants, options.sample or 100, options.seed)
    return [m for m in mutants if m.id not in done or options.list]


def main():
    options = arguments()
    results = Results(options.results)
    texts, mutants = candidates(options.only, options.operator)
    if options.check:
        return report.check(mutants, EXPLANATIONS)
    if options.report:
        return report.summary(results.data, mutants, EXPLANATIONS)
    outstanding = choose(options, mutants, results)
    if options.list:
        report.listing(outstanding, texts)
        return 0
    os.nice(10)
    begin = time.monotonic()
    shop = Workshop(options.work or tempfile.mkdtemp(prefix="dirtylog-mutation-"))
    say("working in %s" % shop.directory)
    shop.prepare()
    shop.note_objects()
    trial = Trial(shop, results, options.rooms.split(","), options.memory_mib << 20)
    trial.baseline()
    say("%d mutants of %d, %d tests" % (len(outstanding), len(mutants), len(trial.killers)))
    for mutant in outstanding:
        if options.minutes and time.monotonic() - begin > 60 * options.minutes:
            say("out of time; the same command continues from here")
            break
        trial.test(mutant, texts[mutant.file])
    return report.summary(results.data, mutants, EXPLANATIONS)


if __name__ == "__main__":
    sys.exit(main())
