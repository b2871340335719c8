# SPDX-License-Identifier: MIT
"""Reads doc/embedding.md: its tables that have a row for each call, and its text."""

import re

from markup import from_markdown

TABLES = {"calls": "| call | ioctl(2) with | makes |", "locks": "| call | holds |"}


def rows_after(text, heading):
    """The cells of the rows below a table's heading."""
    for line in text[text.index(heading):].split("\n")[2:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def names_in(cell, functions):
    """The calls that a first cell means; its own words if it means none."""
    cell = cell.replace("`", "")
    names = []
    for part in cell.split(", "):
        if part == "marks":
            names += [name for name in functions if name.startswith("dl_mark_")]
        else:
            names.append(part)
    return names if any(name in functions for name in names) else [cell]


def resolve_same(rows):
    """A cell that begins with "the same" means the one above it."""
    resolved, above = [], ()
    for names, cells in rows:
        above = tuple(re.sub(r"^the same", lambda _, up=up: up, cell)
                      for cell, up in zip(cells, above or cells))
        resolved.append((names, above))
    return resolved


def from_row(line):
    """A row of a table as an entry of a list."""
    cells = [from_markdown(cell.strip()) for cell in line.strip("|\n").split("|")]
    return "%s\n\t%s\n\n" % (cells[0], ": ".join(cells[1:]))


class Embedding:
    def __init__(self, path, functions):
        with open(path, encoding="utf-8") as file:
            self.text = file.read()
        self.tables = {
            table: [(names_in(cells[0], functions), tuple(cells[1:]))
                    for cells in rows_after(self.text, heading)]
            for table, heading in TABLES.items()
        }
        self.tables["locks"] = resolve_same(self.tables["locks"])

    def section(self, name):
        """The text below a heading, in scdoc's markup."""
        found = re.search(r"^##+ %s\n(.*?)(?=^#|\Z)" % re.escape(name), self.text,
                          flags=re.S | re.M)
        if not found:
            return None
        text = re.sub(r"^\|.*\n\| ---.*\n", "", found.group(1), flags=re.M)
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
        # Bold text and calls: the rest of the markup has no equal.
        parts = re.split(r"\*\*(.*?)\*\*", text, flags=re.S)
        if "|" in text:
            return "".join(from_row(line) if line.startswith("|") else from_markdown(line)
                           for line in re.sub(r"\*\*", "", text).splitlines(True)).strip()
        text = "".join("*%s*" % from_markdown(part) if i % 2 else from_markdown(part)
                       for i, part in enumerate(parts))
        return re.sub(r"\n{3,}", "\n\n", text).strip()
