#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the manual. Arguments: what to check (pages, html, examples or options), the top of the
tree, the directory of the man pages, mandoc ("" if it is not installed), scdoc, and for the options
the programs in the build directory."""

import html.parser
import os
import re
import subprocess
import sys
import tempfile

SKIP = 77
RETURNED = re.compile(r"(?:return|=|\?|:|,)\s*(-E[A-Z0-9]+)\b")
# A test, not a result.
COMPARED = re.compile(r"[=!]= -E[A-Z0-9]+")


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True).stdout


def exported(top):
    return re.findall(r"^\t(dl_\w+);", read(top, "lib/dirtylog.map"), flags=re.M)


def rendered(mandoc, page):
    """The page as plain text: no overstrikes, one space between words."""
    text = run(mandoc, "-Tutf8", "-Owidth=200", page)
    return re.sub(r".\x08", "", text)


def sections(text):
    parts = re.split(r"^([A-Z][A-Z ]+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def body_of(name, source):
    """The definition of a function in a file, or nothing."""
    found = re.search(r"^(?:[a-z][^\n;]*[ *])?%s\([^;{]*?\)\n\{\n.*?^\}" % name, source,
                      flags=re.S | re.M)
    return found.group(0) if found else ""


def errors_in_code(name, source, seen=None):
    """The errors that a function, and the functions of the same file that it calls, return by
    name."""
    seen = set() if seen is None else seen
    if name in seen:
        return set()
    seen.add(name)
    body = COMPARED.sub("", body_of(name, source))
    errors = set(RETURNED.findall(body))
    for called in set(re.findall(r"\b([a-z]\w+)\(", body)):
        errors |= errors_in_code(called, source, seen)
    return errors


def code_of(top, call):
    api = os.path.join(top, "lib/api")
    for name in sorted(os.listdir(api)):
        if name.endswith(".c") and body_of(call, read(api, name)):
            return read(api, name)
    return ""


def check_page_of(call, top, directory, mandoc):
    """The faults of the page that "man CALL" shows."""
    path = os.path.join(directory, call + ".3")
    if not os.path.exists(path):
        return ["%s: no page" % call]
    alias = re.match(r"\.so man3/(.*)\n$", read(path))
    if alias:
        path = os.path.join(directory, alias.group(1))
    parts = sections(rendered(mandoc, path))
    faults = ["%s: no %s" % (call, section) for section in (
        "NAME", "SYNOPSIS", "DESCRIPTION", "RETURN VALUE", "ERRORS", "KERNEL INTERFACE", "HISTORY",
        "EXAMPLES", "SEE ALSO") if not parts.get(section, "").strip()]
    for section in ("NAME", "SYNOPSIS", "HISTORY"):
        if not re.search(r"\b%s\b" % call, parts.get(section, "")):
            faults.append("%s: not in its %s" % (call, section))
    code = code_of(top, call)
    if not code and call != "dl_os_system":
        faults.append("%s: not found in lib/api" % call)
    # Every call with a handle has them: they are checked below lib/api.
    errors = errors_in_code(call, code)
    if re.search(r"\bdli_(call_begin|cursor_enter)\(", body_of(call, code)) and \
            not body_of(call, code).startswith("void"):
        errors.add("-EIO")
    return faults + ["%s: %s is not in its ERRORS" % (call, error) for error in sorted(errors)
                     if not re.search(r"^ +%s\b|, %s\b" % (error, error), parts.get("ERRORS", ""),
                                      flags=re.M)]


def man_pages(directory):
    return sorted(name for name in os.listdir(directory)
                  if re.search(r"\.\d$", name) and not read(directory, name).startswith(".so "))


def check_lint(directory, mandoc):
    faults = []
    for name in man_pages(directory):
        done = subprocess.run([mandoc, "-Tlint", "-Wwarning", os.path.join(directory, name)],
                              stdout=subprocess.PIPE, text=True, check=False)
        faults += done.stdout.splitlines()
    return faults


def blocks_of(top, name):
    """The examples in the supplement of a page."""
    return re.findall(r"^```\n(.*?)^```$", read(top, "doc/manual/pages", name + ".page"),
                      flags=re.S | re.M)


def check_code_is_shown(top, directory, mandoc):
    """Checks that pages show examples as they were compiled, and fit a terminal."""
    faults = []
    for name in man_pages(directory):
        shown = re.sub(r".\x08", "", run(mandoc, "-Tutf8", "-Owidth=80",
                                         os.path.join(directory, name)))
        faults += ["%s: wider than 80 columns: %s" % (name, line)
                   for line in shown.splitlines() if len(line) > 80]
        lines = {line.strip() for line in shown.splitlines()}
        for block in blocks_of(top, name):
            faults += ["%s: shown otherwise: %s" % (name, line) for line in block.splitlines()
                       if line.strip() and line.strip().expandtabs(8) not in lines]
    return faults


def check_pages(top, directory, mandoc, *_):
    calls = exported(top)
    faults = ["no call found"] if not calls else []
    for call in calls:
        faults += check_page_of(call, top, directory, mandoc)
    faults += check_lint(directory, mandoc)
    faults += check_code_is_shown(top, directory, mandoc)
    print("%d calls, %d pages" % (len(calls), len(man_pages(directory))))
    return faults


class Links(html.parser.HTMLParser):
    """The links of a document, its anchors, and its literal text."""

    def __init__(self):
        super().__init__()
        self.links, self.anchors, self.literal, self.depth = [], set(), "", 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])
        self.depth += tag == "pre"
        if tag == "br" and self.depth:
            self.literal += "<br>"

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"

    def handle_data(self, data):
        if self.depth:
            self.literal += data


def check_html(top, directory, mandoc, scdoc, *_):
    faults, documents = [], {}
    with tempfile.TemporaryDirectory() as out:
        run(sys.executable, os.path.join(top, "doc/manual/manual.py"), "html", scdoc, mandoc, out)
        for name in os.listdir(out):
            if name.endswith(".html"):
                documents[name] = Links()
                documents[name].feed(read(out, name))
        files = set(os.listdir(out))
    for name, document in documents.items():
        for link in document.links:
            file, _, anchor = link.partition("#")
            if (file or name) not in files:
                faults.append("%s: no such file: %s" % (name, link))
            elif anchor and anchor not in documents[file or name].anchors:
                faults.append("%s: no such place: %s" % (name, link))
    linked = set(documents["index.html"].links)
    faults += ["not in the index: " + name for name in set(documents) - linked - {"index.html"}]
    crossed = sum(link.endswith(".html") for name, document in documents.items()
                  if name != "index.html" for link in document.links)
    if crossed < 4 * len(documents):
        faults.append("only %d links between %d pages" % (crossed, len(documents)))
    for name in man_pages(directory):
        if name + ".html" not in documents:
            faults.append("no page: " + name)
            continue
        for block in blocks_of(top, name):
            if block.expandtabs(8).strip("\n") not in documents[name + ".html"].literal:
                faults.append("%s.html: shown otherwise: %s" % (name, block))
    return faults


def check_examples(top, *_):
    """Each page of a call has an example, and the test calls all of its functions."""
    faults, tests = [], os.path.join(top, "tests/abi")
    test = "".join(read(tests, name) for name in os.listdir(tests)
                   if re.fullmatch(r"manual_.*test\.c", name))
    with tempfile.TemporaryDirectory() as out:
        run(sys.executable, os.path.join(top, "doc/manual/manual.py"), "examples", out)
        sources = {name: read(out, name) for name in os.listdir(out)}
    for name in os.listdir(os.path.join(top, "doc/manual/pages")):
        if name.endswith(".3.page") and name.replace(".3.page", ".c") not in sources:
            faults.append("%s: no example" % name)
    for name, source in sources.items():
        defined = re.findall(r"^(?!static)[a-z][^\n;=]*?[ *](\w+)\([^;{}]*\)\n\{", source,
                             flags=re.M)
        if not defined:
            faults.append("%s: defines no function" % name)
        faults += ["%s: %s() is not tested" % (name, function) for function in defined
                   if len(re.findall(r"\b%s\(" % function, test)) < 2]
    return faults


def options_in_help(program):
    """{option: argument}"""
    return dict(re.findall(r"^  (--[a-z-]+)(?: (\S+))?  ", run(program, "--help"), flags=re.M))


def options_in_page(source):
    return {name: argument.replace("\\", "") for name, argument in
            re.findall(r"^\*(--[a-z-]+)\*(?: _(\S+)_)?$", source, flags=re.M)}


def check_options(top, directory, mandoc, scdoc, *programs):
    faults = []
    for program in programs:
        name = os.path.basename(program)
        name = ("%s.1" if name.startswith("dirty") else "dirtylog-%s.1") % name
        helped = options_in_help(program)
        paged = options_in_page(read(top, "doc/manual/pages", name + ".page"))
        if not helped:
            faults.append("%s: no option in its --help" % program)
        faults += ["%s does not have %s" % (name, option) for option in set(helped) - set(paged)]
        faults += ["%s is only in %s" % (option, name) for option in set(paged) - set(helped)]
        faults += ["%s: %s %r, and %r in --help" % (name, option, paged[option], helped[option])
                   for option in set(paged) & set(helped) if paged[option] != helped[option]]
    return faults


def main(what, top, directory, mandoc, scdoc, *rest):
    if what in ("pages", "html") and not (mandoc and scdoc):
        print("skip: no %s here" % ("mandoc" if scdoc else "scdoc"))
        return SKIP
    faults = {"pages": check_pages, "html": check_html, "examples": check_examples,
              "options": check_options}[what](top, directory, mandoc, scdoc, *rest)
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
