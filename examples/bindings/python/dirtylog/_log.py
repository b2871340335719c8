# SPDX-License-Identifier: MIT
"""The log of a VM, and its vCPUs."""

from __future__ import annotations

import ctypes
import itertools
from collections import namedtuple
from collections.abc import Sequence
from typing import NamedTuple

from ._abi import (Backup, BitmapFlag, Has, Mode, ReapFlag, SlotFlag, dl_bitmap, dl_config,
                   dl_options, dl_stats, fill, iovec)
from ._cursor import Cursor
from ._handle import Error, Handle, Owner, fileno, flags, lib, text_of
from ._memory import address_of, view_of, words_of
from ._slot import Memory, Slot

_WHY_BYTES = 512
_NEVER = 2**64 - 1

Stats = namedtuple(
    "Stats", [name for name, _ in dl_stats._fields_ if name not in ("size", "reserved")])


class Config(NamedTuple):
    """What the kernel offers, and what is, or would be, in use."""

    has: Has
    mode: Mode | int
    backup: bool
    ring_entries: int
    ring_max_entries: int
    page_bytes: int


class Probe(NamedTuple):
    config: Config
    why: str


def _config(raw) -> Config:
    # A newer library may have modes of which this binding knows the number only.
    mode = Mode(raw.mode) if raw.mode in set(Mode) else raw.mode
    return Config(Has(raw.has), mode, bool(raw.backup), raw.ring_entries,
                  raw.ring_max_entries, raw.page_bytes)


def _options(mode, backup, ring_entries, idle_ns, os) -> dl_options:
    return fill(dl_options(), mode=mode, backup=backup, ring_entries=ring_entries,
                idle_ns=idle_ns, os=os)


def _stats(raw) -> Stats:
    return Stats(*(getattr(raw, name) for name in Stats._fields))


def library_version() -> tuple[int, int, int]:
    """The version of the library that was loaded."""
    version = lib.dl_library_version()
    return version >> 16, version >> 8 & 0xff, version & 0xff


def probe(fd, *, mode: Mode = Mode.AUTO, backup: Backup = Backup.AUTO, ring_entries: int = 0,
          idle_ns: int = 0, os: int | None = None) -> Probe:
    """What Log() would choose on fd, /dev/kvm or a VM, and why; changes nothing (dl_probe)."""
    config = fill(dl_config())
    why = ctypes.create_string_buffer(_WHY_BYTES)
    result = lib.dl_probe(fileno(fd), _options(mode, backup, ring_entries, idle_ns, os), config,
                          why, _WHY_BYTES)
    words = why.value.decode(errors="replace")
    if result < 0:
        raise Error(-result, "dl_probe", words)
    return Probe(_config(config), words)


class Vcpu(Owner):
    """A vCPU as a source; Log.vcpu() adds it. A context manager: leaving it removes the vCPU.

    The vCPU must not be in KVM_RUN when this is closed, or collected: its thread keeps it.
    """

    def __init__(self, log, vcpu_fd, cookie=0):
        self._log = log
        pointer = ctypes.c_void_p()
        log._call(lib.dl_vcpu_add, fileno(vcpu_fd), cookie, 0, pointer)
        self._handle = Handle(pointer.value, lib.dl_vcpu_remove)

    def _why(self):
        return self._log._why()

    def drain(self) -> None:
        """Empties the ring; after KVM_EXIT_DIRTY_RING_FULL, before KVM_RUN (dl_vcpu_drain)."""
        self._call(lib.dl_vcpu_drain, 0)

    def limit(self, bytes_per_s: int) -> None:
        """Limits how fast the vCPU dirties new memory; 0: no limit (dl_vcpu_limit)."""
        self._call(lib.dl_vcpu_limit, bytes_per_s)

    def pause_due(self) -> int:
        """Nanoseconds that the vCPU must stay out of KVM_RUN; 0: enter (dl_vcpu_pause_due).

        For the thread that runs the vCPU: its CPU time is how long the guest ran.
        """
        pause = ctypes.c_uint64()
        self._call(lib.dl_vcpu_pause_due, pause)
        return pause.value

    def stats(self) -> Stats:
        stats = fill(dl_stats())
        self._call(lib.dl_vcpu_stats, stats)
        return _stats(stats)


