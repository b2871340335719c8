#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Litmus tests with known answers, as a test of executions.py."""

import sys

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from executions import executions  # noqa: E402


def stores(place, value, order="relaxed", then=()):
    def thread():
        yield "W", place, order, value
        for operation in then:
            yield operation

    return thread


def message(release, acquire, fences=(None, None)):
    """MP: a reader that sees the flag sees what was written before it."""

    def writer():
        yield "W", "x", "relaxed", 1
        if fences[0]:
            yield "F", None, fences[0]
        yield "W", "y", release, 1

    def reader():
        flag = yield "R", "y", acquire
        if fences[1]:
            yield "F", None, fences[1]
        return {"stale": flag == 1 and (yield "R", "x", "relaxed") == 0}

    return [writer, reader], lambda r, end: r["stale"]


def store_buffers(order, fence=None):
    """SB: each thread writes its place, then reads the other's."""

    def thread(mine, other, name):
        def run():
            yield "W", mine, order, 1
            if fence:
                yield "F", None, fence
            return {name: (yield "R", other, order)}

        return run

    return [thread("x", "y", "a"), thread("y", "x", "b")], lambda r, end: not (r["a"] or r["b"])


def two_writes(order):
    """2+2W: both threads write both places, in opposite order, and the first writes win."""
    return ([stores("x", 1, order, [("W", "y", order, 2)]),
             stores("y", 1, order, [("W", "x", order, 2)])],
            lambda r, end: end["x"] == end["y"] == 1)


def independent_readers(load, store):
    """IRIW: two readers see two writes in different orders."""

    def reader(first, second, name):
        def run():
            a = yield "R", first, load
            b = yield "R", second, load
            return {name: (a, b)}

        return run

    return ([stores("x", 1, store), stores("y", 1, store), reader("x", "y", "p"),
             reader("y", "x", "q")],
            lambda r, end: r["p"] == r["q"] == (1, 0))


def overwritten(fence):
    """R: one thread writes two places, the other overwrites the second and reads the first."""

    def other():
        yield "W", "y", "release", 2
        if fence:
            yield "F", None, fence
        return {"x": (yield "R", "x", "acquire")}

    def writer():
        yield "W", "x", "relaxed", 1
        yield "F", None, "wmb"
        yield "W", "y", "relaxed", 1

    return [writer, other], lambda r, end: end["y"] == 2 and not r["x"]


def through_an_update(order):
    """A release sequence: the flag is read from a third thread's read-modify-write."""

    def writer():
        yield "W", "x", "relaxed", 1
        yield "W", "y", "release", 1

    def between():
        yield "U", "y", order, lambda v: v + 1

    def reader():
        flag = yield "R", "y", "acquire"
        return {"stale": flag == 2 and (yield "R", "x", "relaxed") == 0}

    return [writer, between, reader], lambda r, end: r["stale"]


def through_a_store():
    """A plain store in place of the read-modify-write ends the release sequence."""

    def writer():
        yield "W", "x", "relaxed", 1
        yield "W", "y", "release", 1
        yield "W", "y", "relaxed", 2

    def reader():
        flag = yield "R", "y", "acquire"
        return {"stale": flag == 2 and (yield "R", "x", "relaxed") == 0}

    return [writer, reader], lambda r, end: r["stale"]


def load_buffers(order, depends=False):
    """LB: each thread reads its place, then writes the other's."""

    def thread(mine, other, name):
        def run():
            if depends:
                seen = yield "R", mine, order
                yield "W", other, order, seen
            else:
                seen, _ = yield [("R", mine, order), ("W", other, order, 1)]
            return {name: seen}

        return run

    return [thread("x", "y", "a"), thread("y", "x", "b")], lambda r, end: r["a"] == r["b"] == 1


def counters():
    """Neither of two read-modify-writes is lost."""

    def add():
        yield "U", "x", "relaxed", lambda v: v + 1

    return [add, add], lambda r, end: end["x"] != 2


# name, (program, outcome in question), model, whether the outcome is possible
KNOWN = [
    ("MP relaxed", message("relaxed", "relaxed"), "c11", True),
    ("MP release only", message("release", "relaxed"), "c11", True),
    ("MP acquire only", message("relaxed", "acquire"), "c11", True),
    ("MP release, acquire", message("release", "acquire"), "c11", False),
    ("MP fences", message("relaxed", "relaxed", ("release", "acquire")), "c11", False),
    ("MP one fence", message("relaxed", "relaxed", ("release", None)), "c11", True),
    ("MP machine", message("relaxed", "acquire", ("wmb", None)), "mca", False),
    ("MP machine, no wmb", message("relaxed", "acquire"), "mca", True),
    ("MP machine, no acquire", message("release", "relaxed"), "mca", True),
    ("SB release, acquire", store_buffers("acq_rel"), "c11", True),
    ("SB seq_cst", store_buffers("seq_cst"), "c11", False),
    ("SB fences", store_buffers("relaxed", "seq_cst"), "c11", False),
    ("SB weak fences", store_buffers("relaxed", "acq_rel"), "c11", True),
    ("SB machine", store_buffers("relaxed"), "mca", True),
    ("SB machine, fences", store_buffers("relaxed", "seq_cst"), "mca", False),
    ("2+2W release", two_writes("release"), "c11", True),
    ("2+2W seq_cst", two_writes("seq_cst"), "c11", False),
    ("2+2W machine, release", two_writes("release"), "mca", False),
    ("IRIW acquire", independent_readers("acquire", "release"), "c11", True),
    ("IRIW seq_cst", independent_readers("seq_cst", "seq_cst"), "c11", False),
    ("IRIW machine, acquire", independent_readers("acquire", "relaxed"), "mca", False),
    ("IRIW machine, relaxed", independent_readers("relaxed", "relaxed"), "mca", True),
    ("R one fence", overwritten("seq_cst"), "c11", True),
    ("R machine, one fence", overwritten("seq_cst"), "mca", False),
    ("R machine, no fence", overwritten(None), "mca", True),
    ("release sequence", through_an_update("relaxed"), "c11", False),
    ("no release sequence", through_a_store(), "c11", True),
    ("LB relaxed", load_buffers("relaxed"), "c11", True),
    ("LB acquire", load_buffers("acq_rel"), "c11", False),
    ("LB out of thin air", load_buffers("relaxed", True), "c11", False),
    ("LB machine", load_buffers("relaxed"), "mca", True),
    ("LB machine, acquire", load_buffers("acquire"), "mca", False),
    ("counters", counters(), "c11", False),
]


def main():
    wrong = 0
    for name, (program, asked), model, possible in KNOWN:
        found = any(asked(r, end) for r, end in executions(program, {"x": 0, "y": 0}, model))
        wrong += found != possible
        print(f"{'ok   ' if found == possible else 'WRONG'} {name}: "
              f"{'possible' if found else 'impossible'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
