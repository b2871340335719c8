#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sends malformed streams to precopy's destination. Arguments: precopy, number of random streams.

A stream that begins as a source does must end the destination soon, with the status of a failure or
of a damaged guest and the reason. Any other one must be ignored: the destination listens on. It
must not crash, hang, or use more memory than it was allowed.
"""
import os
import random
import signal
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


def hello(memory=16 * MIB, working_set=4 * MIB, vcpus=2, page=PAGE, version=3, machine=MACHINE,
          backend=MODEL, user=1, channels=1, reserved=0):
    return frame(HELLO, struct.pack("<IIIIIIQQIIQ", version, machine, backend, user, page,
                                    vcpus, memory, working_set, channels, reserved, 7))


def u64(value):
    return struct.pack("<Q", value)


def machine_state(fill=b"\0"):
    return frame(VCPUS, fill * (2 * STATE_BYTES)) + frame(DEVICE, fill * 16)


def fill_memory(make):
    step = 64 << 10
    return b"".join(frame(PAGES, make(step), offset) for offset in range(0, 8 * MIB, step))


def fixed_streams():
    good = hello()
    yield "empty stream", b""
    yield "random bytes", os.urandom(5000)
    yield "half a header", b"abc"
    yield "unknown frame type", frame(99)
    yield "reserved field not zero", frame(HELLO, reserved=1)
    yield "payload length of 4 GiB", frame(HELLO, announced=0xFFFFFFFF)
    yield "hello too short", frame(HELLO, b"x" * 8)
    yield "pages before hello", frame(PAGES, bytes(PAGE))
    for change in ({"memory": 1 << 60}, {"memory": 0}, {"memory": 16 * MIB + 1},
                   {"memory": 1 << 63}, {"working_set": 1 << 63}, {"vcpus": 0}, {"vcpus": 9},
                   {"vcpus": 1 << 31}, {"page": 4097}, {"page": 0}, {"version": 9}, {"machine": 3},
                   {"backend": 0}, {"backend": 9}, {"user": 2}, {"channels": 0},
                   {"channels": 9}, {"reserved": 1}):
        yield f"hello with {change}", hello(**change)
    yield "empty working set", hello(working_set=0) + frame(RUN)
    yield "two hellos", good + good
    yield "channels that never come", hello(channels=3)
    yield "page past the end of memory", good + frame(PAGES, bytes(PAGE), 16 * MIB)
    yield "page range that wraps", good + frame(PAGES, bytes(2 * PAGE), (1 << 64) - PAGE)
    yield "unaligned page", good + frame(PAGES, bytes(PAGE), 8)
    yield "partial page", good + frame(PAGES, bytes(100))
    yield "empty page frame", good + frame(PAGES)
    yield "truncated page", good + frame(PAGES, bytes(100), announced=PAGE)
    yield "zero range of 2^63 bytes", good + frame(ZEROS, u64(1 << 63))
    yield "zero range that wraps", good + frame(ZEROS, u64((1 << 64) - PAGE), PAGE)
    yield "short zeros payload", good + frame(ZEROS, b"1234")
    yield "end of pass with a payload", good + frame(PASS_END, b"1234")
    yield "oversized refusal", frame(REFUSED, b"A" * 1000)
    yield "refusal with escape sequences", frame(REFUSED, b"\x1b[31mhello")
    yield "short vCPU state", good + frame(VCPUS, bytes(8))
    yield "vCPU state of all ones", hello(backend=KVM) + machine_state(b"\xff")
    yield "random vCPU state", hello(backend=KVM) + frame(VCPUS, os.urandom(2 * STATE_BYTES))
    yield "hashes past the end of memory", (good + machine_state() +
                                            frame(HASHES, bytes(8), 16 * MIB))
    yield "too many hashes", good + machine_state() + frame(HASHES, bytes(8 * 2000))
    yield "partial hash", good + machine_state() + frame(HASHES, bytes(9))
    proof = b"".join(frame(HASHES, bytes(8 * 64), offset)
                     for offset in range(0, 16 * MIB, 64 * PAGE)) + frame(PROVE)
    yield "proof without hashes", good + machine_state() + frame(PROVE) + frame(RUN)
    yield "empty guest", good + machine_state() + proof + frame(RUN)
    yield "empty guest on KVM", hello(backend=KVM) + machine_state() + proof + frame(RUN)
    for name, make in (("random bytes", os.urandom), ("ones", lambda n: b"\xff" * n)):
        yield f"memory full of {name}", (good + fill_memory(make) + machine_state(b"\xff") + proof +
                                   frame(RUN))


def random_streams(count):
    for i in range(count):
        generator = random.Random(i)
        stream = bytearray(hello())
        for _ in range(8):
            kind = generator.choice([PAGES, PAGES, ZEROS, PASS_END, VCPUS, DEVICE, HASHES, PROVE,
                                     RUN])
            length = generator.choice([0, 8, PAGE, 2 * PAGE, 2 * STATE_BYTES])
            offset = generator.randrange(0, 20 * MIB) // PAGE * PAGE
            stream += frame(kind, generator.randbytes(length), offset)
        for _ in range(generator.randrange(4)):
            stream[generator.randrange(len(stream))] ^= 1 << generator.randrange(8)
        yield f"random stream {i}", bytes(stream)


def listen(program, path):
    """Starts a destination and returns once it is listening."""
    destination = subprocess.Popen([program, "--listen", "unix:" + path, "--memory", "64M"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    line = destination.stderr.readline()
    if "listening" not in line:
        sys.exit(f"the destination does not listen: {line}")
    return destination


def send_stream(path, stream):
    """Sends the stream, then reads until the destination closes the connection."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        peer.connect(path)
        try:
            peer.sendall(stream)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
        except ConnectionError:
            pass


def stop(destination):
    """Interrupts a destination that must still be listening. Returns what it has printed."""
    destination.send_signal(signal.SIGTERM)
    _, errors = destination.communicate(timeout=60)
    if destination.returncode != FAILED or "interrupted" not in errors:
        return None
    return errors


def is_well(destination, stream):
    """Whether the destination did what it should, and a text for the report."""
    if stream[:8] != frame(HELLO)[:8]:
        line = destination.stderr.readline()
        errors = "ignored a connection" in line and stop(destination)
        return bool(errors), line
    _, errors = destination.communicate(timeout=60)
    status = destination.returncode
    refused = status in (FAILED, CORRUPT) and (errors or status == CORRUPT)
    return refused and errors.isascii() and "\x1b" not in errors, f"{status}, {errors!r}"


def main():
    program, count = sys.argv[1], int(sys.argv[2])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "socket")
        for name, stream in [*fixed_streams(), *random_streams(count)]:
            destination = listen(program, path)
            send_stream(path, stream)
            well, text = is_well(destination, stream)
            if not well or os.path.exists(path):
                bad += 1
                print(f"failed: {name}: {text}")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
