# SPDX-License-Identifier: MIT
"""Enough of a C parser to find statements in sources in the style of lib/."""

import collections
import re

Function = collections.namedtuple("Function", "name begin end returns_value")

# A statement's span; conditions are the spans between its parentheses.
Statement = collections.namedtuple("Statement", "kind begin end conditions lists")

HIDDEN = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|^[ \t]*#(?:\\\n|[^\n])*',
    re.DOTALL | re.MULTILINE)
ATTRIBUTE = re.compile(r"__attribute__\s*\(\(.*?\)\)\)?(?=\s)", re.DOTALL)
LABEL = re.compile(r"(?:case\s[^:;]+|\w+)\s*:(?![:])")
WORD = re.compile(r"\w+")
CLOSING = {"(": ")", "[": "]", "{": "}"}


def mask(text):
    """The text with comments, literals and preprocessor lines blanked, of the same length."""
    return HIDDEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def skip_space(code, at):
    while code[at:at + 1].isspace():
        at += 1
    return at


def closing(code, at):
    """The offset of the bracket that closes the one at an offset."""
    stack = []
    for i in range(at, len(code)):
        if code[i] in CLOSING:
            stack.append(CLOSING[code[i]])
        elif code[i] in CLOSING.values():
            if stack.pop() != code[i]:
                raise ValueError("unbalanced bracket at offset %d" % i)
            if not stack:
                return i
    raise ValueError("the bracket at offset %d is never closed" % at)


def functions(code):
    """The functions of masked text; a span is that of the body, without the braces."""
    found, at, head = [], 0, 0
    while True:
        next_stop = re.compile(r"[{;]").search(code, at)
        if not next_stop:
            return found
        at = next_stop.end()
        if next_stop.group() == "{":
            end = closing(code, next_stop.start())
            header = ATTRIBUTE.sub(" ", code[head:next_stop.start()])
            name = re.search(r"(\w+)\s*\(", header)
            if header.rstrip().endswith(")") and name:
                kind = header[:name.start()]
                found.append(Function(name.group(1), next_stop.end(), end,
                                      not re.search(r"\bvoid\s*$", kind)))
            at = end + 1
        head = at


def parse_list(code, at, end):
    """The statements between two offsets."""
    statements = []
    at = skip_space(code, at)
    while at < end:
        statement = parse(code, at)
        statements.append(statement)
        at = skip_space(code, statement.end)
    return statements


def end_of_simple(code, at):
    while code[at] != ";":
        at = closing(code, at) + 1 if code[at] in CLOSING else at + 1
    return at + 1


def body_list(statement, code):
    """The body of a control statement, as lists of statements."""
    return statement.lists if statement.kind == "block" else [[statement]] + statement.lists


def parse_control(code, word, begin, at):
    at = skip_space(code, at)
    close = closing(code, at)
    conditions = [(at + 1, close)]
    body = parse(code, close + 1)
    lists, end = body_list(body, code), body.end
    after = skip_space(code, end)
    if word == "if" and WORD.match(code, after) and WORD.match(code, after).group() == "else":
        other = parse(code, after + len("else"))
        lists, end = lists + body_list(other, code), other.end
    return Statement(word, begin, end, conditions, lists)


def parse(code, at):
    at = skip_space(code, at)
    if code[at] == "{":
        end = closing(code, at)
        statements = parse_list(code, at + 1, end)
        inner = [s for statement in statements for s in statement.lists]
        return Statement("block", at, end + 1, [], [statements] + inner)
    label = LABEL.match(code, at)
    if label:
        return Statement("label", at, label.end(), [], [])
    word = WORD.match(code, at)
    word = word.group() if word else ""
    if word in ("if", "while", "for", "switch"):
        return parse_control(code, word, at, at + len(word))
    if word == "do":
        body = parse(code, at + len(word))
        condition = skip_space(code, skip_space(code, body.end) + len("while"))
        close = closing(code, condition)
        return Statement("do", at, end_of_simple(code, close), [(condition + 1, close)],
                         body_list(body, code))
    kind = word if word in ("return", "break", "continue", "goto") else "simple"
    return Statement(kind, at, end_of_simple(code, at), [], [])


def statement_lists(code, function):
    """Every list of adjacent statements in a function, outer lists first."""
    statements = parse_list(code, function.begin, function.end)
    return [statements] + [s for statement in statements for s in statement.lists]


# An operand ends at one of stops, at a separator or assignment, or at the bracket around it.
def operand_begin(code, at, stops):
    """The offset at which the operand that ends at an offset begins."""
    depth, i = 0, at
    while i > 0:
        c = code[i - 1]
        if c in ")]}":
            depth += 1
        elif c in "([{":
            if not depth:
                break
            depth -= 1
        elif not depth and (c in ",;?:" or is_assignment(code, i - 1) or
                            any(code.startswith(s, i - len(s)) for s in stops)):
            break
        i -= 1
    i = skip_space(code, i)
    return skip_space(code, i + len("return")) if re.match(r"return\b", code[i:]) else i


def operand_end(code, at, stops):
    """The offset at which the operand that begins at an offset ends."""
    i = at
    while i < len(code):
        c = code[i]
        if c in CLOSING:
            i = closing(code, i) + 1
            continue
        if c in ")]},;?:" or is_assignment(code, i) or any(code.startswith(s, i) for s in stops):
            break
        i += 1
    while code[i - 1].isspace():
        i -= 1
    return i


def is_assignment(code, at):
    return code[at] == "=" and code[at + 1:at + 2] != "=" and code[at - 1] not in "=!<>"
