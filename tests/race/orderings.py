#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Weakens every memory ordering of lib/, one at a time, and tells which checker notices.

A site is a memory_order_acquire, _release, _acq_rel or _seq_cst in lib/, or a fence. Of each the
weaker ones are built in its place (acq_rel: acquire, release, relaxed), in a copy of lib/, with the
thread sanitizer. Then come, until one fails:
  protocols.py  an exhaustive search of small programs that take their orderings from that copy
  race-cells, race-pairs, race-stop  a race for each ordering, which the sanitizer reports
  race-drains, race-actors   everything at once (only with --actors: it takes longer)
First all of them have to pass with lib/ as it is. The last lines list what nothing noticed; the exit
status is 0 only if that is nothing.

Orderings that only builds for the sanitizer have (#ifdef DLI_TSAN) are left out.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOM = Path(__file__).resolve().parent
TOP = ROOM.parent.parent
LIB = TOP / "lib"

WEAKER = {
    "acquire": ["relaxed"],
    "release": ["relaxed"],
    "acq_rel": ["release", "acquire", "relaxed"],
    "seq_cst": ["release", "relaxed"],
}
ORDER = re.compile(r"memory_order_(acquire|release|acq_rel|seq_cst|consume)\b")
FENCE = re.compile(r"\batomic_(thread|signal)_fence\s*\([^;]*\);")
# Sequentially consistent without saying so.
IMPLICIT = re.compile(
    r"\batomic_(load|store|exchange|flag_\w+|compare_exchange_(strong|weak)|fetch_(add|sub|or|and|xor))\s*\("
    r"|\b__sync_\w+|\b__atomic_\w+"
)
# What only builds for the sanitizer have.
TSAN_ONLY = re.compile(r"(?<=#ifdef DLI_TSAN\n).*?(?=^#(else|endif))", re.S | re.M)

MODEL = "bitmap caps fault guest memslot model pages ring truth vm".split()
PROGRAMS = ["race-cells", "race-pairs", "race-stop"]


class Mutant:
    def __init__(self, path, line, begin, end, kind, text):
        self.path, self.line, self.begin, self.end = path, line, begin, end
        self.kind, self.text = kind, text

    def __str__(self):
        return f"{self.path.relative_to(LIB)}:{self.line} {self.kind}"


def code_of(source):
    """The same text with comments, and what only the sanitizer sees, blanked, so that offsets stay."""
    blank = lambda m: re.sub(r"[^\n]", " ", m.group())
    return TSAN_ONLY.sub(blank, re.sub(r"/\*.*?\*/|//[^\n]*", blank, source, flags=re.S))


def find_mutants():
    """All mutants, and the places that no pattern here can weaken."""
    mutants, strangers = [], []
    for path in sorted(LIB.rglob("*.[ch]")):
        source = code_of(path.read_text())
        line_of = lambda at, s=source: s.count("\n", 0, at) + 1
        fences = list(FENCE.finditer(source))
        for m in fences:
            mutants.append(Mutant(path, line_of(m.start()), m.start(), m.end(), "fence -> none", ";"))
        for m in ORDER.finditer(source):
            if any(f.start() <= m.start() < f.end() for f in fences):
                continue
            for weak in WEAKER.get(m.group(1), []):
                mutants.append(
                    Mutant(path, line_of(m.start()), m.start(), m.end(),
                           f"{m.group(1)} -> {weak}", f"memory_order_{weak}"))
        strangers += [f"{path.relative_to(LIB)}:{line_of(m.start())} {m.group()}" for m in IMPLICIT.finditer(source)]
    return sorted(mutants, key=lambda m: (str(m.path), m.begin)), strangers


class Build:
    """Objects of everything, made once; of a mutant only what it touches."""

    def __init__(self, directory, cc, jobs):
        self.directory, self.jobs = directory, jobs
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "liburcu-bp", "cmocka"],
                               check=True, capture_output=True, text=True).stdout.split()
        self.compile = [cc, "-fsanitize=thread", "-O1", "-g", "-std=gnu11", "-D_GNU_SOURCE", "-w",
                        "-pthread"] + [f for f in flags if not f.startswith("-l")]
        self.libs = [f for f in flags if f.startswith("-l")]
        self.lib = directory / "lib"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(LIB, self.lib)
        self.lib_objects = {str(p.relative_to(LIB)): directory / f"lib-{p.parent.name}-{p.stem}.o"
                            for p in LIB.rglob("*.c")}
        tests = {f"model-{n}": TOP / f"tests/model/{n}.c" for n in MODEL}
        tests |= {"senders": ROOM / "senders.c", "guest": TOP / "tests/unit/guest.c", "checker": TOP / "tests/migrations/checker.c"}
        self.test_objects = {directory / f"{n}.o": p for n, p in tests.items()}
        self.mains = {directory / f"{n}.o": ROOM / f"test_{n[5:]}.c" for n in PROGRAMS}

    def run(self, commands):
        commands, running = list(commands), []
        while commands or running:
            while commands and len(running) < self.jobs:
                running.append(subprocess.Popen(commands.pop(0)))
            if running.pop(0).wait():
                sys.exit("orderings.py: the build failed")

    def objects(self, pairs):
        include = [f"-I{p}" for p in (self.lib, TOP / "include", TOP / "tests/model",
                                      TOP / "tests/unit", TOP / "tests/migrations")]
        self.run(self.compile + include + ["-c", str(source), "-o", str(obj)] for obj, source in pairs)

    def link(self):
        common = list(self.lib_objects.values()) + list(self.test_objects)
        self.run(self.compile + [str(main)] + [str(o) for o in common] + self.libs +
                 ["-o", str(main.with_suffix(""))] for main in self.mains)

    def all(self):
        self.objects([(o, self.lib / n) for n, o in self.lib_objects.items()])
        self.objects(list(self.test_objects.items()) + list(self.mains.items()))
        self.link()

    def touched(self, name):
        """Rebuilds what a changed file of lib/ is part of."""
        if name.endswith(".c"):
            self.objects([(self.lib_objects[name], self.lib / name)])
        else:
            self.objects([(o, self.lib / n) for n, o in self.lib_objects.items()])
            self.objects(self.mains.items())
        self.link()


