#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Talks nonsense to precopy's destination. Arguments: the program, and how many random talks.

The destination must refuse with its exit status for a failure (or find the guest damaged), in a
short time: not crash, not hang, and not take more memory than it was allowed.
"""
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile

MAGIC = 0x706D4C44
HELLO, REFUSED, PAGES, ZEROS, PASS_END, VCPUS, DEVICE, HASHES, PROVE, RUN = (
    1, 3, 4, 5, 6, 8, 9, 11, 12, 14)
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
MACHINE = {"x86_64": 62, "aarch64": 183}[os.uname().machine]
KVM, MODEL = 1, 2
FAILED, CORRUPT = 3, 1
STATE_BYTES = 512


def frame(kind, payload=b"", offset=0, announced=None, magic=MAGIC, reserved=0):
    length = len(payload) if announced is None else announced
    return struct.pack("<IIIIQ", magic, kind, length, reserved, offset) + payload


def hello(memory=16 * MIB, working_set=4 * MIB, vcpus=2, page=PAGE, version=1, machine=MACHINE,
          backend=MODEL, user=1):
    return frame(HELLO, struct.pack("<IIIIIIQQ", version, machine, backend, user, page, vcpus,
                                    memory, working_set))


def number(value):
    return struct.pack("<Q", value)


def state(fill=b"\0"):
    return frame(VCPUS, fill * (2 * STATE_BYTES)) + frame(DEVICE, fill * 8)


def memory_full_of(make):
    step = 64 << 10
    return b"".join(frame(PAGES, make(step), offset) for offset in range(0, 8 * MIB, step))


def fixed_talks():
    good = hello()
    yield "nothing", b""
    yield "random bytes", os.urandom(5000)
    yield "half a header", b"abc"
    yield "unknown type", frame(99)
    yield "reserved not zero", frame(HELLO, reserved=1)
    yield "4 GiB announced", frame(HELLO, announced=0xFFFFFFFF)
    yield "hello too short", frame(HELLO, b"x" * 8)
    yield "pages before hello", frame(PAGES, bytes(PAGE))
    for change in ({"memory": 1 << 60}, {"memory": 0}, {"memory": 16 * MIB + 1},
                   {"memory": 1 << 63}, {"working_set": 1 << 63}, {"vcpus": 0}, {"vcpus": 9},
                   {"vcpus": 1 << 31}, {"page": 4097}, {"page": 0}, {"version": 9}, {"machine": 3},
                   {"backend": 0}, {"backend": 9}, {"user": 2}):
        yield f"hello with {change}", hello(**change)
    yield "no working set", hello(working_set=0) + frame(RUN)
    yield "hello twice", good + good
    yield "page behind the end", good + frame(PAGES, bytes(PAGE), 16 * MIB)
    yield "pages that wrap", good + frame(PAGES, bytes(2 * PAGE), (1 << 64) - PAGE)
    yield "page askew", good + frame(PAGES, bytes(PAGE), 8)
    yield "part of a page", good + frame(PAGES, bytes(100))
    yield "no page", good + frame(PAGES)
    yield "page cut short", good + frame(PAGES, bytes(100), announced=PAGE)
    yield "zeros without end", good + frame(ZEROS, number(1 << 63))
    yield "zeros that wrap", good + frame(ZEROS, number((1 << 64) - PAGE), PAGE)
    yield "zeros of no number", good + frame(ZEROS, b"1234")
    yield "end of pass with more", good + frame(PASS_END, b"1234")
    yield "refusal too long", frame(REFUSED, b"A" * 1000)
    yield "refusal for terminals", frame(REFUSED, b"\x1b[31mhello")
    yield "state too short", good + frame(VCPUS, bytes(8))
    yield "state of ones", hello(backend=KVM) + state(b"\xff")
    yield "random state", hello(backend=KVM) + frame(VCPUS, os.urandom(2 * STATE_BYTES))
    yield "hashes behind the end", good + state() + frame(HASHES, bytes(8), 16 * MIB)
    yield "too many hashes", good + state() + frame(HASHES, bytes(8 * 2000))
    yield "part of a hash", good + state() + frame(HASHES, bytes(9))
    proof = b"".join(frame(HASHES, bytes(8 * 64), offset)
                     for offset in range(0, 16 * MIB, 64 * PAGE)) + frame(PROVE)
    yield "nothing proved", good + state() + frame(PROVE) + frame(RUN)
    yield "empty guest", good + state() + proof + frame(RUN)
    yield "empty guest on KVM", hello(backend=KVM) + state() + proof + frame(RUN)
    for name, make in (("random", os.urandom), ("ones", lambda n: b"\xff" * n)):
        yield f"guest of {name}", (good + memory_full_of(make) + state(b"\xff") + proof +
                                   frame(RUN))


def random_talks(count):
    for i in range(count):
        generator = random.Random(i)
        talk = bytearray(hello())
        for _ in range(8):
            kind = generator.choice([PAGES, PAGES, ZEROS, PASS_END, VCPUS, DEVICE, HASHES, PROVE,
                                     RUN])
            length = generator.choice([0, 8, PAGE, 2 * PAGE, 2 * STATE_BYTES])
            offset = generator.randrange(0, 20 * MIB) // PAGE * PAGE
            talk += frame(kind, generator.randbytes(length), offset)
        for _ in range(generator.randrange(4)):
            talk[generator.randrange(len(talk))] ^= 1 << generator.randrange(8)
        yield f"random talk {i}", bytes(talk)


def listen(program, path):
    """Starts a destination; returns when others can connect."""
    destination = subprocess.Popen([program, "--listen", "unix:" + path, "--memory", "64M"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    line = destination.stderr.readline()
    if "listening" not in line:
        sys.exit(f"it does not listen: {line}")
    return destination


def say(path, talk):
    """Says all of it, and listens until the destination has no more to say."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(path)
        try:
            peer.sendall(talk)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
        except ConnectionError:
            pass


def main():
    program, count = sys.argv[1], int(sys.argv[2])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        for name, talk in [*fixed_talks(), *random_talks(count)]:
            destination = listen(program, path)
            say(path, talk)
            _, told = destination.communicate(timeout=60)
            status = destination.returncode
            right = status in (FAILED, CORRUPT) and (told or status == CORRUPT)
            right = right and told.isascii() and "\x1b" not in told
            if not right:
                bad += 1
                print(f"failed: {name}: exit status {status}: {told!r}")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
