#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A shared library exports what its header declares and its version script names, no more and no
less; header, library and build agree on the version. Arguments: library, header, version script,
version, soversion; for libdirtylog-model its static library too, whose global names all begin with
dlm."""

import os
import re
import subprocess
import sys

# The C library, liburcu, and what a sanitizer adds.
NEEDED = re.compile(r"lib(c|pthread|urcu-bp|urcu-common|asan|ubsan|tsan|gcc_s)\.so|ld-linux")


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def declared_in(path):
    """In model.h; or in dirtylog.h, and in os.h beside it."""
    found = set()
    beside = {"dirtylog.h": ["os.h"]}.get(os.path.basename(path), [])
    for name in [path] + [os.path.join(os.path.dirname(path), other) for other in beside]:
        with open(name, encoding="utf-8") as header:
            text = re.sub(r"/\*.*?\*/", "", header.read(), flags=re.S)
        found |= set(re.findall(
            r"^(?:DL_MUST_CHECK )?(?:const )?(?:struct )?\w+ \*?(dlm?_\w+)\(", text, flags=re.M))
    return found


def named_in_script(path):
    """{symbol: the version node it is in}"""
    with open(path, encoding="utf-8") as script:
        text = re.sub(r"/\*.*?\*/", "", script.read(), flags=re.S)
    return {
        symbol: node
        for node, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", text, flags=re.S)
        for symbol in re.findall(r"^\s*(dlm?_\w+);", body, flags=re.M)
    }


def exported_by(library):
    """{symbol: version node}; nodes themselves (type A) are no symbols."""
    exported = {}
    for line in run("nm", "-D", "--defined-only", "--with-symbol-versions", library).splitlines():
        kind, symbol = line.split()[-2:]
        if kind != "A":
            name, _, node = symbol.partition("@")
            exported[name] = node.lstrip("@")
    return exported


def other_globals(static_library):
    """Names by which a program that is linked statically could replace a function."""
    names = {line.split()[-1] for line in
             run("nm", "-g", "--defined-only", static_library).splitlines() if " " in line}
    return sorted(name for name in names if not name.startswith("dlm"))


def version_in_header(path):
    path = os.path.join(os.path.dirname(path), "dirtylog.h")
    with open(path, encoding="utf-8") as header:
        parts = dict(re.findall(r"^#define DL_VERSION_(\w+) (\d+)$", header.read(), flags=re.M))
    return ".".join(parts.get(part, "?") for part in ("MAJOR", "MINOR", "PATCH"))


def differences(what, left, right):
    return ["%s: %s" % (what, name) for name in sorted(set(left) - set(right))]


def dynamic_section(library, soversion):
    name = os.path.basename(library).split(".so")[0]
    dynamic = run("readelf", "-dW", library)
    faults = []
    soname = re.search(r"soname: \[(.*?)\]", dynamic)
    if not soname or soname.group(1) != name + ".so." + soversion:
        faults.append("soname: %s" % (soname and soname.group(1)))
    for needed in re.findall(r"Shared library: \[(.*?)\]", dynamic):
        if not NEEDED.match(needed):
            faults.append("needs at run time: %s" % needed)
    if "TEXTREL" in dynamic:
        faults.append("has text relocations")
    # liburcu has a destructor for each thread.
    if "[liburcu" in dynamic and not re.search(r"\(FLAGS_1\).*\bNODELETE\b", dynamic):
        faults.append("can be unloaded, though a destructor of a thread may run later")
    return faults


def main(library, header, script, version, soversion, static_library=None):
    declared, named = declared_in(header), named_in_script(script)
    exported = exported_by(library)
    faults = (
        differences("declared, not exported", declared, exported)
        + differences("exported, not declared", exported, declared)
        + differences("in the version script, not declared", named, declared)
        + [
            "%s is exported as of %s" % (name, node or "no version")
            for name, node in exported.items()
            if named.get(name) != node
        ]
        + dynamic_section(library, soversion)
        + ["global in the static library: %s" % name
           for name in (other_globals(static_library) if static_library else [])]
    )
    if version_in_header(header) != version:
        faults.append("version: %s in the header, %s in meson.build" %
                      (version_in_header(header), version))
    if not declared:
        faults.append("no function found in the header")
    print("%d functions declared, %d exported" % (len(declared), len(exported)))
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