def last_test(output):
    """The name of the test that was running, and what the sanitizer said of it."""
    names = re.findall(r"\[ RUN +\] (\w+)", output)
    return names[-1] if names else "?"


class Checks:
    def __init__(self, build, timeout_s):
        self.build, self.timeout_s = build, timeout_s
        self.env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="stdout", TSAN_OPTIONS=(
            f'suppressions="{TOP}/tests/tsan.supp" halt_on_error=1 exitcode=66'))
        # The sanitizer does not start where the kernel randomises addresses by many bits.
        fixed = subprocess.run(["setarch", "-R", "true"], stderr=subprocess.DEVNULL)
        self.under = ["setarch", "-R"] if fixed.returncode == 0 else []

    def run_one(self, name):
        """None: it passed. Else who failed, and how."""
        if name == "protocols":
            command = [sys.executable, str(ROOM / "protocols.py"), "--lib", str(self.build.lib)]
        else:
            command = self.under + [str(self.build.directory / name)]
        try:
            done = subprocess.run(command, env=self.env, stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.STDOUT, timeout=self.timeout_s, errors="replace")
        except subprocess.TimeoutExpired:
            return f"{name} (does not end)"
        if not done.returncode:
            return None
        if name == "protocols":
            failed = re.findall(r"^LOST +(\w+)", done.stdout, re.M)
            return f"{name}: {', '.join(failed) or done.stdout[-200:]}"
        how = "race" if "ThreadSanitizer: data race" in done.stdout else (
            "use after free" if "heap-use-after-free" in done.stdout else "failure")
        return f"{name}: {last_test(done.stdout)} ({how})"

    def run(self, names, every):
        found = []
        for name in names:
            said = self.run_one(name)
            if said:
                found.append(said)
                if not every:
                    break
        return found


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list what would be weakened, and end")
    parser.add_argument("--only", metavar="PATTERN", default="",
                        help='only mutants that match, as "ring.*acquire"')
    parser.add_argument("--cc", default=os.environ.get("CC", "gcc"), help="compiler; default: $CC, or gcc")
    parser.add_argument("--build-dir", metavar="DIR", type=Path, default=TOP / "build-orderings",
                        help="emptied, and built in; default: build-orderings")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="compilers at once; default: 2")
    parser.add_argument("--every", action="store_true", help="run all checkers, also after one noticed")
    parser.add_argument("--actors", action="store_true", help="run race-actors too, as the last")
    parser.add_argument("--timeout", metavar="S", type=int, default=120, help="of a program; default: 120")
    return parser.parse_args()


def main():
    args = arguments()
    mutants, strangers = find_mutants()
    mutants = [m for m in mutants if re.search(args.only, str(m))]
    if args.list:
        print("\n".join(str(m) for m in mutants))
        return 0
    if strangers:
        sys.exit("orderings.py: an atomic without an ordering: " + "; ".join(strangers))
    if args.actors:
        PROGRAMS.extend(["race-drains", "race-actors"])
    names = ["protocols"] + PROGRAMS
    build = Build(args.build_dir.resolve(), args.cc, args.jobs)
    build.all()
    checks = Checks(build, args.timeout)
    wrong = checks.run(names, True)
    if wrong:
        sys.exit("orderings.py: fails with lib/ as it is: " + "; ".join(wrong))
    missed, begin = [], time.monotonic()
    for mutant in mutants:
        original, name = mutant.path.read_text(), str(mutant.path.relative_to(LIB))
        copy = build.lib / name
        copy.write_text(original[:mutant.begin] + mutant.text + original[mutant.end:])
        build.touched(name)
        found = checks.run(names, args.every)
        copy.write_text(original)
        build.touched(name) if mutant.path.suffix == ".h" else build.objects(
            [(build.lib_objects[name], copy)])
        print(f"{str(mutant):46} {'; '.join(found) or 'NOT REPORTED'}", flush=True)
        if not found:
            missed.append(str(mutant))
    print(f"{len(mutants)} weakened, {len(mutants) - len(missed)} reported, {len(missed)} not, "
          f"in {time.monotonic() - begin:.0f} s")
    for name in missed:
        print(f"not reported: {name}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
