# SPDX-License-Identifier: MIT
"""The C interface: constants, structs and prototypes of dirtylog.h, named as they are there.

tests/test_abi.py compares all of it with the header.
"""

import ctypes
import enum
import operator
import os
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p


class Mode(enum.IntEnum):
    """How the kernel's log is read."""

    AUTO = 0
    RING = 1
    BITMAP = 2


class Backup(enum.IntEnum):
    """Whether in-kernel writers (an ITS) exist, which a ring alone does not see."""

    AUTO = 0
    OFF = 1
    REQUIRED = 2


class Has(enum.IntFlag):
    """What the kernel offers."""

    RING_TSO = 1
    RING_ACQ_REL = 2
    BACKUP = 4
    MANUAL_PROTECT = 8
    INITIALLY_SET = 16
    WATCH = 32


class SlotFlag(enum.IntFlag):
    PAUSED = 1
    CLEAN = 2
    EXISTS = 4
    NO_LOG = 8
    WANTED = 16


class RemoveFlag(enum.IntFlag):
    PAUSED = 1


class HarvestFlag(enum.IntFlag):
    PAUSED = 1
    ALL = 2


class ReapFlag(enum.IntFlag):
    NOW = 2


class CursorFlag(enum.IntFlag):
    CLEAN = 2
    WANTED = 4
    ONE_SLOT = 8
    MISSED = 16
    SKIP_REWRITTEN = 32


class EndFlag(enum.IntFlag):
    COMMIT = 2


class TakeFlag(enum.IntFlag):
    PAUSED = 1
    HARVEST = 2
    NO_CLEAR = 4
    LE = 8


class BitmapFlag(enum.IntFlag):
    TAKE = 2
    LE = 4


class ExtentFlag(enum.IntFlag):
    PADDED = 1


class WatchFlag(enum.IntFlag):
    AUDIT = 2


class GoalFlag(enum.IntFlag):
    ADVISE = 2


class Verdict(enum.IntEnum):
    """What a plan says of a migration."""

    CONTINUE = 0
    SWITCHOVER = 1
    THROTTLED = 2
    LATE = 3
    DIVERGING = 4


class Bound(enum.IntEnum):
    """What keeps a migration from its goal."""

    NONE = 0
    STALL = 1
    DEADLINE = 2
    FLOOR = 3
    PAUSE = 4
    IGNORED = 5


class dl_options(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("mode", c_uint32),
        ("backup", c_uint32),
        ("ring_entries", c_uint32),
        ("reserved", c_uint32),
        ("idle_ns", c_uint64),
        ("os", c_void_p),
    ]


class dl_config(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("has", c_uint32),
        ("mode", c_uint32),
        ("backup", c_uint32),
        ("ring_entries", c_uint32),
        ("ring_max_entries", c_uint32),
        ("page_bytes", c_uint32),
        ("reserved", c_uint32),
    ]


class dl_slot(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("slot", c_uint32),
        ("kvm_flags", c_uint32),
        ("gpa", c_uint64),
        ("bytes", c_uint64),
        ("hva", c_uint64),
        ("cookie", c_uint64),
    ]


class dl_extent(ctypes.Structure):
    _fields_ = [
        ("gpa", c_uint64),
        ("hva", c_uint64),
        ("offset_bytes", c_uint64),
        ("bytes", c_uint64),
        ("cookie", c_uint64),
        ("ticket", c_uint64),
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("reserved", c_uint64),
    ]


class dl_bitmap(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("as_id", c_uint32),
        ("reserved", c_uint32),
        ("gpa", c_uint64),
        ("bytes", c_uint64),
        ("page_bytes", c_uint64),
    ]


class dl_cursor_options(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("vcpus", c_uint32),
        ("slot", c_uint32),
        ("coalesce_bytes", c_uint64),
        ("max_extent_bytes", c_uint64),
    ]


class dl_cursor_stats(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("reserved", c_uint32),
        ("pending_bytes", c_uint64),
        ("unacked_bytes", c_uint64),
        ("read_bytes", c_uint64),
        ("acked_bytes", c_uint64),
        ("passes", c_uint64),
    ]


class dl_stats(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("limited_vcpus", c_uint32),
        ("entries", c_uint64),
        ("new_pages", c_uint64),
        ("duplicates", c_uint64),
        ("stale_entries", c_uint64),
        ("resets", c_uint64),
        ("short_resets", c_uint64),
        ("overflows", c_uint64),
        ("repairs", c_uint64),
        ("full_exits", c_uint64),
        ("high_water_entries", c_uint64),
        ("ioctl_ns", c_uint64),
        ("dirty_bytes_per_s", c_uint64),
        ("paused_ns", c_uint64),
        ("watched_bytes", c_uint64),
        ("missed_bytes", c_uint64),
        ("late_marks", c_uint64),
        ("repair_bytes", c_uint64),
        ("failed_marks", c_uint64),
        ("written_bytes_per_s", c_uint64),
    ]


class dl_goal(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("flags", c_uint32),
        ("downtime_ns", c_uint64),
        ("fixed_ns", c_uint64),
        ("total_ns", c_uint64),
        ("longest_pause_ns", c_uint64),
        ("least_run_ppm", c_uint32),
        ("reserved", c_uint32),
    ]


