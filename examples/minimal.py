#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A VM whose guest writes to one page, and a log that tells which: minimal.c in Python."""

import mmap
import os
import struct
from fcntl import ioctl

import dirtylog

KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xae01, 0xae04
KVM_CREATE_VCPU, KVM_SET_TSS_ADDR, KVM_RUN = 0xae41, 0xae47, 0xae80
KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS = 0x4090ae82, 0x8138ae83, 0x4138ae84
KVM_EXIT_DIRTY_RING_FULL = 31
MEMORY_BYTES, CODE_GPA = 1 << 20, 0x1000

CODE = bytes.fromhex("c60600302a f4")  # in real mode: movb $42, (0x3000); hlt


def start_in_real_mode(vcpu_fd):
    sregs = bytearray(0x138)
    ioctl(vcpu_fd, KVM_GET_SREGS, sregs)
    struct.pack_into("<Q", sregs, 0, 0)  # cs.base
    struct.pack_into("<H", sregs, 12, 0)  # cs.selector
    ioctl(vcpu_fd, KVM_SET_SREGS, sregs)
    ioctl(vcpu_fd, KVM_SET_REGS, struct.pack("<18Q", *[0] * 16, CODE_GPA, 2))  # rip, rflags


def run(vcpu_fd, run_page, vcpu):
    while True:
        ioctl(vcpu_fd, KVM_RUN, 0)
        (exit_reason,) = struct.unpack_from("<I", run_page, 8)
        if exit_reason != KVM_EXIT_DIRTY_RING_FULL:
            return
        vcpu.drain()


def main():
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = ioctl(kvm, KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, MEMORY_BYTES)
    memory[CODE_GPA:CODE_GPA + len(CODE)] = CODE

    # The log comes before the vCPUs; memslots go through it.
    with dirtylog.Log(vm) as log, log.slot(0, memory, gpa=0):
        ioctl(vm, KVM_SET_TSS_ADDR, 0x10000000)
        vcpu_fd = ioctl(vm, KVM_CREATE_VCPU, 0)
        run_page = mmap.mmap(vcpu_fd, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
        start_in_real_mode(vcpu_fd)

        # From here on every write is seen. CLEAN: the receiver has what was there before.
        with log.vcpu(vcpu_fd) as vcpu, log.cursor(clean=True) as cursor:
            run(vcpu_fd, run_page, vcpu)

            # The vCPU has halted.
            with cursor.harvest(paused=True) as pass_:
                for extent in pass_.extents():
                    print(f"dirty: {extent.bytes} bytes at {extent.gpa:#x}")
                    pass_.ack(extent)


if __name__ == "__main__":
    main()
