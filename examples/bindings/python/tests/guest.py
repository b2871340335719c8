# SPDX-License-Identifier: MIT
"""A VM on /dev/kvm whose guest, in real mode, writes to all its pages for ever."""

import mmap
import os
import struct
import unittest
from fcntl import ioctl

from worker import Worker

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xae01, 0xae04
KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_RUN = 0xae41, 0xae47, 0xae80
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090ae82, 0x8138ae83, 0x4138ae84
EXIT_IO, EXIT_DIRTY_RING_FULL = 2, 31

MEMORY_BYTES = 1 << 20
CODE_GPA = 0x1010  # behind the bytes that the guest writes in each page
CODE = bytes.fromhex(
    "8ec3"          # next: mov es, bx       a page is 0x100 paragraphs
    "6640"          #       inc eax
    "6626a30000"    #       mov es:[0], eax  no value twice
    "81c30007"      #       add bx, 0x700
    "73f1"          #       jnc next
    "e610"          #       out 0x10, al     some 37 pages are written: exit
    "ebed")         #       jmp next


def require():
    """Skips where this guest cannot run."""
    if os.uname().machine != "x86_64":
        raise unittest.SkipTest("the guest of this test is for x86-64")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise unittest.SkipTest("no access to /dev/kvm")


class Guest(Worker):
    """A context manager: leaving it stops the vCPU, and closes the VM's descriptors."""

    ring_entries = 0

    def __init__(self):
        super().__init__()
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self.vm = ioctl(self._kvm, KVM_CREATE_VM, 0)
        self.os = None
        self.vcpu_fd = None
        self.memory = mmap.mmap(-1, MEMORY_BYTES)
        self.memory[CODE_GPA:CODE_GPA + len(CODE)] = CODE

    def create_vcpu(self):
        """After the log is open, and the memslot is set."""
        ioctl(self.vm, KVM_SET_TSS_ADDR, 0x10000000)
        self.vcpu_fd = ioctl(self.vm, KVM_CREATE_VCPU, 0)
        self._run_page = mmap.mmap(self.vcpu_fd, ioctl(self._kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        sregs = bytearray(0x138)
        ioctl(self.vcpu_fd, KVM_GET_SREGS, sregs)
        struct.pack_into("<QIH", sregs, 0, 0, 0xffff, 0)  # cs.base, limit, selector
        ioctl(self.vcpu_fd, KVM_SET_SREGS, sregs)
        ioctl(self.vcpu_fd, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, CODE_GPA, 2))
        return self.vcpu_fd

    def enter(self, vcpu):
        ioctl(self.vcpu_fd, KVM_RUN, 0)
        (exit_reason,) = struct.unpack_from("<I", self._run_page, 8)
        if exit_reason == EXIT_DIRTY_RING_FULL:
            vcpu.drain()
        elif exit_reason == EXIT_IO:
            self.round_ended()
        else:
            raise AssertionError("the guest ended with exit reason %d" % exit_reason)

    def vmm_wrote(self, memory, offset_bytes):
        """This process has written a byte of a mapping; the kernel knows."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            for fd in (self.vcpu_fd, self.vm, self._kvm):
                if fd is not None:
                    os.close(fd)
