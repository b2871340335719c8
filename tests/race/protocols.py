#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Protocols of lib/ that a race detector cannot judge, because they only touch atomics.

Each is modelled here as a small program. Its memory orders are read from the functions of lib/, and
executions.py tries every execution that the memory model allows. A protocol that can lose something
is printed as "LOST name: how", and the exit status is 1.
"""

import argparse
import re
import sys
import time
from pathlib import Path

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from executions import executions  # noqa: E402
from limit_protocols import LIMIT_PROTOCOLS, LONG_LIMIT_PROTOCOLS  # noqa: E402

ORDER = re.compile(r"memory_order_(\w+)")


class Source:
    def __init__(self, lib):
        self.lib = Path(lib)

    def body(self, file, function):
        text = re.sub(r"/\*.*?\*/", " ", (self.lib / file).read_text(), flags=re.S)
        m = re.search(r"\b%s\([^;{]*\)\n\{\n(.*?)^\}" % function, text, re.S | re.M)
        if not m:
            sys.exit(f"protocols.py: no function {function}() in {file}")
        return m.group(1)

    def order(self, file, function):
        """The first memory order in a function."""
        m = ORDER.search(self.body(file, function))
        return m.group(1) if m else "seq_cst"

    def orders(self, file, function):
        """All memory orders in a function."""
        return ORDER.findall(self.body(file, function))

    def fence(self, file, function):
        """The memory order of the fence in a function, which may be a call of ring_barrier()."""
        body = self.body(file, function)
        if re.search(r"\bring_barrier\(", body):
            body = self.body("ring/ring_private.h", "ring_barrier")
        m = re.search(r"atomic_thread_fence\(memory_order_(\w+)\)", body)
        return m.group(1) if m else None


def mark(o, memory, bit):
    """set_word(): sets the leaf, then each summary bit that is not set."""

    def thread():
        _, _, mid = yield [("W", memory, "relaxed", 1),
                           ("U", "leaf", o["set"], lambda x: x | bit),
                           ("R", "mid", o["look"])]
        if not mid & 1:
            yield "U", "mid", o["set_summary"], lambda x: x | 1
        if not (yield "R", "top", o["look"]):
            yield "U", "top", o["set_summary"], lambda x: 1

    return thread


def clear_top(o):
    _, mid = yield [("U", "top", o["drop"], lambda x: 0), ("R", "mid", o["below"])]
    if mid and not (yield "R", "top", o["look"]):
        yield "U", "top", o["set_summary"], lambda x: 1


def take(o, bits):
    """dli_page_set_take() of one chunk with one block. bits: which memory each bit stands for."""

    def thread():
        found = {}
        if not (yield "R", "top", "relaxed"):
            return found
        if not (yield "R", "mid", "relaxed"):
            yield from clear_top(o)
            return found
        mid = yield "U", "mid", o["drop"], lambda x: x & ~1
        if not (yield "R", "mid", "relaxed"):
            yield from clear_top(o)
        if not mid & 1 or not (yield "R", "leaf", o["below"]):
            return found
        word = yield "U", "leaf", o["take"], lambda x: 0
        for memory, bit in bits.items():
            if word & bit:
                found[memory] = yield "R", memory, "relaxed"
        return found

    return thread


def is_kept(found, end, memory, bit):
    """Whether the page was copied in its last version, or the next iteration will find it."""
    return found.get(memory) == 1 or (end["leaf"] & bit and end["mid"] & 1 and end["top"])


def mark_and_take(source, firsts, bits, model="c11"):
    o = {name: source.order("pages/page_set_maps.h", function)
         for name, function in (("set", "set_bits"), ("take", "claim_bits"),
                                ("drop", "clear_summary"), ("below", "load_below"))}
    o["look"], o["set_summary"] = source.orders("pages/page_set_maps.h", "set_summary")
    program = [mark(o, m, b) for m, b in bits.items()] + [take(o, bits)]
    n = 0
    for leaf, mid, top in firsts:
        first = {**{m: 0 for m in bits}, "leaf": leaf, "mid": mid, "top": top}
        for found, end in executions(program, first, model):
            n += 1
            for memory, bit in bits.items():
                if not is_kept(found, end, memory, bit):
                    return n, f"a mark, starting from leaf {leaf}, mid {mid}, top {top}"
    return n, None


def a_mark_meets_a_take(source):
    # Every state that a setter or a taker can leave, including summaries that lead to no page. Bit
    # 2 of mid: another block has pages.
    firsts = [(leaf, mid, top) for leaf in (0, 1, 2) for mid in (0, 1, 2, 3) for top in (0, 1)
              if top and (mid & 1 or not leaf) or not (leaf or mid)]
    return mark_and_take(source, firsts, {"memory": 1})


def two_marks_meet_a_take(source):
    return mark_and_take(source, [(4, 1, 1)], {"memory": 1, "other": 2})


def a_repair_meets_a_clear(source):
    """
    A drain clears the cells of a ring and requests a repair. A harvest sees the request and
    protects the page; then the guest writes it, which fills the cell. The clear must not hit that
    entry.
    """
    clear = source.order("ring/cells.h", "cell_clear")
    request = source.order("ring/reset.c", "dli_reset_request_repair")
    look = source.order("ring/reset.c", "dli_reset_repair_needed")

    def drain():
        yield [("W", "cell", clear, 0), ("U", "requests", request, lambda x: x + 1)]

    def harvest():
        if (yield "R", "requests", look):
            # An ioctl takes and drops locks.
            yield "U", "protected", "acq_rel", lambda x: 1

    def guest():
        if not (yield "U", "protected", "acq_rel", lambda x: 0):
            return {}
        yield "W", "cell", "release", 1
        return {"logged": 1}

    n = 0
    first = {"cell": 1, "requests": 0, "protected": 0}
    for found, end in executions([drain, harvest, guest], first, "c11"):
        n += 1
        if found.get("logged") and not end["cell"]:
            return n, "an entry that the kernel wrote after the repair"
    return n, None


def the_kernel_laps_the_ring(source):
    """
    lapped(): cells are released over entries that an overflowing kernel has just written; it wrote
    the cell before them first. This holds on machines that have rings, not in C11 (see there).
    """
    release = source.order("ring/cells.h", "cell_release")
    load = source.order("ring/cells.h", "cell_load")
    fence = source.fence("ring/ring.c", "lapped")

    def drain():
        steps = [("W", "first", release, 2), ("W", "second", release, 2)]
        steps += [("F", None, fence)] if fence else []
        return {"seen": (yield steps + [("R", "before", load)])[-1]}

    def kernel():
        # Two calls of kvm_dirty_ring_push(), without the stores of slot and offset before each wmb.
        yield [("W", "before", "relaxed", 1), ("F", None, "wmb"), ("W", "first", "relaxed", 3),
               ("F", None, "wmb"), ("W", "second", "relaxed", 3)]

    n = 0
    first = {"before": 0, "first": 1, "second": 1}
    for found, end in executions([drain, kernel], first, "mca"):
        n += 1
        if 2 in (end["first"], end["second"]) and found["seen"] != 1:
            return n, "an entry that was released unread"
    return n, None


def an_entry_after_a_start(source):
    """A start sets the state, then protects pages; a drain must keep the entries that follow."""
    state = source.order("pages/slot_table.h", "dli_slots_set_logging")
    look = source.order("pages/slot_table.h", "dli_slots_are_logging")
    load = source.order("ring/cells.h", "cell_load")

    def start():
        yield [("W", "state", state, 1), ("U", "protected", "acq_rel", lambda x: 1)]

    def guest():
        if (yield "U", "protected", "acq_rel", lambda x: x):
            yield "W", "cell", "release", 1

    def drain():
        if (yield "R", "cell", load):
            return {"on": (yield "R", "state", look)}

    n = 0
    first = {"state": 0, "protected": 0, "cell": 0}
    for found, _ in executions([start, guest, drain], first, "c11"):
        n += 1
        if found.get("on") == 0:
            return n, "an entry that was drained as if logging were off"
    return n, None


def a_harvest_skips_a_drained_ring(source):
    """
    A harvest reads a ring without its lock while the vCPU drains it. It skips the ring only if the
    ring is quiet; then the following iteration must find what was in the ring.
    """
    show = source.order("ring/ring.c", "publish_head")
    look, *again = source.orders("ring/cells.h", "ring_is_quiet")
    load = source.order("ring/cells.h", "cell_load")
    mark = source.order("pages/page_set_maps.h", "set_bits")

    def drain():
        yield "W", "head", show, 0
        # The kernel, in the RESET of this thread: kvm_dirty_gfn_set_invalid().
        yield "W", "cell", "release", 0
        yield "U", "leaf", mark, lambda x: x | 1
        yield "W", "head", show, 2

    def harvest():
        head = yield "R", "head", look
        if not head or (yield "R", "cell", load):
            return {}
        for order in again:
            if (yield "R", "head", order) != head:
                return {}
        return {"lost": not (yield "R", "leaf", "relaxed")}

    n = 0
    for found, _ in executions([drain, harvest], {"head": 1, "cell": 1, "leaf": 0}, "c11"):
        n += 1
        if found.get("lost"):
            return n, "an entry that was in the ring before the harvest began"
    return n, None


def an_acknowledgement_meets_the_end_of_its_pass(source):
    """
    The end waits for acknowledgements that have seen the pass, or these find that it is over. One
    that had seen it and has left must not clear a page that the next pass hands out.
    """
    close, look = source.orders("cursor.c", "dli_pass_close")
    enter = source.order("api/ack.c", "enter_ack")
    leave = source.order("api/ack.c", "leave_ack")
    find = source.order("cursor.h", "dli_cursor_pass")
    clear = source.order("pages/page_set_maps.h", "clear_word")
    claim = source.order("pages/page_set_maps.h", "claim_bits")

    def end():
        _, acks = yield [("W", "pass", close, 0), ("R", "acks", look)]
        if acks:
            return {}
        # The page is pending again, and the next pass hands it out.
        yield [("U", "in_flight", claim, lambda x: 0), ("W", "in_flight", "relaxed", 1)]
        return {"does_not_wait": 1}

    def acknowledge():
        _, open_pass = yield [("U", "acks", enter, lambda x: x + 1), ("R", "pass", find)]
        commit = [("U", "in_flight", clear, lambda x: 0)] if open_pass else []
        yield commit + [("U", "acks", leave, lambda x: x - 1)]
        return {}

    n = 0
    first = {"pass": 1, "acks": 0, "in_flight": 1}
    for found, after in executions([end, acknowledge], first, "c11"):
        n += 1
        if found.get("does_not_wait") and not after["in_flight"]:
            return n, "a page of the next pass"
    return n, None


def an_acknowledgement_meets_a_move_of_its_slot(source):
    """
    is_unknown(): pages that are gone are the caller's mistake, unless their slot has left the pass.
    """
    _, leave = source.orders("cursor.c", "dli_pass_leave")
    claim = source.order("pages/page_set_maps.h", "claim_bits")
    gone = source.order("pages/page_set.c", "is_in_flight")
    look = source.order("api/ack.c", "is_unknown")

    def move():
        yield [("W", "pass", leave, 0), ("U", "in_flight", claim, lambda x: 0)]

    def acknowledge():
        if (yield "R", "in_flight", gone):
            return {}
        return {"refused": (yield "R", "pass", look)}

    n = 0
    for found, _ in executions([move, acknowledge], {"pass": 1, "in_flight": 1}, "c11"):
        n += 1
        if found.get("refused"):
            return n, "the answer to a valid acknowledgement"
    return n, None


def in_section(steps):
    """An RCU read section. Place "rcu" counts the open ones; 8: a grace period has begun."""
    yield "U", "rcu", "acq_rel", lambda x: x + 1
    result = yield from steps
    yield "U", "rcu", "acq_rel", lambda x: x - 1
    return result


def grace_period():
    """False: a section that began before it is still open, so this execution goes no further."""
    if not (yield "U", "rcu", "acq_rel", lambda x: x | 8):
        return True
    return not (yield "R", "rcu", "acquire") & 7


def a_mark_meets_the_sharing_of_its_slot(source):
    """
    A slot gets a second view: marks go to its fresh set, whose pages are added to the only view's
    set with plain stores. A marker that still uses the view's set must be through by then.
    """
    publish = source.order("pages/view.c", "set_target")
    look = source.order("pages/slot_table.h", "dli_slot_target")
    mark, claim = (source.order("pages/page_set_maps.h", f) for f in ("set_bits", "claim_bits"))
    load, store = source.orders("pages/page_set.c", "mark_words_alone")
    waits = "dli_rcu_synchronize" in source.body("coverage.c", "dli_views_install")

    def marker():
        def steps():
            fresh = yield "R", "target", look
            complete = not fresh or (yield "R", "made", "relaxed")
            yield "U", "fresh" if fresh else "view", mark, lambda x: x | 1
            return {"incomplete": not complete}

        return (yield from in_section(steps()))

    def share():
        yield "W", "made", "relaxed", 1
        yield "W", "target", publish, 1
        if waits and not (yield from grace_period()):
            return {"waits": 1}
        # Another marker's page is there already.
        bits = yield "U", "fresh", claim, lambda x: 0
        before = yield "R", "view", load
        yield "W", "view", store, before | bits
        return {}

    n = 0
    first = {"target": 0, "made": 0, "fresh": 2, "view": 0, "rcu": 0}
    for found, end in executions([marker, share], first, "c11"):
        n += not found.get("waits")
        if found["incomplete"]:
            return n, "a mark in a set that is not complete"
        if not found.get("waits") and (end["fresh"] | end["view"]) != 3:
            return n, "a mark that was in the only view's set"
    return n, None


def a_foreign_bit_meets_a_take(source):
    """
    A device writes memory and sets its bit, twice, while a thread takes the bit and marks the page,
    and a consumer takes the page and reads it. Without TAKE the bit stays, and is only looked at.
    """
    look, take = source.orders("pages/foreign.c", "get_bits")
    mark, claim = (source.order("pages/page_set_maps.h", f) for f in ("set_bits", "claim_bits"))
    body = source.body("pages/foreign.c", "mark_inside")
    takes_first = body.index("get_bits(") < body.index("add_same_pages(")

    def device():
        for version in (1, 2):
            yield "W", "memory", "relaxed", version
            yield "U", "log", "release", lambda x: 1

    def taker():
        if not (yield "R", "log", "relaxed"):
            return {}
        if not takes_first:
            yield "U", "pending", mark, lambda x: 1
        if (yield "U", "log", take, lambda x: 0) and takes_first:
            yield "U", "pending", mark, lambda x: 1
        return {}

    def viewer():
        if (yield "R", "log", look):
            yield "U", "pending", mark, lambda x: 1
        return {}

    def consumer():
        if (yield "U", "pending", claim, lambda x: 0):
            return {"read": (yield "R", "memory", "relaxed")}
        return {}

    n = 0
    first = {"memory": 0, "log": 0, "pending": 0}
    for found, end in executions([device, taker, consumer], first, "c11"):
        n += 1
        if not end["log"] and not end["pending"] and found.get("read") != 2:
            return n, "a write whose bit was taken"
    for found, end in executions([device, viewer, consumer], first, "c11"):
        n += 1
        if found.get("read") == 0:
            return n, "a write whose bit was seen"
    return n, None


def a_look_at_the_counts_meets_a_move(source):
    """
    Pages move from the fresh set to a view's own while another thread adds what the view has to
    hand out.
    """
    add = source.order("pages/page_set_maps.h", "add_pages")
    subtract = source.order("pages/page_set_take.c", "dli_page_set_moved")
    count = source.order("pages/page_set.c", "count_pages")
    looks = source.body("pages/view.c", "dli_view_pending_pages").count("_pending_pages(")

    def mover(function):
        body = source.body("pages/view.c", function)
        steps = [("U", "own", add, lambda x: x + 1), ("U", "fresh", subtract, lambda x: x - 1)]
        if body.index("dli_page_set_moved(") < body.index("dli_page_set_mark_alone("):
            steps.reverse()

        def thread():
            for step in steps:
                yield step
            return {}

        return thread

    def looker():
        for place in ("own", "fresh", "own")[:looks]:
            if (yield "R", place, count):
                return {}
        return {"nothing": 1}

    n = 0
    for function in ("dli_slot_distribute", "take_fresh"):
        for found, _ in executions([mover(function), looker], {"own": 0, "fresh": 1}, "c11"):
            n += 1
            if found.get("nothing"):
                return n, "pages that are counted nowhere"
    return n, None


PROTOCOLS = [a_mark_meets_a_take, a_harvest_skips_a_drained_ring,
             an_acknowledgement_meets_the_end_of_its_pass,
             an_acknowledgement_meets_a_move_of_its_slot, a_repair_meets_a_clear,
             the_kernel_laps_the_ring, an_entry_after_a_start,
             a_mark_meets_the_sharing_of_its_slot, a_foreign_bit_meets_a_take,
             a_look_at_the_counts_meets_a_move] + LIMIT_PROTOCOLS
LONG_PROTOCOLS = [two_marks_meet_a_take] + LONG_LIMIT_PROTOCOLS


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", default=Path(__file__).resolve().parent.parent.parent / "lib",
                        help="the sources to read (default: those of this tree)")
    parser.add_argument("--long", action="store_true", help="run those that take longer, too")
    args = parser.parse_args()
    source = Source(args.lib)
    lost = 0
    for protocol in PROTOCOLS + (LONG_PROTOCOLS if args.long else []):
        begin = time.monotonic()
        n, how = protocol(source)
        lost += bool(how)
        print(f"{'LOST' if how else 'ok  '} {protocol.__name__}: {how or f'{n} executions'}"
              f" ({time.monotonic() - begin:.1f} s)", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
