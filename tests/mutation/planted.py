#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Plants the defects of defects.py, one at a time, and reports how soon the simulation finds each.

A simulation that finds nothing proves something only if it would have found something. A defect
that it cannot find, for example because its guests are small, names the test program that must fail
instead. Those of the plan (plan_defects.py) are held by a rule of tests/convergence, mostly; those
of the limits of vCPUs (limit_defects.py) by unit tests.
"""

import argparse
import re
import sys
import time

sys.dont_write_bytecode = True

from defects import PLANTED  # noqa: E402
from limit_defects import LIMITS  # noqa: E402
from plan_defects import PLAN, RUNS  # noqa: E402
from workshop import TREE, Workshop, say  # noqa: E402

SIMULATION = "tests/simulation/simulation"
RUN_SECONDS_MAX = 120
ALL = PLANTED + PLAN + LIMITS


def other_program(defect):
    return defect[4] if len(defect) > 4 else None


def plant(text, old, new):
    """The broken text, or None if the defect does not fit the source any more."""
    for there, instead in zip(*((x,) if isinstance(x, str) else x for x in (old, new))):
        if text.count(there) != 1:
            return None
        text = text.replace(there, instead)
    return text


def simulate(shop, schedules):
    if not shop.compile(SIMULATION):
        return "does not compile:\n" + shop.output, ""
    ran = shop.run([shop.build / SIMULATION, "--schedules", schedules], RUN_SECONDS_MAX)
    found = re.search(r"^seed (\d+): ([^:]*): ", ran.output, re.M)
    if found:
        return f"after {found.group(1)}", found.group(2)
    return ("found", ran.how) if ran.failed else ("NOT FOUND", "")


def run_other(shop, test):
    """Runs a test program or a script of the copy. None: the program does not build."""
    if test.endswith(".py"):
        return shop.run([shop.source / "tests" / test], RUN_SECONDS_MAX)
    if not shop.compile(f"tests/{test}"):
        return None
    if test == RUNS:
        return shop.run([shop.source / "tests" / f"{RUNS}.py", "--program",
                         shop.build / "tests" / test, "--laws", "plan", "--seeds", "4"],
                        5 * RUN_SECONDS_MAX)
    return shop.run([shop.build / "tests" / test], RUN_SECONDS_MAX)


def hold(shop, test):
    """Whether another program fails, and which of its tests do."""
    ran = run_other(shop, test)
    if ran is None:
        return "NOT FOUND", shop.output
    if not ran.failed:
        return "NOT FOUND", f"nor by {test}"
    failed = re.findall(r"^(?:\[  FAILED  \]|LOST) (\w+)(?:$|: )", ran.output, re.M) or \
        re.findall(r"^(load \d+), plan", ran.output, re.M)
    return f"held by {test}", ", ".join(dict.fromkeys(failed)) or ran.how


def try_one(shop, defect, schedules):
    _, file, old, new, *_ = defect
    broken = plant((shop.source / "lib" / file).read_text(), old, new)
    if not broken:
        return "does not fit the source any more", ""
    with shop.broken(f"lib/{file}", broken):
        # The simulation has neither plans nor limits.
        when, how = simulate(shop, schedules) if defect in PLANTED else ("NOT FOUND", "")
        if when == "NOT FOUND" and other_program(defect):
            when, how = hold(shop, other_program(defect))
    return when, how


def check():
    """Whether every defect can be planted, and every other program that is named exists."""
    wrong = [f"{name}: does not fit lib/{file}" for name, file, old, new, *_ in ALL
             if not plant((TREE / "lib" / file).read_text(), old, new)]
    for defect in filter(other_program, ALL):
        room, program = other_program(defect).split("/")
        if other_program(defect) == RUNS:
            source = program + ".py"
        else:
            source = program if program.endswith(".py") else \
                "test_" + program.split("-", 1)[1] + ".c"
        if not (TREE / "tests" / room / source).exists():
            wrong.append(f"{defect[0]}: there is no tests/{room}/{source}")
    say("\n".join(wrong) or f"{len(ALL)} defects fit the source")
    return 1 if wrong else 0


def check_others(shop, chosen):
    """A program that fails without a defect can hold none."""
    for test in sorted({other_program(defect) for defect in chosen} - {None}):
        ran = run_other(shop, test)
        if ran is None or ran.failed:
            sys.exit(f"planted.py: tests/{test} fails with lib/ as it is")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--work", help="a directory for the copy and its build")
    parser.add_argument("--schedules", type=int, default=100000,
                        help="how many the simulation tries at most (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="only defects whose name contains this")
    parser.add_argument("--check", action="store_true",
                        help="only check that each defect still fits the source; builds nothing")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    if not arguments.work:
        parser.error("--work is required")
    chosen = [defect for defect in ALL if arguments.only in defect[0]]
    shop = Workshop(arguments.work)
    shop.prepare()
    check_others(shop, chosen)
    missed = 0
    for defect in chosen:
        begin = time.monotonic()
        when, how = try_one(shop, defect, arguments.schedules)
        missed += not when.startswith(("after", "found", "held"))
        say(f"| {defect[0]} | {when} | {how} | {time.monotonic() - begin:.0f} s |")
    say(f"{missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
