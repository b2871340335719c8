# SPDX-License-Identifier: MIT
"""The mutations: each operator yields edits of a source text, as (begin, end, replacement)."""

import collections
import difflib
import hashlib
import re

import source

Mutant = collections.namedtuple("Mutant", "id file line function operator edits")

DECLARATION = re.compile(
    r"(?:const |static |struct |enum |unsigned |_Atomic|bool\b|void |char |int |double |size_t |"
    r"u?int\d+_t |sigset_t |va_list |pthread_mutex_t )")
LOCKS = {
    "pthread_mutex_lock": "pthread_mutex_unlock",
    "dli_ring_lock": "dli_ring_unlock",
    "lock_all": "unlock_all",
    "dli_rcu_read_lock": "dli_rcu_read_unlock",
    "dli_reset_begin": "dli_reset_end",
    "dli_os_block_signals": "dli_os_restore_signals",
    "_urcu_bp_read_lock": "_urcu_bp_read_unlock",
}
# For each name, the names that could stand there by mistake.
NAMES = {
    "CELL_CLEAN": ["CELL_RESET"],
    "CELL_DIRTY": ["CELL_CLEAN", "CELL_RESET"],
    "CELL_RESET": ["CELL_CLEAN", "CELL_DIRTY"],
    "RING_IN_SYNC": ["RING_DESYNCED"],
    "RING_DESYNCED": ["RING_IN_SYNC"],
    "LOG_OFF": ["LOG_ON", "LOG_CLOSED"],
    "LOG_ON": ["LOG_OFF"],
    "LOG_CLOSED": ["LOG_OFF"],
    "true": ["false"],
    "false": ["true"],
    "UINT64_MAX": ["0"],
    "DL_MODE_AUTO": ["DL_MODE_RING"],
    "DL_MODE_RING": ["DL_MODE_BITMAP"],
    "DL_MODE_BITMAP": ["DL_MODE_RING"],
    "DL_BACKUP_AUTO": ["DL_BACKUP_OFF"],
    "DL_BACKUP_OFF": ["DL_BACKUP_AUTO"],
    "DL_BACKUP_REQUIRED": ["DL_BACKUP_AUTO"],
    "DL_HAS_BACKUP": ["DL_HAS_MANUAL_PROTECT"],
    "DL_HAS_MANUAL_PROTECT": ["DL_HAS_INITIALLY_SET"],
    "DL_HAS_INITIALLY_SET": ["DL_HAS_MANUAL_PROTECT"],
    "DL_HAS_RING_TSO": ["DL_HAS_RING_ACQ_REL"],
    "DL_HAS_RING_ACQ_REL": ["DL_HAS_RING_TSO"],
    "DL_SLOT_CLEAN": ["DL_SLOT_NO_LOG"],
    "DL_SLOT_NO_LOG": ["DL_SLOT_CLEAN", "0"],
    "DL_SLOT_CALLER_IOCTL": ["DL_SLOT_CLEAN"],
    "DL_SLOT_DISCARD": ["DL_SLOT_CALLER_IOCTL"],
    "DL_START_CLEAN": ["0"],
    "DL_HARVEST_FINAL": ["0"],
    "KVM_MEM_LOG_DIRTY_PAGES": ["0"],
    "KVM_MEM_READONLY": ["0"],
    "KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE": ["0"],
    "KVM_DIRTY_LOG_INITIALLY_SET": ["0"],
    "KVM_CAP_DIRTY_LOG_RING_ACQ_REL": ["KVM_CAP_DIRTY_LOG_RING"],
    "KVM_CAP_DIRTY_LOG_RING": ["KVM_CAP_DIRTY_LOG_RING_ACQ_REL"],
    "KVM_EXIT_DIRTY_RING_FULL": ["KVM_EXIT_INTR"],
    "KVM_EXIT_INTR": ["KVM_EXIT_DIRTY_RING_FULL"],
    "MAP_SHARED": ["MAP_PRIVATE"],
    "PROT_WRITE": ["0"],
    "SIG_BLOCK": ["SIG_UNBLOCK"],
    "SIG_SETMASK": ["SIG_BLOCK"],
    "PTHREAD_CANCEL_DISABLE": ["PTHREAD_CANCEL_ENABLE"],
    "pthread_cond_broadcast": ["pthread_cond_signal"],
    "pthread_mutex_trylock": ["pthread_mutex_lock"],
    "atomic_fetch_or_explicit": ["atomic_fetch_and_explicit", "atomic_exchange_explicit"],
    "atomic_fetch_and_explicit": ["atomic_fetch_or_explicit"],
    "atomic_fetch_add_explicit": ["atomic_fetch_sub_explicit"],
    "atomic_fetch_sub_explicit": ["atomic_fetch_add_explicit"],
}
COMPARISONS = {
    "<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="],
    "!=": ["=="],
}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "<<": ">>", ">>": "<<"}
BITS = {"&": "|", "|": "&", "^": "|"}
COMPOUND = {"|=": ["=", "&="], "&=": ["=", "|="], "+=": ["=", "-="], "-=": ["=", "+="]}


