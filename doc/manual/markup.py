# SPDX-License-Identifier: MIT
"""Turns the text of comments, documents and supplements into scdoc's markup."""

import re

COLUMNS = 68  # of a literal block, which mandoc(1) indents by 12


def escape(text):
    """Plain text, with scdoc's own characters taken literally."""
    text = re.sub(r"([\\*])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


def from_markdown(text):
    """A cell or a line of doc/embedding.md."""
    return escape(text.replace("`", ""))


def stop(text):
    """With a full stop."""
    text = text.strip()
    return text if text[-1:] in ("", ".", ":") else text + "."


def sentence(text):
    """With a capital, unless it is a name or a number, and a full stop."""
    text = text.strip()
    if re.match(r"(?!enum |gpa |hva )[a-z][a-z-]*[ ,:;'.]", text):
        text = text[0].upper() + text[1:]
    return stop(text)


class Markup:
    """Makes names bold, and calls and pages references. own: calls that the page describes. short:
    what constants may be called for short."""

    NAMES = re.compile(
        r"(?<![\w*\\-])(?:"
        r"(?P<call>dl_\w+)\(\)|"
        r"(?P<bare>(?<!struct )dl_\w+)(?!\.\w|[\w(*-])|"
        r"(?P<page>[a-z][\w-]*)\((?P<section>[1-8])\)|"
        r"(?P<constant>(?:DL|KVM|MADV|MCL)_[A-Z0-9_]*[A-Z0-9](?:_\\\*)?|-E[A-Z0-9]{2,})(?![\w(*]))")

    def __init__(self, calls, own, short):
        self.calls, self.own, self.short = set(calls), set(own), short

    def _name(self, match):
        call, bare = match.group("call"), match.group("bare")
        if bare and bare not in self.calls:
            return bare
        call = call or bare
        if call:
            known = call in self.calls and call not in self.own
            return "*%s*(%s)" % (call, "3" if known else "")
        if match.group("page"):
            return "*%s*(%s)" % match.group("page", "section")
        return "*%s*" % match.group("constant")

    def line(self, text):
        return self.NAMES.sub(self._name, text)

    def text(self, text):
        """Everything but literal blocks."""
        parts = re.split(r"(^```\n.*?^```$)", text, flags=re.S | re.M)
        return "".join(part.expandtabs(8).replace("\\", r"\\") if i % 2 else self.line(part)
                       for i, part in enumerate(parts))

    def plain(self, text):
        """A comment's text. It may leave out the beginning of a constant's name."""
        text = re.sub(r"(?<![\w-])_?([A-Z][A-Z_]+)(?!\w)",
                      lambda match: self.short.get(match.group(1), match.group(0)), text)
        return self.line(escape(text))


def item(head, text):
    """An entry of a list: the head, and the text below it."""
    return "%s\n\t%s\n" % (head, text.replace("\n", "\n\t"))


def literal(text):
    return "```\n%s\n```\n" % text.strip("\n")


def of_member(text):
    """What a struct's member is, where its comment only names an enum, or 0."""
    enum = re.match(r"enum (\w+)$", text)
    if enum and re.search(r"_(flag|has)$", enum.group(1)):
        return "Flags of enum %s, or 0." % enum.group(1)
    if enum:
        return "A value of enum %s." % enum.group(1)
    return "Always 0." if text == "0" else sentence(text)


def prototype(text):
    """A prototype, a parameter a line where it is too long."""
    text += ";"
    if len(text) <= COLUMNS:
        return text
    head, _, parameters = text.partition("(")
    indent = " " * (len(head) + 1)
    if max(map(len, parameters.split(", "))) + len(indent) > COLUMNS:
        indent = " " * 8
        head += "(\n" + indent
    else:
        head += "("
    return head + (",\n" + indent).join(parameters.split(", "))


def member(code):
    """The head of a struct's member, or of an enum's value."""
    function = re.match(r"(\w+) \(\*(\w+)\)\((.*)\)$", code)
    if function:
        return "%s (\\**%s*)(%s)" % (function.group(1), function.group(2),
                                    escape(function.group(3)))
    value = re.match(r"(\w+) = (\d+)$", code)
    if value:
        return "*%s* (%s)" % value.groups()
    kind, name = re.match(r"(.*?\*?)(\w+)$", code).groups()
    return "%s*%s*" % (escape(kind), name)
