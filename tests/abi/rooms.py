#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the rooms of lib/: includes and calls go down, never up and never in a circle, and all
global symbols of the static library have the project's prefix.

Arguments: the directory lib/, the static library. Includes are read from the sources, calls from
the symbols of the objects. First the checks must find the faults in small trees that are wrong.
"""

import collections
import re
import subprocess
import sys
from pathlib import Path

# From the top. Files directly in lib/ are the state that the public calls share.
ROOMS = ["api", ".", "ring", "pages", "plan", "kvm"]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
PREFIX = re.compile(r"^_?dli?_")
# The compiler's and the sanitizers' own, and a weak symbol of sys/sdt.h.
RESERVED = re.compile(r"^(__|\.|_GLOBAL_|_\.stapsdt\.base$)")


def room_of(name):
    """The rank of a file's room, 0 at the top; None if it is in no known room."""
    room = str(Path(name).parent)
    return ROOMS.index(room) if room in ROOMS else None


def sources(lib):
    return {str(p.relative_to(lib)): p.read_text() for p in sorted(lib.rglob("*.[ch]"))}


def include_edges(files):
    """{file: the files of lib/ that it includes}, and what is wrong with the includes."""
    edges, faults = collections.defaultdict(set), []
    for name, text in files.items():
        if room_of(name) is None:
            faults.append(f"{name}: in no room; the rooms are {', '.join(ROOMS)}")
        for included in INCLUDE.findall(text):
            if included not in files:
                faults.append(f'{name}: includes "{included}", which is not a path below lib/')
            else:
                edges[name].add(included)
    return edges, faults


def call_edges(members):
    """{file: the files whose symbols it uses}. members: {file: (defined, undefined symbols)}."""
    home = {symbol: name for name, (defined, _) in members.items() for symbol in defined}
    edges = collections.defaultdict(set)
    for name, (_, undefined) in members.items():
        edges[name] |= {home[s] for s in undefined if s in home and home[s] != name}
    return edges


def upward(edges, verb):
    return [f"{name} {verb} {other}, which is above it"
            for name, others in sorted(edges.items()) for other in sorted(others)
            if room_of(name) is not None and room_of(other) is not None
            and room_of(other) < room_of(name)]


def circles(edges, verb):
    """Every pair of files that reach each other."""
    reach = {name: set(others) for name, others in edges.items()}
    grown = True
    while grown:
        grown = False
        for others in reach.values():
            more = set().union(*(reach.get(o, set()) for o in others)) - others
            others |= more
            grown |= bool(more)
    return [f"{a} and {b} {verb} each other, perhaps by way of others"
            for a in sorted(reach) for b in sorted(reach[a])
            if a < b and a in reach.get(b, set())]


def members_of(library, files):
    """{file: (defined, undefined symbols)} of an archive. Meson names an object api_log.c.o."""
    objects = {name.replace("/", "_") + ".o": name for name in files if name.endswith(".c")}
    members = {name: (set(), set()) for name in objects.values()}
    listed = subprocess.run(["nm", "-A", library], check=True, stdout=subprocess.PIPE,
                            text=True).stdout
    for line in listed.splitlines():
        found = re.match(r".*:([^:]+\.o):\s*[0-9a-f]* +([A-Za-z]) (\S+)", line)
        if not found or found.group(1) not in objects:
            raise ValueError("no source for this line of nm: " + line)
        kind, symbol = found.group(2), found.group(3)
        if kind == "U":
            members[objects[found.group(1)]][1].add(symbol)
        elif kind.isupper():
            members[objects[found.group(1)]][0].add(symbol)
    return members


def foreign_symbols(members):
    return [f"{name}: the global symbol {symbol} begins neither with dl_ nor with dli_"
            for name, (defined, _) in sorted(members.items()) for symbol in sorted(defined)
            if not PREFIX.match(symbol) and not RESERVED.match(symbol)]


def check(files, members):
    includes, faults = include_edges(files)
    calls = call_edges(members)
    return (faults + upward(includes, "includes") + circles(includes, "include")
            + upward(calls, "calls into") + circles(calls, "call") + foreign_symbols(members))


def show_that_it_fails():
    """Runs the checks on small trees, each with one fault that they must find."""
    good = {"api/a.c": '#include "ring/r.h"\n', "ring/r.h": "", "ring/r.c": '#include "kvm/k.h"\n',
            "kvm/k.h": "", "kvm/k.c": "", "kvm/m.c": ""}
    symbols = {"api/a.c": ({"dl_a"}, {"dli_r"}), "ring/r.c": ({"dli_r"}, {"dli_k", "ioctl"}),
               "kvm/k.c": ({"dli_k"}, set()), "kvm/m.c": ({"dli_m"}, set())}
    wrong = {
        "an include that goes up": ({"kvm/k.h": '#include "ring/r.h"\n'}, {}),
        "an include of no room": ({"kvm/k.h": '#include "r.h"\n'}, {}),
        "a file in no room": ({"attic/x.c": ""}, {}),
        "headers in a circle": ({"kvm/k.h": '#include "kvm/m.h"\n',
                                 "kvm/m.h": '#include "kvm/k.h"\n'}, {}),
        "a call that goes up": ({}, {"kvm/k.c": ({"dli_k"}, {"dli_r"})}),
        "calls in a circle": ({}, {"kvm/k.c": ({"dli_k"}, {"dli_m"}),
                                   "kvm/m.c": ({"dli_m"}, {"dli_k"})}),
        "a symbol without the prefix": ({}, {"kvm/m.c": ({"ring_lose"}, set())}),
    }
    if check(good, symbols):
        return ["the checks report a fault in a tree that is right"]
    return [f"the checks do not find {what}" for what, (file, symbol) in wrong.items()
            if not check({**good, **file}, {**symbols, **symbol})]


def main(lib, library):
    faults = show_that_it_fails()
    files = sources(Path(lib))
    members = members_of(library, files)
    faults += check(files, members)
    calls = sum(len(others) for others in call_edges(members).values())
    print(f"{len(files)} files, {calls} calls from file to file")
    print("\n".join(faults))
    return 1 if faults or not calls else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
