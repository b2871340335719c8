# SPDX-License-Identifier: MIT
"""Consumers: cursors, their passes, and the extents that those hand out."""

from __future__ import annotations

import ctypes
import errno
from collections import namedtuple
from collections.abc import Iterable, Iterator

from ._abi import (CursorFlag, EndFlag, ExtentFlag, HarvestFlag, TakeFlag, dl_cursor_options,
                   dl_cursor_stats, dl_extent, fill)
from ._handle import Error, Handle, Owner, flags, lib
from ._memory import words_of
from ._plan import Plan
from ._slot import Slot

CursorStats = namedtuple(
    "CursorStats", "pending_bytes unacked_bytes read_bytes acked_bytes passes")


def number_of(slot: Slot | int) -> int:
    return slot.number if isinstance(slot, Slot) else slot


class Extent:
    """Adjacent dirty pages of one slot."""

    __slots__ = ("_raw", "_memory")

    def __init__(self, raw, memory):
        self._raw = raw
        self._memory = memory

    gpa = property(lambda self: self._raw.gpa, doc="guest physical address of the first byte")
    hva = property(lambda self: self._raw.hva, doc="host virtual address of the first byte")
    offset_bytes = property(lambda self: self._raw.offset_bytes, doc="from the slot's start")
    bytes = property(lambda self: self._raw.bytes, doc="a multiple of the page size")
    slot = property(lambda self: self._raw.slot, doc="the slot's number when the pass began")
    flags = property(lambda self: ExtentFlag(self._raw.flags))

    def _known(self):
        if self._memory is None:
            raise LookupError(f"slot {self.slot:#x} was gone when the extent was read")
        return self._memory

    @property
    def cookie(self):
        """The slot's cookie."""
        return self._known().cookie

    @property
    def memory(self) -> memoryview:
        """The contents, without a copy. The guest writes them on while it runs.

        The view keeps the slot's memory object alive and mapped, also after the slot is removed:
        mmap.close() raises BufferError until the views are gone.
        """
        return self._known().view[self.offset_bytes:self.offset_bytes + self.bytes]

    def part(self, offset_bytes: int, bytes: int) -> Extent:
        """A page-aligned part, counted from the extent's start; it can be acknowledged alone."""
        if not 0 <= offset_bytes <= offset_bytes + bytes <= self.bytes:
            raise ValueError("the part is not inside the extent")
        raw = dl_extent.from_buffer_copy(self._raw)
        raw.gpa += offset_bytes
        raw.hva += offset_bytes
        raw.offset_bytes += offset_bytes
        raw.bytes = bytes
        return Extent(raw, self._memory)

    def __repr__(self):
        return f"<Extent slot={self.slot:#x} gpa={self.gpa:#x} bytes={self.bytes:#x}>"


class Pass:
    """A pass of a cursor; Cursor.harvest() begins it. A context manager: leaving it ends the pass.

    pending_bytes  what the pass can hand out
    """

    def __init__(self, cursor, pending_bytes):
        self.pending_bytes = pending_bytes
        self.ended = False
        self._cursor = cursor

    def read(self, max_extents: int = 64) -> list[Extent]:
        """Hands out pending memory; an empty list: the pass has no more (dl_cursor_read).

        Each extent is handed out once, to one of the threads that read.
        """
        if self.ended:
            raise Error(errno.EBUSY, "dl_cursor_read", "this pass has ended")
        raw = (dl_extent * max_extents)()
        n = self._cursor._call(lib.dl_cursor_read, raw, max_extents)
        memory = self._cursor._log._memory
        return [Extent(extent, memory.get(extent.cookie)) for extent in raw[:n]]

    def extents(self) -> Iterator[Extent]:
        """Reads extent by extent, and none ahead: a loop that is left has been handed no other."""
        while True:
            extents = self.read(1)
            if not extents:
                return
            yield extents[0]

    def ack(self, extents: Extent | Iterable[Extent]) -> None:
        """As Cursor.ack()."""
        self._cursor.ack(extents)

    def end(self, *, commit: bool = False) -> None:
        """Ends the pass (dl_cursor_end): what was not acknowledged is pending again.

        commit  acknowledge all that was handed out, in read() and extents() of all threads
        """
        if not self.ended:
            self._cursor._call(lib.dl_cursor_end, flags((EndFlag.COMMIT, commit)))
            self.ended = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self._cursor.closed:
            self.end()


