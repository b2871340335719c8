#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The probes of lib/kvm/trace.h: they are documented, and gdb sees each of them.

Usage: tracing.py TREE LIBRARY PROGRAM

The probes in LIBRARY's ELF notes, in trace.h and in doc/tracing.md are the same, with the same
number of arguments. Then gdb counts them while PROGRAM (traced.c) runs, which prints what the
library's own counters say.
"""

import collections
import pathlib
import re
import shutil
import subprocess
import sys

SKIP = 77


def skip(reason):
    print(f"skip: {reason}")
    sys.exit(SKIP)


def in_notes(library):
    """The number of arguments of each probe."""
    notes = subprocess.run(["readelf", "--wide", "-n", library], capture_output=True, text=True,
                           check=True).stdout
    found = re.findall(r"Provider: dirtylog\s+Name: (\w+)\s+Location:.*\n\s+Arguments: (.*)", notes)
    return {name: len(arguments.split()) for name, arguments in found}


def in_header(tree):
    text = (tree / "lib/kvm/trace.h").read_text()
    found = re.findall(r"DTRACE_PROBE(\d)\(dirtylog, (\w+)", text)
    return {name: int(n) for n, name in found}


def in_document(tree):
    """Rows of a table: | `name` | when | `argument`, `argument` |"""
    text = (tree / "doc/tracing.md").read_text()
    found = re.findall(r"^\| `(\w+)` \|[^|]*\| ([^|]*) \|$", text, re.MULTILINE)
    return {name: arguments.count("`") // 2 for name, arguments in found}


def hits(program, names):
    """How often gdb sees each probe, and what the program prints."""
    command = ["gdb", "-nx", "-batch", "-ex", "set breakpoint pending on",
               "-ex", "set auto-load off", "-ex", "set debuginfod enabled off"]
    for name in names:
        command += ["-ex", f"break -probe-stap dirtylog:{name}",
                    "-ex", "python last = gdb.breakpoints()[-1]; last.silent = True",
                    "-ex", f'python last.commands = "echo probe {name}\\\\n\\ncontinue"']
    run = subprocess.run(command + ["-ex", "run", program], capture_output=True, text=True,
                         timeout=120, check=False)
    said = dict(re.findall(r"^(\w+) (\d+)$", run.stdout, re.MULTILINE))
    if "ptrace" in run.stderr:
        skip("gdb may not trace here")
    return (collections.Counter(re.findall(r"^probe (\w+)$", run.stdout, re.MULTILINE)),
            {name: int(n) for name, n in said.items()}, run)


def main():
    tree, library, program = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    header = in_header(tree)
    assert len(header) == 7, header
    assert in_document(tree) == header, f"doc/tracing.md: {in_document(tree)}, trace.h: {header}"
    notes = in_notes(library)
    if not notes:
        skip("built without sys/sdt.h")
    assert notes == header, f"{library}: {notes}, trace.h: {header}"
    if not shutil.which("gdb"):
        skip("gdb is not installed")
    seen, said, run = hits(program, list(header))
    assert said.get("passes"), run.stdout + run.stderr
    expected = {"harvest_begin": said["passes"], "harvest_end": said["passes"]}
    expected |= {name: said[name] for name in header if name in said}
    assert seen == expected, f"gdb saw {dict(seen)}, the library counted {expected}"
    print(f"{sum(seen.values())} hits of {len(seen)} probes")


main()
