#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the manual from the public headers, doc/embedding.md and the supplements in pages/.

  manual.py list                    a line for each page, then for each other name of one
  manual.py man SCDOC DIRECTORY     man pages
  manual.py examples DIRECTORY      the C code of each page, as a file of its name
  manual.py html SCDOC MANDOC DIRECTORY
"""

import os
import re
import subprocess
import sys
import tempfile

from embedding import Embedding
from header import Header, read_versions
from page import Fault, Page, Sources, split_sections
from web import write_html

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
PAGES = os.path.join(HERE, "pages")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def load_pages():
    names = sorted(name for name in os.listdir(PAGES) if name.endswith(".page"))
    return [Page(name[:-len(".page")], read(os.path.join(PAGES, name)))
            for name in names if name != "common.page"]


def load_sources():
    include = os.path.join(TOP, "include/dirtylog")
    header = Header(os.path.join(include, "dirtylog.h"), os.path.join(include, "os.h"))
    embedding = Embedding(os.path.join(TOP, "doc/embedding.md"), header.functions)
    _, common = split_sections(read(os.path.join(PAGES, "common.page")))
    versions = read_versions(os.path.join(TOP, "lib/dirtylog.map"))
    return Sources(header, versions, embedding, common)


def check_complete(pages, header):
    """Each call, struct and enum has its page, and no call has two."""
    calls = [call for page in pages for call in page.calls]
    types = {name for page in pages for name in page.types}
    for name in header.functions:
        if calls.count(name) != 1:
            raise Fault("%s is on %d pages" % (name, calls.count(name)))
    for name in set(header.blocks) - types:
        raise Fault("%s is on no page" % name)


def tidy_literal(roff):
    """mandoc's HTML drops empty lines of literal text, and breaks before a line with an indent."""
    def protect(match):
        text = re.sub(r"^(?= )", r"\\&", match.group(1), flags=re.M)
        return re.sub(r"^$", r"\\ ", text, flags=re.M) + "\n.fi"
    return re.sub(r"(?<=^\.nf\n)(.*?)\n\.fi$", protect, roff, flags=re.S | re.M)


def tidy(roff):
    """Takes out the paragraph breaks that scdoc makes before and after headings and lists."""
    lines = []
    for line in tidy_literal(roff).split("\n"):
        if line == ".RE" and lines[-1:] == [".P"]:
            lines[-1:] = [".RE", ".P"]
            continue
        if line.startswith((".SH", ".SS", ".P")) and lines[-1:] == [".P"]:
            lines.pop()
        if line == ".nh":
            continue  # .TH undoes it
        if line != ".P" or not lines[-1].startswith((".SH", ".SS", ".nh")):
            lines.append(line)
        if line.startswith(".TH"):
            lines.append(".nh")
    while lines[-1:] and lines[-1] in ("", ".P"):
        lines.pop()
    return "\n".join(lines) + "\n"


def run_scdoc(scdoc, name, text):
    done = subprocess.run([scdoc], input=text.encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)
    if done.returncode:
        raise Fault("%s: scdoc: %s\n%s" % (name, done.stderr.decode(), text))
    return tidy(done.stdout.decode())


def write_man(scdoc, directory, pages, sources):
    os.makedirs(directory, exist_ok=True)
    check_complete(pages, sources.header)
    for page in pages:
        name = os.path.join(directory, "%s.%d" % (page.name, page.section))
        with open(name, "w", encoding="utf-8") as file:
            file.write(run_scdoc(scdoc, name, page.scdoc(sources)))
        for alias in page.aliases():
            path = os.path.join(directory, "%s.%d" % (alias, page.section))
            with open(path, "w", encoding="utf-8") as file:
                file.write(".so man%d/%s.%d\n" % (page.section, page.name, page.section))


def write_examples(directory, pages):
    os.makedirs(directory, exist_ok=True)
    for page in pages:
        if page.has_code():
            with open(os.path.join(directory, page.name + ".c"), "w", encoding="utf-8") as file:
                file.write(page.examples())


def main(command, *arguments):
    pages = load_pages()
    if command == "list":
        for page in pages:
            kind = "example" if page.has_code() else "page"
            print("%s %s.%d" % (kind, page.name, page.section))
            for alias in page.aliases():
                print("alias %s.%d" % (alias, page.section))
    elif command == "man":
        write_man(*arguments, pages, load_sources())
    elif command == "examples":
        write_examples(*arguments, pages)
    elif command == "html":
        scdoc, mandoc, out = arguments
        sources = load_sources()
        with tempfile.TemporaryDirectory() as scratch:
            write_man(scdoc, scratch, pages, sources)
            write_html(mandoc, scratch, out, pages, sources.header.version)
        print("the manual begins at %s" % os.path.join(out, "index.html"))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except Fault as fault:
        sys.exit("manual: %s" % fault)