class Text:
    """A source with its masked form, functions and statements."""

    def __init__(self, name, text):
        self.name, self.text = name, text
        self.code = source.mask(text)
        self.functions = source.functions(self.code)
        self.lists = [
            (f, statements)
            for f in self.functions for statements in source.statement_lists(self.code, f)
        ]

    def statements(self):
        return [(f, s) for f, statements in self.lists for s in statements]

    def inside(self, pattern):
        """Matches of a pattern within the bodies of functions."""
        for function in self.functions:
            yield from re.compile(pattern).finditer(self.code, function.begin, function.end)

    def is_declaration(self, statement):
        return statement.kind == "simple" and DECLARATION.match(self.code, statement.begin)


def swap_statements(t):
    for _, statements in t.lists:
        for a, b in zip(statements, statements[1:]):
            movable = all(
                s.kind in ("simple", "if", "while", "for") and
                (not t.is_declaration(s) or "(" in t.code[s.begin:s.end]) for s in (a, b))
            if movable:
                yield [(a.begin, a.end, t.text[b.begin:b.end]),
                       (b.begin, b.end, t.text[a.begin:a.end])]


def delete_statement(t):
    for _, s in t.statements():
        void_return = s.kind == "return" and t.code[s.begin:s.end] == "return;"
        simple = s.kind == "simple" and not t.is_declaration(s)
        if simple or void_return or s.kind in ("break", "continue", "goto"):
            yield [(s.begin, s.end, ";")]


def fix_condition(t):
    for _, s in t.statements():
        for begin, end in s.conditions:
            if s.kind == "if":
                yield [(begin, end, "1")]
                yield [(begin, end, "0")]
            elif s.kind in ("while", "do"):
                yield [(begin, end, "0")]
            elif s.kind == "for":
                _, test, step = t.code[begin:end].split(";")
                if test.strip():
                    at = end - len(step) - 1
                    yield [(at - len(test), at, " 0")]
    for mark in t.inside(r" \?(?=\s)"):
        begin = source.operand_begin(t.code, mark.start(), ())
        yield [(begin, mark.start(), "1")]
        yield [(begin, mark.start(), "0")]


def once(t):
    """Runs the body of a loop once at most: waits, compare-and-swap."""
    for _, s in t.statements():
        if s.kind == "while":
            yield [(s.begin, s.begin + len("while"), "if")]


def drop_operand(t):
    for mark in t.inside(r"\s(&&|\|\|)\s"):
        stops = ("||",) if mark.group(1) == "||" else ("&&", "||")
        right = source.skip_space(t.code, mark.end())
        begin = source.operand_begin(t.code, mark.start(), stops)
        yield [(begin, right, "")]
        yield [(mark.start(), source.operand_end(t.code, right, stops), "")]


def drop_not(t):
    for mark in t.inside(r"[!~](?=[\w(*&~])"):
        yield [(mark.start(), mark.end(), "")]


def change_comparison(t):
    for mark in t.inside(r"(?<=\s)(<|<=|>|>=|==|!=)(?=\s)"):
        for other in COMPARISONS[mark.group()]:
            yield [(mark.start(), mark.end(), other)]


def off_by_one(t):
    for mark in t.inside(r"\s[-+] 1u?\b"):
        yield [(mark.start(), mark.end(), "")]
    for mark in t.inside(r"\[([^\[\]]*[a-z_][^\[\]]*)\]"):
        begin, end = mark.span(1)
        before = t.code[:mark.start()].rstrip()
        if begin < end and before[-1:].isalnum():
            for change in (" + 1", " - 1"):
                yield [(begin, end, "(" + t.text[begin:end] + ")" + change)]
    for _, s in t.statements():
        if s.kind == "for":
            first = re.compile(r"= 0(?=;)").search(t.code, s.begin, s.conditions[0][1])
            if first:
                yield [(first.start(), first.end(), "= 1")]


def change_arithmetic(t):
    for mark in t.inside(r"(?<=\s)(\+|-|\*|/|%|<<|>>)(?=\s)"):
        yield [(mark.start(), mark.end(), ARITHMETIC[mark.group()])]
    for mark in t.inside(r"(?<=\s)(\|=|&=|\+=|-=)(?=\s)"):
        for other in COMPOUND[mark.group()]:
            yield [(mark.start(), mark.end(), other)]
    for mark in t.inside(r"(?<=\s)([&|^])(?=\s)"):
        yield [(mark.start(), mark.end(), BITS[mark.group()])]


def change_return(t):
    for function, s in t.statements():
        if s.kind != "return" or not function.returns_value:
            continue
        begin, end = s.begin + len("return "), s.end - 1
        value = t.code[begin:end]
        yield [(begin, end, "1" if value in ("0", "false", "NULL") else "0")]


def drop_call(t):
    for mark in t.inside(r"(?<== )-?\w+(?=\()"):
        end = source.closing(t.code, mark.end()) + 1
        if t.code[end] in ",;" and mark.group() not in ("sizeof", "UINT64_C"):
            yield [(mark.start(), end, "0")]


