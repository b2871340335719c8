# SPDX-License-Identifier: MIT
"""One page: its supplement, merged with what the header and doc/embedding.md say."""

import re

from markup import Markup, escape, from_markdown, item, literal, member, of_member, prototype, \
    sentence, stop

ORDER = ("NAME", "SYNOPSIS", "DESCRIPTION", "PARAMETERS", "TYPES", "RETURN VALUE", "ERRORS",
         "THREADS", "KERNEL INTERFACE", "HISTORY", "NOTES", "EXAMPLES", "SEE ALSO")
LINK = "Compile and link with *$(pkg-config --cflags --libs dirtylog)*."
TITLES = {1: "User Commands", 3: "Library Functions", 7: "Overview"}


# What the header's comment says of itself.
SUBSTITUTES = {
    "the function's comment names": "the call's page names",
    " doc/embedding.md: the whole table of system calls; signals, fork.": "",
    "Everything here is new or changed in 0.2.": "",
}


class Fault(Exception):
    """Something is missing in the manual."""


def split_sections(text):
    """(fields at the top, {section: text})"""
    head, *rest = re.split(r"^# (.*)\n", text, flags=re.M)
    fields = dict(re.findall(r"^(\w+): *(.*)$", head, flags=re.M))
    return fields, {name.strip(): body.strip("\n") for name, body in zip(rest[::2], rest[1::2])}


def split_entries(text):
    """{head: text} of "head: text" whose further lines are indented."""
    entries, head = {}, None
    for line in text.split("\n"):
        found = re.match(r"([\w-]+(?:, [\w-]+)*|kernel):(?: +(.*))?$", line)
        if found:
            head = found.group(1)
            entries[head] = found.group(2) or ""
        elif head and (line.startswith(" ") or not line):
            entries[head] += "\n" + line.strip()
        elif line:
            raise Fault("not understood: %r" % line)
    return {name: re.sub(r"(?<!\n)\n(?!\n)", " ", entry).strip() for name, entry in entries.items()}


class Sources:
    """What all pages take from."""

    def __init__(self, header, versions, embedding, common):
        self.header, self.versions, self.embedding = header, versions, embedding
        self.parameters = split_entries(common["PARAMETERS"])
        self.errors = split_entries(common["ERRORS"])
        said = str(header.chapters)
        for text in SUBSTITUTES:
            if text not in said:
                raise Fault("dirtylog.h does not say any more: " + text)


class Page:
    def __init__(self, path, text):
        self.name, section = re.match(r"(.*)\.(\d)$", path).groups()
        self.section = int(section)
        self.fields, self.sections = split_sections(text)
        self.calls = self.fields.get("calls", "").split()
        self.types = self.fields.get("types", "").split()

    def names(self):
        """All that the page is found by."""
        return self.calls if self.name in self.calls else [self.name, *self.calls]

    def aliases(self):
        return [name for name in self.names() if name != self.name]

    def fail(self, what):
        raise Fault("%s(%d): %s" % (self.name, self.section, what))

    def has_code(self):
        return self.section != 1 and bool(self.examples())

    def examples(self):
        """The C code of the page, as one file."""
        return "\n".join(re.findall(r"^```\n(.*?)^```$", self.sections.get("EXAMPLES", ""),
                                    flags=re.S | re.M))

    def scdoc(self, sources):
        writer = Writer(self, sources)
        lines = ['%s(%d) "libdirtylog %s" "%s"\n' % (self.name, self.section,
                                                    sources.header.version,
                                                    TITLES[self.section])]
        names = ORDER if self.section == 3 else ["NAME", *self.sections]
        for name in names:
            text = writer.section(name)
            if text:
                lines.append("# %s\n\n%s\n" % (name, text.strip("\n")))
        unknown = set(self.sections) - set(names)
        if unknown:
            self.fail("unknown sections: " + ", ".join(sorted(unknown)))
        return "\n".join(lines)


