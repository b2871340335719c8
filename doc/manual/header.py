# SPDX-License-Identifier: MIT
"""Reads the public headers: functions, structs, enums, and what their comments say."""

import re
from dataclasses import dataclass, field

COMMENT = re.compile(r"/\*(.*?)\*/", re.S)
FUNCTION = re.compile(
    r"/\*((?:(?!\*/).)*)\*/\n"
    r"((?:DL_MUST_CHECK )?(?:const )?(?:struct )?\w+ \*?(dl_\w+)\(([^;]*?)\)\s*);", re.S)
BLOCK = re.compile(
    r"(?:^/\*((?:(?!\*/).)*)\*/\n)?^(struct|enum) (dl_\w+) \{\n(.*?)^\};", re.S | re.M)
ITEM = re.compile(r"^\t(?:/\*(?P<above>(?:(?!\*/).)*)\*/\n\t)?(?P<code>[^;,/]*(?:\([^;]*\))?)[;,]"
                  r"[ \t]*(?:/\*(?P<text>(?:(?!\*/).)*)\*/)?\n", re.S | re.M)
SYNOPSIS_ROW = re.compile(r"(\w+): +(\S.*)$")
ROW = re.compile(r"  (-E[A-Z0-9, E-]+|any other) +(\S.*)$")


@dataclass
class Function:
    """One exported call."""
    name: str
    prototype: str
    parameters: list = field(default_factory=list)  # names, in order
    arguments: dict = field(default_factory=dict)  # what the comment says of each
    prose: list = field(default_factory=list)  # sentences of the description
    returns: list = field(default_factory=list)
    errors: str = ""  # the sentences about errors
    blocks: list = field(default_factory=list)
    kernel: list = field(default_factory=list)
    must_check: bool = False


@dataclass
class Block:
    """A struct or an enum."""
    kind: str
    name: str
    text: str
    items: list  # (code, text)


def comment_lines(comment):
    """The lines of a comment without their stars."""
    lines = [re.sub(r"^\s*\*? ?", "", line, count=1) for line in comment.strip().split("\n")]
    lines[0] = comment.strip().split("\n")[0].lstrip("* ")
    return [line.rstrip() for line in lines]


def flat(text):
    return " ".join(text.split())


def split_arguments(lines):
    """(prose lines, {argument: text}) of a call's comment."""
    prose, arguments, name = [], {}, None
    for line in lines:
        found = re.match(r"  (\w+) {2,}(\S.*)$", line)
        if found:
            name = found.group(1)
            arguments[name] = found.group(2)
        elif name and re.match(r" {4,}\S", line):
            arguments[name] += " " + line.strip()
        else:
            name = None
            prose.append(line)
    return prose, arguments


def sentences(lines):
    """The sentences of running text."""
    text = flat(" ".join(lines))
    return [s for s in re.split(r"(?<=[.])\s+(?=[A-Z-])", text) if s]


def sort_sentences(function, all_sentences):
    """Each sentence of a comment to the section that it belongs to. A result that the comment
    begins with describes the call as well."""
    if all_sentences[0].startswith("Returns "):
        function.prose.append(all_sentences[0])
    for sentence in all_sentences:
        if re.match(r"-E[A-Z0-9]+|Errors (as|:)|Errors:|otherwise", sentence):
            function.errors += " " + sentence
        elif sentence.startswith("System calls:"):
            function.kernel.append(sentence[len("System calls:"):].strip())
        elif re.match(r"(No system call|no system call)", sentence):
            function.kernel.append(sentence)
        elif re.match(r"(May|Never) block", sentence):
            threads, _, rest = sentence.partition("; ")
            function.blocks.append(threads.rstrip(".") + ".")
            if rest:
                function.kernel.append(rest[0].upper() + rest[1:])
        elif re.match(r"Since \d", sentence):
            pass  # the version script says it
        elif re.match(r"Returns ", sentence):
            function.returns.append(sentence)
        else:
            function.prose.append(sentence)


def split_parameters(text):
    """The names of a prototype's parameters."""
    text = flat(text)
    if text == "void":
        return []
    return [re.search(r"(\w+)$", part).group(1) for part in text.split(",")]


def read_function(comment, prototype, name, parameters):
    function = Function(name, flat(prototype).replace("DL_MUST_CHECK ", ""))
    function.must_check = "DL_MUST_CHECK" in prototype
    function.parameters = split_parameters(parameters)
    lines, function.arguments = split_arguments(comment_lines(comment))
    unknown = set(function.arguments) - set(function.parameters)
    if unknown:
        raise ValueError("%s: the comment names no parameter of it: %s" % (name, unknown))
    sort_sentences(function, sentences(lines))
    return function


def read_block(comment, kind, name, body):
    items = []
    for item in ITEM.finditer(body):
        text = item.group("text") or item.group("above") or ""
        items.append((flat(item.group("code")), flat(" ".join(comment_lines(text)))))
    return Block(kind, name, flat(" ".join(comment_lines(comment or ""))), items)


def read_chapters(comment):
    """{heading: paragraphs} of the comment at the top. A paragraph that begins with "- " is an
    item; one of several words and two spaces is a row."""
    chapters, name = {"": []}, ""
    for line in comment_lines(comment):
        found = re.match(r"((?:THE )?[A-Z]{4,})\. (.*)$", line)
        if found:
            name, line = found.group(1), found.group(2)
            chapters[name] = []
        chapters[name].append(line)
    return {name: paragraphs(lines, ROW if name else SYNOPSIS_ROW)
            for name, lines in chapters.items()}


def paragraphs(lines, row_pattern):
    """Items and prose, each as one string; rows as pairs."""
    result, fresh = [], True
    for line in lines:
        row = row_pattern.match(line)
        if not line:
            fresh = True
        elif row:
            result.append((row.group(1).strip(), row.group(2)))
            fresh = False
        elif line.startswith("  - "):
            result.append("- " + line[4:])
            fresh = False
        elif fresh or not result or (not line.startswith(" ") and
                                     (isinstance(result[-1], tuple) or
                                      result[-1].startswith("- "))):
            result.append(line)
            fresh = False
        else:
            result[-1] += " " + line.strip()
    return result


class Header:
    """A public header, or several of them."""

    def __init__(self, *paths):
        self.functions, self.blocks, self.chapters = {}, {}, {}
        self.version = "?"
        for path in paths:
            with open(path, encoding="utf-8") as file:
                self._read(file.read())

    def _read(self, text):
        for found in FUNCTION.finditer(text):
            function = read_function(*found.groups())
            self.functions[function.name] = function
        for found in BLOCK.finditer(text):
            block = read_block(*found.groups())
            self.blocks[block.name] = block
        if "struct dl_os {" in text:
            self.chapters["OS"] = paragraphs(comment_lines(COMMENT.findall(text)[1]), ROW)
        parts = dict(re.findall(r"^#define DL_VERSION_(\w+) (\d+)$", text, flags=re.M))
        if parts:
            self.version = "%(MAJOR)s.%(MINOR)s.%(PATCH)s" % parts
            for comment in COMMENT.findall(text):
                if "THE PROMISE." in comment:
                    self.chapters.update(read_chapters(comment))


def read_versions(path):
    """{symbol: version} of the version script."""
    with open(path, encoding="utf-8") as script:
        text = COMMENT.sub("", script.read())
    return {
        symbol: node.rpartition("_")[2]
        for node, body in re.findall(r"(\w[\w.]*)\s*\{(.*?)\}", text, flags=re.S)
        for symbol in re.findall(r"^\s*(dl_\w+);", body, flags=re.M)
    }
