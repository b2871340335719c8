#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the text of source files. Arguments: files, relative to the tree's root.

A source begins with its licence (after #!, in a script). It has at most 500 lines, except for the
public headers, and at most 100 columns, where a tab is 8. No line ends with white space, and the
last one ends with a newline. Markdown may be wider, as tables cannot be wrapped, and needs no
licence.
"""

import sys

COLUMNS = 100
TAB = 8
LINES = 500
LONGER = {"include/dirtylog/dirtylog.h", "examples/bindings/cpp/dirtylog/dirtylog.hpp"}
LICENCE = "SPDX-License-Identifier: MIT"


def licence_line(path, lines):
    """Whether the licence is where it belongs."""
    if path.endswith((".c", ".h", ".cpp", ".hpp", ".S")):
        return lines[:1] == ["/* %s */" % LICENCE]
    if lines[:1] and lines[0].startswith("#!"):
        lines = lines[1:]
    return lines[:1] == ["# " + LICENCE]


def findings(path, text):
    lines = text.split("\n")
    if lines[-1]:
        yield len(lines), "no newline at the end of the file"
    else:
        lines.pop()
    if len(lines) > LINES and path not in LONGER:
        yield len(lines), "%d lines; %d at most, so split it" % (len(lines), LINES)
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield number, "white space at the end of the line"
    if path.endswith(".md"):
        return
    if not licence_line(path, lines):
        yield 1, "does not begin with " + LICENCE
    for number, line in enumerate(lines, 1):
        width = len(line.expandtabs(TAB))
        if width > COLUMNS:
            yield number, "%d columns; %d at most" % (width, COLUMNS)


def main(paths):
    found = 0
    for path in paths:
        try:
            with open(path, encoding="utf-8", newline="\n") as file:
                text = file.read()
        except UnicodeDecodeError:
            print("%s: is not UTF-8" % path)
            found += 1
            continue
        for number, what in findings(path, text):
            print("%s:%d: %s" % (path, number, what))
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