class Cursor(Owner):
    """A consumer: what changed since it last acknowledged. Log.cursor() makes it.

    A context manager: leaving it frees the cursor (dl_cursor_free). The last cursor of a log
    switches logging off.
    """

    def __init__(self, log, *, clean=False, wanted=False, one_slot=None, missed=False,
                 skip_rewritten=False, vcpus=0, coalesce_bytes=0, max_extent_bytes=0):
        self._log = log
        options = fill(
            dl_cursor_options(),
            flags=flags((CursorFlag.CLEAN, clean), (CursorFlag.WANTED, wanted),
                        (CursorFlag.ONE_SLOT, one_slot is not None),
                        (CursorFlag.MISSED, missed),
                        (CursorFlag.SKIP_REWRITTEN, skip_rewritten)),
            slot=0 if one_slot is None else number_of(one_slot),
            vcpus=vcpus, coalesce_bytes=coalesce_bytes, max_extent_bytes=max_extent_bytes)
        pointer = ctypes.c_void_p()
        log._call(lib.dl_cursor_new, options, pointer)
        self._handle = Handle(pointer.value, lib.dl_cursor_free)

    def _why(self):
        return self._log._why()

    def harvest(self, *, paused: bool = False, all: bool = False) -> Pass:
        """Begins a pass: collects what was dirtied and re-protects it (dl_harvest).

        paused  no vCPU is in KVM_RUN, and I/O and device state are complete too
        all     first make everything pending: a full copy
        Error with EBUSY: a pass is open.
        """
        pending = ctypes.c_uint64()
        self._call(lib.dl_harvest,
                   flags((HarvestFlag.PAUSED, paused), (HarvestFlag.ALL, all)), pending)
        return Pass(self, pending.value)

    def ack(self, extents: Extent | Iterable[Extent]) -> None:
        """Commits extents or parts of them: their contents are sent (dl_cursor_ack).

        Any thread, any order; an extent of an earlier pass is ignored.
        """
        extents = [extents] if isinstance(extents, Extent) else list(extents)
        raw = (dl_extent * len(extents))(*(extent._raw for extent in extents))
        self._call(lib.dl_cursor_ack, raw, len(extents))

    def take(self, slot: Slot | int, words, *, harvest: bool = False, paused: bool = False,
             no_clear: bool = False, little_endian: bool = False) -> int:
        """Ors a slot's pending pages into a bitmap and commits them (dl_cursor_take).

        words          a writable buffer of whole words, as of Slot.words()
        harvest        harvest first
        paused         with harvest: as for harvest()
        no_clear       leave the pages writable: Slot.clear() before contents are read
        little_endian  as KVM_GET_DIRTY_LOG; otherwise the host's order, which bits() reads
        Returns the number of bytes that were taken. After an error the bits in words are the
        caller's, and the rest is pending.
        """
        pointer, n_words = words_of(words)
        taken = ctypes.c_uint64()
        self._call(lib.dl_cursor_take, number_of(slot),
                   flags((TakeFlag.HARVEST, harvest), (TakeFlag.PAUSED, paused),
                         (TakeFlag.NO_CLEAR, no_clear), (TakeFlag.LE, little_endian)),
                   pointer, n_words, taken)
        return taken.value

    def plan(self, *, downtime_ns: int = 0, fixed_ns: int = 0, total_ns: int = 0,
             longest_pause_ns: int = 0, least_run_ppm: int = 0, advise: bool = False) -> Plan:
        """Starts to control the vCPUs for a goal (dl_plan_new). EBUSY: the log has a plan.

        downtime_ns       longest pause of the guest at the switch; 0: 300 ms
        fixed_ns          of it, what is not memory
        total_ns          budget from now to the end of the switch; 0: none
        longest_pause_ns  of one vCPU at a time; 0: downtime_ns
        least_run_ppm     floor of a vCPU's running time; 0: 1%
        advise            set no limits, only advise
        """
        return Plan(self, downtime_ns=downtime_ns, fixed_ns=fixed_ns, total_ns=total_ns,
                    longest_pause_ns=longest_pause_ns, least_run_ppm=least_run_ppm, advise=advise)

    def stats(self) -> CursorStats:
        stats = fill(dl_cursor_stats())
        self._call(lib.dl_cursor_stats, stats)
        return CursorStats(*(getattr(stats, name) for name in CursorStats._fields))