class dl_advice(ctypes.Structure):
    _fields_ = [
        ("size", c_uint32),
        ("verdict", c_uint32),
        ("pending_bytes", c_uint64),
        ("dirty_bytes_per_s", c_uint64),
        ("written_bytes_per_s", c_uint64),
        ("wire_bytes_per_s", c_uint64),
        ("downtime_ns", c_uint64),
        ("remaining_ns", c_uint64),
        ("again_ns", c_uint64),
        ("least_pending_bytes", c_uint64),
        ("run_ppm", c_uint32),
        ("limited_vcpus", c_uint32),
        ("bound_by", c_uint32),
        ("reserved", c_uint32),
    ]


class iovec(ctypes.Structure):
    """struct iovec of <sys/uio.h>."""

    _fields_ = [("iov_base", c_void_p), ("iov_len", c_size_t)]


class u32(c_uint32):
    """A parameter. ctypes would cut a larger number, and the call would mean another slot."""

    @classmethod
    def from_param(cls, value):
        return c_uint32(_within(value, 32))


class u64(c_uint64):
    @classmethod
    def from_param(cls, value):
        return c_uint64(_within(value, 64))


def _within(value, bits):
    value = operator.index(value)
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{value} does not fit into {bits} bits")
    return value


def fill(struct, **fields):
    """Sets fields of a struct, and its size. Returns it."""
    struct.size = ctypes.sizeof(struct)
    for name, value in fields.items():
        setattr(struct, name, value)
        if (getattr(struct, name) or 0) != (value or 0):
            raise ValueError(f"{name}: {value} does not fit")
    return struct


_handle, _out, _words = c_void_p, POINTER(c_void_p), POINTER(c_uint64)

# The result, then the parameters.
PROTOTYPES = {
    "dl_library_version": (c_uint32,),
    "dl_probe": (c_int, c_int, POINTER(dl_options), POINTER(dl_config), c_char_p, c_size_t),
    "dl_log_open": (c_int, c_int, POINTER(dl_options), _out, c_char_p, c_size_t),
    "dl_log_close": (None, _handle),
    "dl_log_config": (c_int, _handle, POINTER(dl_config)),
    "dl_log_stats": (c_int, _handle, POINTER(dl_stats)),
    "dl_log_describe": (c_int, _handle, c_char_p, c_size_t),
    "dl_log_last_error": (c_int, _handle, c_char_p, c_size_t),
    "dl_slot_set": (c_int, _handle, POINTER(dl_slot)),
    "dl_slot_remove": (c_int, _handle, u32, u32, _words, u64),
    "dl_slot_clear": (c_int, _handle, u32, u64, u64),
    "dl_slot_watch": (c_int, _handle, u32, c_void_p, u32),
    "dl_vcpu_add": (c_int, _handle, c_int, u64, u32, _out),
    "dl_vcpu_drain": (c_int, _handle, u32),
    "dl_vcpu_stats": (c_int, _handle, POINTER(dl_stats)),
    "dl_vcpu_limit": (c_int, _handle, u64),
    "dl_vcpu_pause_due": (c_int, _handle, POINTER(c_uint64)),
    "dl_vcpu_remove": (None, _handle),
    "dl_log_fd": (c_int, _handle),
    "dl_log_reap": (c_int, _handle, u32, POINTER(c_uint64)),
    "dl_log_kicks": (c_int, _handle, POINTER(c_uint64), u32),
    "dl_cursor_new": (c_int, _handle, POINTER(dl_cursor_options), _out),
    "dl_harvest": (c_int, _handle, u32, POINTER(c_uint64)),
    "dl_cursor_read": (c_int, _handle, POINTER(dl_extent), u32),
    "dl_cursor_ack": (c_int, _handle, POINTER(dl_extent), u32),
    "dl_cursor_end": (c_int, _handle, u32),
    "dl_cursor_take": (c_int, _handle, u32, u32, _words, u64, POINTER(c_uint64)),
    "dl_cursor_stats": (c_int, _handle, POINTER(dl_cursor_stats)),
    "dl_cursor_free": (None, _handle),
    "dl_mark_gpa": (c_int, _handle, u32, u64, u64),
    "dl_mark_slot": (c_int, _handle, u32, u64, u64),
    "dl_mark_hva": (c_int, _handle, c_void_p, u64),
    "dl_mark_iov": (c_int, _handle, POINTER(iovec), u32, u64, u64),
    "dl_mark_bitmap": (c_int, _handle, POINTER(dl_bitmap), _words, u64, POINTER(c_uint64)),
    "dl_plan_new": (c_int, _handle, POINTER(dl_goal), _out),
    "dl_plan_sent": (c_int, _handle, u64, u64),
    "dl_plan_next": (c_int, _handle, u64, POINTER(dl_advice)),
    "dl_plan_free": (None, _handle),
}

SONAME = "libdirtylog.so.0"


def load(version):
    """Loads the library, of the same release series as the binding. Argument: its (x, y, z)."""
    # A call releases the interpreter's lock, so that one that blocks holds up no other thread.
    library = ctypes.CDLL(os.environ.get("DIRTYLOG_LIBRARY", SONAME))
    for name, (result, *parameters) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    has = library.dl_library_version()
    has = (has >> 16, has >> 8 & 0xff, has & 0xff)
    # Before 1.0 the ABI may change with each minor release.
    if has[:2] != version[:2] if version[0] == 0 else has[0] != version[0]:
        raise ImportError("libdirtylog is %d.%d.%d, but this binding is made for %d.%d.%d"
                          % (has + version))
    return library