class Writer:
    """Writes the sections of a page."""

    def __init__(self, page, sources):
        self.page, self.sources = page, sources
        self.header = sources.header
        self.markup = Markup(self.header.functions, page.calls, self._short_names())
        self.functions = [self._function(name) for name in page.calls]

    def _function(self, name):
        if name not in self.header.functions:
            self.page.fail("no such call: " + name)
        return self.header.functions[name]

    def _short_names(self):
        """{PAUSED: DL_SLOT_PAUSED} and the like, of the enums of this page."""
        short = {"INITIALLY_SET": "KVM_DIRTY_LOG_INITIALLY_SET"}
        short.update(pair.split("=") for pair in self.page.fields.get("short", "").split())
        for name in self.page.types:
            block = self.header.blocks.get(name)
            if not block:
                self.page.fail("no struct or enum " + name)
            for code, _ in block.items:
                found = re.match(r"DL_[A-Z]+_(\w+) = ", code)
                if found:
                    short.setdefault(found.group(1), code.split(" ")[0])
        return short

    def section(self, name):
        method = getattr(self, "_" + name.lower().replace(" ", "_"), None)
        if method and (self.page.section == 3 or name == "NAME"):
            return method()
        return self._expand(self._own(name))

    def _own(self, name, required=False):
        text = self.page.sections.get(name, "")
        if required and not text:
            self.page.fail("no " + name)
        return text

    def _text(self, name, required=False):
        return self._expand(self._own(name, required))

    def _expand(self, text):
        """Replaces @chapter NAME (of dirtylog.h), @embedding HEADING and @calls."""
        def directive(match):
            kind, name = match.groups()
            if kind == "calls":
                return self._calls()
            if kind == "chapter":
                return self._chapter(name)
            section = self.sources.embedding.section(name)
            if not section:
                self.page.fail("doc/embedding.md has no " + name)
            return self.markup.text(section)
        return re.sub(r"^@(calls|chapter|embedding)(?: (.*))?$", directive, self.markup.text(text),
                      flags=re.M)

    def _chapter(self, name):
        if name not in self.header.chapters and name != "MODEL":
            self.page.fail("dirtylog.h has no " + name)
        paragraphs = self.header.chapters[""][1:] if name == "MODEL" else \
            self.header.chapters[name]
        for there, here in SUBSTITUTES.items():
            paragraphs = [(p[0], p[1].replace(there, here)) if isinstance(p, tuple) else
                          p.replace(there, here) for p in paragraphs]
        lines = []
        for paragraph in paragraphs:
            if isinstance(paragraph, tuple):
                lines.append(item("*%s*" % paragraph[0].replace(", ", "*, *"),
                                  self.markup.plain(sentence(paragraph[1]))))
            elif paragraph.startswith("- "):
                lines.append("- " + self.markup.plain(paragraph[2:]))
            else:
                lines.append("\n%s\n" % self.markup.plain(paragraph))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")

    def _calls(self):
        return "\n".join(item(", ".join("*%s*(3)" % name if name.startswith("dl_") else escape(name)
                                        for name in names), sentence(self._row(row)))
                         for names, row in self.sources.embedding.tables["calls"])

    def _name(self):
        return "%s - %s" % (", ".join(self.page.names()), self.page.fields["about"])

    def _synopsis(self):
        include = "os.h" if self.page.name == "dl_os" else "dirtylog.h"
        lines = ["#include <dirtylog/%s>" % include, ""]
        lines += [prototype(function.prototype) + "\n" for function in self.functions]
        return literal("\n".join(lines)) + "\n" + LINK

    def _per_call(self, texts, heading="## %s()"):
        """Text by call; under a heading each if there are several calls."""
        texts = [(name, text) for name, text in texts if text]
        if len(texts) == len(self.functions) > 1 and len({text for _, text in texts}) == 1:
            return texts[0][1] + "\n"
        if len(self.functions) == 1:
            return "".join(text + "\n" for _, text in texts)
        return "".join(heading % name + "\n\n" + text + "\n\n" for name, text in texts)

    def _description(self):
        texts = [(f.name, self.markup.plain(" ".join(f.prose))) for f in self.functions]
        text = self._with_own("DESCRIPTION", texts)
        return text or self.page.fail("no DESCRIPTION")

    def _parameters(self):
        """A parameter of several calls is described once, unless the supplement has it as
        CALL-NAME or the header's comment has it for both."""
        own, lines, seen = split_entries(self._own("PARAMETERS")), [], set()
        keys = {"%s-%s" % (function.name, name): (function, name)
                for function in self.functions for name in function.parameters}
        for key, (function, name) in keys.items():
            special = key in own
            if name in seen and not special and name not in function.arguments:
                continue
            head = "*%s*" % name
            if name in seen:
                head += " (of *%s*())" % function.name
            said = own.pop(key) if special else own.get(name, "") if name not in seen else ""
            lines.append(item(head, self._parameter(function, name, said)))
            seen.add(name)
        if set(own) - seen:
            self.page.fail("no such parameters: " + ", ".join(set(own) - seen))
        return "\n".join(lines)

    def _parameter(self, function, name, said):
        texts = []
        if name in function.arguments:
            texts.append(self.markup.plain(sentence(function.arguments[name])))
        elif not said:
            said = self.sources.parameters.get(name)
        if said:
            texts.append(self.markup.line(said))
        if not texts:
            self.page.fail("nothing is said of the parameter " + name)
        return " ".join(texts)

    def _types(self):
        lines = []
        for name in self.page.types:
            block = self.header.blocks[name]
            lines.append("## %s %s\n" % (block.kind, block.name))
            if block.text and not re.match(r"(dl_\w+\(\)(, )?)+$", block.text):
                text = re.sub(r"^(dl_\w+\.)", r"In \1", block.text)
                lines.append(self.markup.plain(sentence(text)) + "\n")
            lines += self._members(block)
        own = self._text("TYPES")
        return "\n".join(lines) + ("\n" + own if own else "")

    def _members(self, block):
        for code, text in block.items:
            said = self.markup.plain(of_member(text)) if text else "See the one above."
            yield item(member(code), said)

    def _return_value(self):
        own = self._text("RETURN VALUE", required=True)
        lines = []
        for function in self.functions:
            said = self.markup.plain(" ".join(function.returns))
            several = len(self.functions) > 1
            if said:
                lines.append("*%s*(): %s" % (function.name, said) if several else said)
        return "\n\n".join(lines + [own])

    def _errors(self):
        own = split_entries(self._own("ERRORS", required=True))
        if list(own) == ["none"]:
            return self.markup.text(own["none"])
        for function in self.functions:
            for error in re.findall(r"-E[A-Z0-9]+", function.errors):
                if not any(error in heads.split(", ") for heads in own):
                    self.page.fail("the header names %s for %s" % (error, function.name))
        lines = []
        for heads, text in own.items():
            common = [self.sources.errors.get(head, "") for head in heads.split(", ")]
            text = text or common[0]
            if not text:
                self.page.fail("when is it %s?" % heads)
            head = "Others" if heads == "kernel" else "*%s*" % heads.replace(", ", "*, *")
            lines.append(item(head, self.markup.text(text)))
        return "\n".join(lines)

    def _threads(self):
        texts = []
        for function in self.functions:
            lines = [self.markup.plain(line) for line in self._same(function).blocks]
            row = self._find("locks", function.name)
            if row and row[0] != "none":
                lines.append("While it makes system calls it holds these locks: %s. Those who wait "
                             "meanwhile: %s." % tuple(from_markdown(cell) for cell in row))
            texts.append((function.name, "Any thread may call it. " + " ".join(lines)))
        return self._with_own("THREADS", texts)

    def _with_own(self, name, texts):
        """The supplement's text comes first if what follows is below headings, or if it says
        "own: NAME"."""
        parts = [self._per_call(texts), self._text(name)]
        first = len(self.functions) > 1 or self.page.fields.get("own") == name
        return "\n\n".join(reversed(parts) if first else parts).strip("\n")

    def _find(self, table, call):
        return next((row for names, row in self.sources.embedding.tables[table]
                     if call in names), None)

    def _names(self, table, call):
        """The calls that have a row together."""
        return next((" and ".join(name + "()" for name in names)
                     for names, _ in self.sources.embedding.tables[table] if call in names), "")

    def _row(self, row):
        parts = (("ioctl(2) with", row[0]), ("it makes", row[1]), ("it may make", row[2]))
        said = ["%s %s" % (head, from_markdown(cell)) for head, cell in parts if cell != "-"]
        return self.markup.line("; ".join(said) + "." if said else "no system call.")

    def _same(self, function):
        """The call that a comment refers to with "As dl_x(), ...", or itself."""
        found = re.match(r"As (dl_\w+)\(\), ", " ".join(function.prose))
        return self._same(self._function(found.group(1))) if found else function

    def _kernel_interface(self):
        texts, shown = [], set()
        for function in self.functions:
            said = " ".join(stop(line) for line in self._same(function).kernel)
            said = re.sub("^as ", "As ", said)
            row = self._find("calls", function.name)
            names = self._names("calls", function.name)
            if not said and not row:
                self.page.fail("no kernel interface of " + function.name)
            lines = [self.markup.plain(said)] if said else []
            if row and row != ("-", "-", "-") and names not in shown:
                shown.add(names)
                lines.append(self.markup.line("For a filter, all system calls of %s: " % names) +
                             self._row(row))
            texts.append((function.name, "\n\n".join(lines) or "No system call."))
        return self._with_own("KERNEL INTERFACE", texts)

    def _history(self):
        since = {}
        for call in self.page.calls:
            if call not in self.sources.versions:
                self.page.fail("the version script does not have " + call)
            since.setdefault(self.sources.versions[call], []).append("*%s*()" % call)
        return "\n".join("Since libdirtylog %s: %s." % (version, ", ".join(names))
                         for version, names in sorted(since.items()))

    def _see_also(self):
        own = self._own("SEE ALSO", required=True)
        return self.markup.text(own)
