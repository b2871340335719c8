# SPDX-License-Identifier: MIT
"""Memslots."""

from __future__ import annotations

from typing import Any

from ._abi import RemoveFlag, SlotFlag, WatchFlag, dl_slot, fill
from ._handle import flags, lib
from ._memory import address_of, view_of, words_of

SAME: Any = object()


class Memory:
    """What the cookie of an extent leads to: a slot's memory, and what its owner calls it."""

    def __init__(self, memory, cookie):
        self.view = view_of(memory)
        self.cookie = cookie


class Slot:
    """A memslot of a guest; Log.slot() makes it. A context manager: leaving it removes the slot.

    Nothing else removes it: without a `with`, it stays when this object is gone.

    number  as_id << 16 | id, as in KVM
    gpa     guest physical address of its first byte
    memory  a memoryview of what the guest sees there, without a copy
    cookie  the caller's; every extent of the slot has it
    """

    def __init__(self, log, number, key, memory, kvm_flags, no_log):
        self.number = number
        self.gpa = 0
        self.removed = False
        self._log = log
        self._key = key
        self._memory = memory
        self._alias = None
        self._kvm_flags = kvm_flags
        self._state = flags((SlotFlag.NO_LOG, no_log))

    @property
    def memory(self) -> memoryview:
        self._check()
        return self._memory.view

    @property
    def bytes(self) -> int:
        return self.memory.nbytes

    @property
    def cookie(self):
        self._check()
        return self._memory.cookie

    def _check(self):
        if self.removed:
            raise ValueError(f"slot {self.number:#x} was removed")

    def _set(self, gpa, state, once):
        slot = fill(dl_slot(), flags=state | once, slot=self.number, kvm_flags=self._kvm_flags,
                    gpa=gpa, bytes=self.memory.nbytes, hva=address_of(self.memory),
                    cookie=self._key)
        self._log._call(lib.dl_slot_set, slot)
        self.gpa, self._state = gpa, state

    def set(self, *, gpa: int | None = None, cookie=SAME, wanted: bool | None = None,
            clean: bool = False, paused: bool = False) -> None:
        """Moves the slot, or changes what it is: what is not given stays (dl_slot_set).

        A new cookie shows at once, also in extents that were read before.
        """
        self._check()
        state = self._state
        if wanted is not None:
            state = state & ~SlotFlag.WANTED | flags((SlotFlag.WANTED, wanted))
        once = flags((SlotFlag.CLEAN, clean), (SlotFlag.PAUSED, paused))
        self._set(self.gpa if gpa is None else gpa, state, once)
        if cookie is not SAME:
            self._memory.cookie = cookie

    def remove(self, words=None, *, paused: bool = False) -> None:
        """Deletes the memslot (dl_slot_remove), and lets go of its memory.

        words   a bitmap, see words(): what some cursor had not acknowledged is ored in
        paused  no vCPU runs: otherwise all pages count as dirty
        Extents that were read before keep the memory mapped while they exist.
        """
        self._check()
        pointer, n_words = words_of(words)
        self._log._call(lib.dl_slot_remove, self.number, flags((RemoveFlag.PAUSED, paused)),
                        pointer, n_words)
        self.removed = True
        self._log._forget(self._key)
        self._memory = self._alias = None

    def clear(self, offset_bytes: int = 0, bytes: int | None = None) -> None:
        """Re-protects what Cursor.take(no_clear=True) left writable (dl_slot_clear).

        Contents may be read after this returned.
        """
        if bytes is None:
            bytes = self.memory.nbytes - offset_bytes
        self._log._call(lib.dl_slot_clear, self.number, offset_bytes, bytes)

    def mark(self, offset_bytes: int, bytes: int) -> None:
        """Says that this range was written: write, mark, then notify the guest (dl_mark_slot)."""
        self._log._call(lib.dl_mark_slot, self.number, offset_bytes, bytes)

    def watch(self, alias, *, audit: bool = False) -> None:
        """Finds what this process writes through alias, marked or not (dl_slot_watch).

        alias   a second mapping of the slot's memory, of its size; None ends the watch. It is kept
                from being closed as long as the slot is watched.
        audit   count what is never marked; Log.cursor(missed=True) is shown it
        """
        self._check()
        view = None if alias is None else view_of(alias)
        if view is not None and view.nbytes != self.memory.nbytes:
            raise ValueError(f"the alias has {view.nbytes} bytes, the slot {self.memory.nbytes}")
        self._log._call(lib.dl_slot_watch, self.number, None if view is None else address_of(view),
                        flags((WatchFlag.AUDIT, audit)))
        self._alias = view

    def words(self) -> bytearray:
        """An empty bitmap of the slot: a bit a page, in whole words."""
        pages = self.memory.nbytes // self._log.config().page_bytes
        return bytearray((pages + 63) // 64 * 8)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.removed and not self._log.closed:
            self.remove()