class Log(Owner):
    """The dirty log of one VM, which has no vCPU and no memslot yet (dl_log_open).

    A context manager: leaving it closes the log (dl_log_close). It has fileno(), so selectors and
    asyncio take it as it is.

    vm_fd    KVM_CREATE_VM's descriptor, or an object with fileno(); duplicated
    idle_ns  the longest interval between looks at idle rings; 0: the library's own
    os       the address of a struct dl_os, for tests and models; it must outlive the log
    """

    def __init__(self, vm_fd, *, mode: Mode = Mode.AUTO, backup: Backup = Backup.AUTO,
                 ring_entries: int = 0, idle_ns: int = 0, os: int | None = None):
        self._keys = itertools.count(1)
        self._memory = {}
        pointer = ctypes.c_void_p()
        why = ctypes.create_string_buffer(_WHY_BYTES)
        result = lib.dl_log_open(fileno(vm_fd), _options(mode, backup, ring_entries, idle_ns, os),
                                 pointer, why, _WHY_BYTES)
        if result < 0:
            raise Error(-result, "dl_log_open", why.value.decode(errors="replace"))
        self._handle = Handle(pointer.value, lib.dl_log_close)

    def close(self) -> None:
        """Stops logging. The calls of its vCPUs and cursors fail with ECANCELED from now on.

        The log lets go of the slots' memory; the guest does not. Keep the memory until the VM is
        gone: unmapped, and mapped anew as something else, it would be the guest's.
        """
        super().close()
        if self._handle is not None:
            self._memory.clear()

    def _why(self):
        try:
            return self.last_error()
        except ValueError:
            return ""  # the log is closed; its cursors and vCPUs are not

    def _forget(self, key):
        self._memory.pop(key, None)

    def slot(self, number: int, memory, *, gpa: int, cookie=None, kvm_flags: int = 0,
             exists: bool = False, clean: bool = False, paused: bool = False,
             no_log: bool = False, wanted: bool = False) -> Slot:
        """Creates a memslot (dl_slot_set).

        UNSAFE: the guest reads and writes this memory from now on, behind Python's back, until
        the slot is removed or the VM is gone. The slot keeps the object alive, and an mmap or a
        bytearray cannot be closed or resized meanwhile; but closing the log lets go of it.

        number  as_id << 16 | id
        memory  a writable buffer, page aligned and a multiple of the page size: an mmap, a
                memoryview of a part of it, or an Address
        cookie  the caller's, any object: every extent of the slot has it
        exists  the caller has created the slot in KVM, with this memory, unlogged
        """
        key = next(self._keys)
        slot = Slot(self, number, key, Memory(memory, cookie), kvm_flags, no_log)
        # Known before the C call makes it so: another thread may read its extents at once.
        self._memory[key] = slot._memory
        once = flags((SlotFlag.EXISTS, exists), (SlotFlag.CLEAN, clean),
                     (SlotFlag.PAUSED, paused))
        try:
            slot._set(gpa, slot._state | flags((SlotFlag.WANTED, wanted)), once)
        except BaseException:
            self._forget(key)
            raise
        return slot

    def vcpu(self, vcpu_fd, cookie: int = 0) -> Vcpu:
        """Adds a vCPU before its first KVM_RUN (dl_vcpu_add)."""
        return Vcpu(self, vcpu_fd, cookie)

    def cursor(self, *, clean: bool = False, wanted: bool = False,
               one_slot: Slot | int | None = None, missed: bool = False,
               skip_rewritten: bool = False, vcpus: int = 0, coalesce_bytes: int = 0,
               max_extent_bytes: int = 0) -> Cursor:
        """Adds a consumer, and switches logging on for what it covers (dl_cursor_new).

        clean             start with nothing pending; otherwise with everything
        wanted            only slots that are wanted
        one_slot          only the slot of that number, whenever it exists
        missed            log nothing: only what a watch found and no mark named
        skip_rewritten    the first pass leaves what is written again to the next
        vcpus             of the VM now: fewer that were added are an error
        coalesce_bytes    join extents over clean gaps up to this
        max_extent_bytes  of one extent; 0: no limit
        """
        return Cursor(self, clean=clean, wanted=wanted, one_slot=one_slot, missed=missed,
                      skip_rewritten=skip_rewritten, vcpus=vcpus,
                      coalesce_bytes=coalesce_bytes, max_extent_bytes=max_extent_bytes)

    def fileno(self) -> int:
        """A descriptor that is readable when reap() has work; the log's own (dl_log_fd)."""
        return self._call(lib.dl_log_fd)

    def reap(self, *, now: bool = False) -> int | None:
        """Empties rings that are about to fill (dl_log_reap).

        now  empty all of them
        Returns in how many nanoseconds to call again; None: not before a cursor exists.
        """
        again = ctypes.c_uint64()
        self._call(lib.dl_log_reap, flags((ReapFlag.NOW, now)), again)
        return None if again.value == _NEVER else again.value

    def kicks(self, max_cookies: int = 64) -> list[int]:
        """Takes the cookies of vCPUs that must leave KVM_RUN, or a pause (dl_log_kicks).

        Call it after reap() and Plan.next(), until it returns an empty list.
        """
        cookies = (ctypes.c_uint64 * max_cookies)()
        return cookies[:self._call(lib.dl_log_kicks, cookies, max_cookies)]

    def config(self) -> Config:
        config = fill(dl_config())
        self._call(lib.dl_log_config, config)
        return _config(config)

    def stats(self) -> Stats:
        stats = fill(dl_stats())
        self._call(lib.dl_log_stats, stats)
        return _stats(stats)

    def describe(self) -> str:
        """Mode, reason, the last failure and advice."""
        with self._handle as pointer:
            return text_of(lib.dl_log_describe, pointer)

    def last_error(self) -> str:
        """The last failure of the log, its vCPUs and cursors; empty: nothing has failed."""
        with self._handle as pointer:
            return text_of(lib.dl_log_last_error, pointer)

    # Marks: write, mark, then notify the guest.

    def mark_gpa(self, gpa: int, bytes: int, as_id: int = 0) -> None:
        """Marks pages by guest address. ENOENT: a part is in no slot; the rest is marked."""
        self._call(lib.dl_mark_gpa, as_id, gpa, bytes)

    def mark_hva(self, memory) -> None:
        """Marks the pages of a buffer, a part of a slot's memory, in every slot that maps it."""
        view = view_of(memory)
        self._call(lib.dl_mark_hva, address_of(view), view.nbytes)

    def mark_iov(self, buffers: Sequence, bytes: int, offset_bytes: int = 0) -> None:
        """Marks bytes of a scattered buffer: what os.readv(fd, buffers) returned.

        offset_bytes  what earlier calls read into the same buffers
        """
        views = [view_of(buffer) for buffer in buffers]
        vectors = (iovec * len(views))(*((address_of(view), view.nbytes) for view in views))
        self._call(lib.dl_mark_iov, vectors, len(views), offset_bytes, bytes)

    def mark_bitmap(self, words, gpa: int, bytes: int, page_bytes: int, *, as_id: int = 0,
                    take: bool = False, little_endian: bool = False) -> int:
        """Marks the pages that a foreign log names: vhost's, vhost-user's, VFIO's (dl_mark_bitmap).

        words          a writable buffer of whole words, perhaps shared with the log's writer
        gpa            of bit 0, a multiple of page_bytes
        bytes          of memory that the bitmap covers
        page_bytes     per bit
        take           the writer is live: bits that cursors get are taken from words
        little_endian  as vhost-user's; otherwise the host's order
        Returns the number of bytes of host pages that were marked. ENOENT: a bit's page is in no
        slot; the rest is marked.
        """
        pointer, n_words = words_of(words)
        bitmap = fill(dl_bitmap(), as_id=as_id, gpa=gpa, bytes=bytes, page_bytes=page_bytes,
                      flags=flags((BitmapFlag.TAKE, take), (BitmapFlag.LE, little_endian)))
        marked = ctypes.c_uint64()
        self._call(lib.dl_mark_bitmap, bitmap, pointer, n_words, marked)
        return marked.value