def first_argument(t, match):
    begin = match.end()
    return t.code[begin:source.operand_end(t.code, begin, ())]


def drop_lock(t):
    for function in t.functions:
        for mark in re.compile(r"\b(\w+)\(").finditer(t.code, function.begin, function.end):
            if mark.group(1) not in LOCKS:
                continue
            lock = first_argument(t, mark)
            unlock = re.compile(r"\b%s\(" % LOCKS[mark.group(1)])
            edits = [(mark.start(), source.closing(t.code, mark.end() - 1) + 1, "0")]
            for other in unlock.finditer(t.code, function.begin, function.end):
                if first_argument(t, other) == lock:
                    end = source.closing(t.code, other.end() - 1) + 1
                    edits.append((other.start(), end, "(void)0"))
            if len(edits) > 1:
                yield edits


def change_name(t):
    for mark in t.inside(r"\b[A-Za-z_]\w+\b"):
        for other in NAMES.get(mark.group(), ()):
            yield [(mark.start(), mark.end(), other)]
    for mark in t.inside(r"\bE[A-Z2]{3,}\b"):
        if mark.group() not in NAMES:
            yield [(mark.start(), mark.end(), "EIO" if mark.group() != "EIO" else "EINVAL")]


def change_number(t):
    for mark in t.inside(r"(?<![\w.])(?:0x[0-9a-f]+|[1-9]\d*)(?=[uU]?\b)"):
        value = int(mark.group(), 0)
        if value > 1:
            yield [(mark.start(), mark.end(), str(value + 1))]
            yield [(mark.start(), mark.end(), str(value // 2))]
    # Sizes that are macros or enumerators.
    for mark in re.finditer(r"(?m)^#define [A-Z_]+ +(\d+)(?=u?$)|\b[A-Z]+_[A-Z_]+ = (\d+)(?=[, ])",
                            t.text):
        if "CAP" not in mark.group() and "EXIT" not in mark.group():
            span = mark.span(1) if mark.group(1) else mark.span(2)
            value = int(mark.group(1) or mark.group(2))
            yield [(*span, str(value * 2))]
            yield [(*span, str(value // 2))]


def drop_initialiser(t):
    for mark in t.inside(r"(?<=[\s{])\.\w+ = "):
        end = source.operand_end(t.code, mark.end(), ())
        if t.code[end] == ",":
            yield [(mark.start(), end + 1, "")]
        elif t.code[source.skip_space(t.code, end)] == "}":
            yield [(mark.start(), end, "")]


OPERATORS = {
    "swap-statements": swap_statements,
    "delete-statement": delete_statement,
    "fix-condition": fix_condition,
    "once": once,
    "drop-operand": drop_operand,
    "drop-not": drop_not,
    "comparison": change_comparison,
    "off-by-one": off_by_one,
    "arithmetic": change_arithmetic,
    "return-value": change_return,
    "drop-call": drop_call,
    "drop-lock": drop_lock,
    "constant": change_name,
    "number": change_number,
    "drop-initialiser": drop_initialiser,
}


def apply(text, edits):
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return text


def line_span(text, begin, end):
    """The span of the lines that contain [begin, end)."""
    stop = text.find("\n", end)
    return text.rfind("\n", 0, begin) + 1, len(text) if stop < 0 else stop


def diff(name, text, edits):
    """A diff of the changed lines with two lines of context; difflib does badly on whole files."""
    begin, end = line_span(text, min(e[0] for e in edits), max(e[1] for e in edits))
    for _ in range(2):
        begin, end = line_span(text, max(begin - 1, 0), min(end + 1, len(text)))
    moved = [(first - begin, last - begin, new) for first, last, new in edits]
    lines = list(difflib.unified_diff(text[begin:end].split("\n"),
                                      apply(text[begin:end], moved).split("\n"), name, name,
                                      lineterm="", n=2))
    return "\n".join("@@" if line.startswith("@@") else line for line in lines)


def describe(text, edits):
    """The change without its position, so that a mutant keeps its id when the file changes."""
    words = []
    for begin, end, new in edits:
        first, last = line_span(text, begin, end)
        words.append("%s|%d|%d|%s" % (text[first:last].strip(), begin - first, end - begin, new))
    return "\n".join(words)


def mutants(name, text):
    """Every distinct mutant of one source, in the order of its lines."""
    t = Text(name, text)
    seen, counts, found = set(), collections.Counter(), []
    for operator, generate in OPERATORS.items():
        for edits in generate(t):
            result = apply(text, edits)
            if result in seen or result == text:
                continue
            seen.add(result)
            at = min(edit[0] for edit in edits)
            names = [f.name for f in t.functions if f.begin <= at < f.end]
            function = names[0] if names else ""
            key = "\n".join((name, function, describe(text, edits)))
            counts[key] += 1
            digest = hashlib.sha1(("%s\n%d" % (key, counts[key])).encode()).hexdigest()[:8]
            found.append(Mutant(digest, name, text.count("\n", 0, at) + 1, function, operator,
                                edits))
    return sorted(found, key=lambda m: m.line)
