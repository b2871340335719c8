#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Weakens every memory order of lib/, one at a time, and reports which checker notices.

Fences are removed; each memory_order_acquire, _release, _acq_rel and _seq_cst is replaced by every
weaker order in turn (acq_rel: acquire, release, relaxed), in a copy of the tree that is built with
the thread sanitizer. These checkers run until one fails:
  protocols.py  an exhaustive search of small programs that take their orders from that copy
  race-cells, race-pairs, race-stop  a race for each order, which the sanitizer reports
  race-drains, race-actors   everything at once (only with --actors: they take longer)
All of them must first pass with lib/ as it is. The last lines list what no checker noticed; the
exit status is 0 only if there is nothing to list.

Orders that exist only in builds for the sanitizer (#ifdef DLI_TSAN) are left out.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

from workshop import TREE, Workshop, say  # noqa: E402

LIB = TREE / "lib"
TSAN = ("--buildtype=plain", "-Doptimization=1", "-Ddebug=true", "-Db_sanitize=thread")

WEAKER = {
    "acquire": ["relaxed"],
    "release": ["relaxed"],
    "acq_rel": ["release", "acquire", "relaxed"],
    "seq_cst": ["release", "relaxed"],
}
ORDER = re.compile(r"memory_order_(acquire|release|acq_rel|seq_cst|consume)\b")
FENCE = re.compile(r"\batomic_(thread|signal)_fence\s*\([^;]*\);")
# Sequentially consistent by default.
IMPLICIT = re.compile(
    r"\batomic_(load|store|exchange|flag_\w+|compare_exchange_(strong|weak)"
    r"|fetch_(add|sub|or|and|xor))\s*\("
    r"|\b__sync_\w+|\b__atomic_\w+"
)
# Code that exists only in builds for the sanitizer.
TSAN_ONLY = re.compile(r"(?<=#ifdef DLI_TSAN\n).*?(?=^#(else|endif))", re.S | re.M)

PROGRAMS = ["race-cells", "race-pairs", "race-stop"]


class Mutant:
    def __init__(self, path, line, begin, end, kind, text):
        self.path, self.line, self.begin, self.end = path, line, begin, end
        self.kind, self.text = kind, text

    def __str__(self):
        return f"{self.path.relative_to(LIB)}:{self.line} {self.kind}"


def code_of(source):
    """The text with comments and sanitizer-only code blanked; offsets stay the same."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return TSAN_ONLY.sub(blank, re.sub(r"/\*.*?\*/|//[^\n]*", blank, source, flags=re.S))


def find_mutants():
    """All mutants, and the atomic accesses that no pattern here can weaken."""
    mutants, strangers = [], []
    for path in sorted(LIB.rglob("*.[ch]")):
        source = code_of(path.read_text())
        line_of = lambda at, s=source: s.count("\n", 0, at) + 1
        fences = list(FENCE.finditer(source))
        for m in fences:
            mutants.append(
                Mutant(path, line_of(m.start()), m.start(), m.end(), "fence -> none", ";"))
        for m in ORDER.finditer(source):
            if any(f.start() <= m.start() < f.end() for f in fences):
                continue
            for weak in WEAKER.get(m.group(1), []):
                mutants.append(
                    Mutant(path, line_of(m.start()), m.start(), m.end(),
                           f"{m.group(1)} -> {weak}", f"memory_order_{weak}"))
        strangers += [f"{path.relative_to(LIB)}:{line_of(m.start())} {m.group()}"
                      for m in IMPLICIT.finditer(source)]
    return sorted(mutants, key=lambda m: (str(m.path), m.begin)), strangers


def last_test(output):
    """The name of the test that was running at the end."""
    names = re.findall(r"\[ RUN +\] (\w+)", output)
    return names[-1] if names else "?"


class Checks:
    def __init__(self, shop, programs, timeout_s):
        self.shop, self.timeout_s = shop, timeout_s
        self.names = ["protocols"] + programs
        self.targets = [f"tests/race/{name}" for name in programs]
        self.env = dict(CMOCKA_MESSAGE_OUTPUT="stdout", TSAN_OPTIONS=(
            f'suppressions="{TREE}/tests/tsan.supp" halt_on_error=1 exitcode=66'))
        # The sanitizer does not start if the kernel randomises addresses by many bits.
        fixed = subprocess.run(["setarch", "-R", "true"], stderr=subprocess.DEVNULL, check=False)
        self.under = ["setarch", "-R"] if fixed.returncode == 0 else []

    def run_one(self, name):
        """None if it passed, otherwise which test failed, and how."""
        if name == "protocols":
            command = [sys.executable, self.shop.source / "tests/race/protocols.py"]
        else:
            command = self.under + [self.shop.build / "tests/race" / name]
        ran = self.shop.run(command, self.timeout_s, env=self.env)
        if ran.how == "exit 0":
            return None
        if ran.how == "hang":
            return f"{name} (does not end)"
        if name == "protocols":
            failed = re.findall(r"^LOST +(\w+)", ran.output, re.M)
            return f"{name}: {', '.join(failed) or ran.output[-200:]}"
        how = "race" if "ThreadSanitizer: data race" in ran.output else (
            "use after free" if "heap-use-after-free" in ran.output else "failure")
        return f"{name}: {last_test(ran.output)} ({how})"

    def run(self, every):
        if not self.shop.compile(*self.targets):
            sys.exit("orderings.py: the build failed:\n" + self.shop.output)
        found = []
        for name in self.names:
            failure = self.run_one(name)
            if failure:
                found.append(failure)
                if not every:
                    break
        return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="only list what would be weakened")
    parser.add_argument("--only", metavar="PATTERN", default="",
                        help='only mutants that match, for example "ring.*acquire"')
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"),
                        help="the compiler (default: $CC, or gcc)")
    parser.add_argument("--build-dir", metavar="DIR", type=Path, default=TREE / "build-orderings",
                        help="for the copy and its build (default: build-orderings)")
    parser.add_argument("--jobs", metavar="N", type=int, default=2,
                        help="compilers at a time (default: %(default)s)")
    parser.add_argument("--every", action="store_true",
                        help="run the other checkers after one noticed, too")
    parser.add_argument("--actors", action="store_true",
                        help="run race-drains and race-actors last, too")
    parser.add_argument("--timeout", metavar="S", type=int, default=120,
                        help="limit on the seconds of a program (default: %(default)s)")
    return parser.parse_args()


def weakened(mutant):
    text = mutant.path.read_text()
    return text[:mutant.begin] + mutant.text + text[mutant.end:]


def main():
    args = arguments()
    mutants, strangers = find_mutants()
    mutants = [m for m in mutants if re.search(args.only, str(m))]
    if args.list:
        say("\n".join(str(m) for m in mutants))
        return 0
    if strangers:
        sys.exit("orderings.py: an atomic without a memory order: " + "; ".join(strangers))
    shop = Workshop(args.build_dir, TSAN, args.jobs, args.cc)
    shop.prepare()
    checks = Checks(shop, PROGRAMS + (["race-drains", "race-actors"] if args.actors else []),
                    args.timeout)
    wrong = checks.run(True)
    if wrong:
        sys.exit("orderings.py: fails with lib/ as it is: " + "; ".join(wrong))
    missed, begin = [], time.monotonic()
    for mutant in mutants:
        with shop.broken(str(mutant.path.relative_to(TREE)), weakened(mutant)):
            found = checks.run(args.every)
        say(f"{str(mutant):46} {'; '.join(found) or 'NOT REPORTED'}")
        if not found:
            missed.append(str(mutant))
    say(f"{len(mutants)} weakened, {len(mutants) - len(missed)} reported, {len(missed)} not, "
        f"in {time.monotonic() - begin:.0f} s")
    for name in missed:
        say(f"not reported: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
