# SPDX-License-Identifier: MIT
"""A VM on the model kernel, libdirtylog-model, whose guest writes to all its pages for ever."""

import ctypes
import mmap
import os
import unittest
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p

from worker import Worker

MEMORY_BYTES = 1 << 20
PAGE = 4096  # the model's
RING_FULL, EXIT_IO = 1, 2
RING_ENTRIES, RESERVED_ENTRIES = 256, 192  # the rest fills it in less than two rounds

PROTOTYPES = {
    "dlm_vm_new": (c_int, c_void_p, POINTER(c_void_p), c_char_p, c_size_t),
    "dlm_vm_free": (None, c_void_p),
    "dlm_vm_fd": (c_int, c_void_p),
    "dlm_vm_os": (c_void_p, c_void_p),
    "dlm_vcpu_add": (c_int, c_void_p, POINTER(c_void_p)),
    "dlm_vcpu_fd": (c_int, c_void_p),
    "dlm_vcpu_write": (c_int, c_void_p, c_uint32, c_uint64, c_void_p, c_uint64,
                       POINTER(c_uint64)),
    "dlm_vcpu_exit": (c_int, c_void_p, c_uint32),
    "dlm_vmm_wrote": (c_int, c_void_p, c_char_p, c_void_p, c_uint64),
}


def load():
    path = os.environ.get("DIRTYLOG_MODEL")
    if not path:
        raise unittest.SkipTest("DIRTYLOG_MODEL does not name libdirtylog-model.so")
    library = ctypes.CDLL(path)
    for name, (result, *parameters) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    return library


class dlm_options(ctypes.Structure):
    _fields_ = [(name, c_uint32) for name in (
        "size", "flags", "has", "arch", "page_bytes", "write_order", "ring_min_entries",
        "ring_max_entries", "reserved_entries", "pml_entries", "ring_first_index", "slot_ids",
        "address_spaces", "batch_writes")]


class Guest(Worker):
    """As that of guest.py. Leaving it stops the vCPU; the VM goes with the object."""

    ring_entries = RING_ENTRIES

    def __init__(self, library):
        super().__init__()
        self._library = library
        self._vm = c_void_p()
        options = dlm_options(size=ctypes.sizeof(dlm_options), reserved_entries=RESERVED_ENTRIES)
        self._must(library.dlm_vm_new(byref(options), byref(self._vm), None, 0))
        self.vm = library.dlm_vm_fd(self._vm)
        self.os = library.dlm_vm_os(self._vm)
        self.memory = mmap.mmap(-1, MEMORY_BYTES)
        self._vcpu = c_void_p()
        self._page = self._value = 0

    def _must(self, result):
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def create_vcpu(self):
        self._must(self._library.dlm_vcpu_add(self._vm, byref(self._vcpu)))
        return self._library.dlm_vcpu_fd(self._vcpu)

    def enter(self, vcpu):
        while self._page < MEMORY_BYTES // PAGE:
            self._value += 1
            value = c_uint32(self._value)
            while self._must(self._library.dlm_vcpu_write(
                    self._vcpu, 0, self._page * PAGE, byref(value), 4, None)) == RING_FULL:
                vcpu.drain()
            self._page += 7
        self._page -= MEMORY_BYTES // PAGE
        self._must(self._library.dlm_vcpu_exit(self._vcpu, EXIT_IO))
        self.round_ended()

    def vmm_wrote(self, memory, offset_bytes):
        """This process has written a byte of a mapping."""
        byte = ctypes.addressof(ctypes.c_char.from_buffer(memory, offset_bytes))
        self._must(self._library.dlm_vmm_wrote(self._vm, b"test", byte, 1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self._library.dlm_vm_free(self._vm)
