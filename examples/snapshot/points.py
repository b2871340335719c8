#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads points that examples/snapshot has taken, without it: the standard library is enough.

  points.py list DIRECTORY
  points.py verify DIRECTORY
  points.py restore DIRECTORY IMAGE [--point N]

verify checks every byte of every point, that its parents are there, and its memory if the point has
the sum of that. restore writes the guest's memory as it was at a point into a new file, with holes
where it is zero, and the state of the vCPUs and devices into IMAGE.state. doc/snapshots.md has the
format. Exit status: 0 done, 1 something is damaged, 2 usage, 3 another failure.
"""

import argparse
import errno
import os
import re
import stat
import struct
import sys
import zlib

HEADER = struct.Struct("<8sII16s16sQQIIIIIIQQQ3980sI")
EXTENT = struct.Struct("<QQQII")
FOOTER = struct.Struct("<8s16sQQQQQQIIII36sI")
NAME = re.compile(r"[0-9]{6}\.snap")
MERGED = "merged.list"
NONE = bytes(16)
ZERO = 1
HAS_MEMORY_CRC = 1
DEVICE_BYTES, VCPU_BYTES = 64, 512
EXTENT_BYTES = 1 << 20
BLOCK = 1 << 16
MEMORY_BYTES = 256 << 30


class Damaged(Exception):
    pass


class Missing(Exception):
    """There is no such point."""


def need(condition, what):
    if not condition:
        raise Damaged(what)


class Point:
    """A point's file. Whatever its bytes are, it is read in whole or Damaged is raised."""

    def __init__(self, file):
        self.file = file
        self.bytes = os.fstat(file.fileno()).st_size
        need(self.bytes >= HEADER.size + FOOTER.size, "it is not complete")
        self.read_header(self.read(0, HEADER.size))
        self.read_footer(self.read(self.bytes - FOOTER.size, FOOTER.size))
        self.read_index()

    def read(self, offset, count):
        self.file.seek(offset)
        data = self.file.read(count)
        need(len(data) == count, "it ends early")
        return data

    def read_header(self, data):
        (magic, version, header_bytes, self.id, self.parent, self.number, self.memory_bytes,
         self.page_bytes, self.vcpus, self.machine, self.backend, self.guest_user, reserved,
         self.working_set_bytes, self.quantum_ns, self.taken_ns, zeros, crc) = HEADER.unpack(data)
        need(magic == b"DLSNAP1\n", "no point's file")
        need(crc == zlib.crc32(data[:-4]), "the header is damaged")
        need((version, header_bytes) == (1, HEADER.size), "another version of the format")
        need(not reserved and not any(zeros), "the header has what this version does not know")
        need(0 < self.number < 10 ** 6 and self.id != NONE,
             "the header has no number or no identity")
        need(self.page_bytes in (4096, 8192, 16384, 32768, 65536) and 1 <= self.vcpus <= 8
             and 0 < self.memory_bytes <= MEMORY_BYTES
             and self.memory_bytes % self.page_bytes == 0
             and self.working_set_bytes <= self.memory_bytes and self.guest_user <= 1,
             "the header describes no guest")

    def read_footer(self, data):
        (magic, identity, self.index_bytes, self.n_extents, self.state_bytes, self.data_pages,
         self.zero_pages, file_bytes, self.index_crc, self.state_crc, self.memory_crc, self.flags,
         zeros, crc) = FOOTER.unpack(data)
        need(magic == b"DLSNEND\n", "it is not complete")
        need(crc == zlib.crc32(data[:-4]), "the footer is damaged")
        need(identity == self.id, "the footer is another point's")
        need(not self.flags & ~HAS_MEMORY_CRC and not any(zeros),
             "the footer has what this version does not know")
        need(file_bytes == self.bytes, "its size is wrong")
        need(self.state_bytes == DEVICE_BYTES + self.vcpus * VCPU_BYTES
             and self.index_bytes >= HEADER.size
             and self.index_bytes + self.n_extents * EXTENT.size + self.state_bytes
             + FOOTER.size == self.bytes, "the footer contradicts itself")

    def read_index(self):
        data = self.read(self.index_bytes, self.n_extents * EXTENT.size)
        need(zlib.crc32(data) == self.index_crc, "the index is damaged")
        self.extents = list(EXTENT.iter_unpack(data))
        at, zeros = HEADER.size, 0
        for image, size, where, flags, crc in self.extents:
            need(size and size % self.page_bytes == 0 and image % self.page_bytes == 0
                 and image + size <= self.memory_bytes, "the index contradicts itself")
            if flags == ZERO:
                need(not where and not crc, "the index contradicts itself")
                zeros += size
            else:
                need(not flags and where == at and size <= EXTENT_BYTES,
                     "the index contradicts itself")
                at += size
        need(at == self.index_bytes and (at - HEADER.size) == self.data_pages * self.page_bytes
             and zeros == self.zero_pages * self.page_bytes,
             "the index and the footer contradict each other")
        self.state = self.read(self.index_bytes + len(data), self.state_bytes)
        need(zlib.crc32(self.state) == self.state_crc, "the state of the vCPUs is damaged")

    def contents(self):
        """Yields the offset and the bytes of each extent in order; None are zeros."""
        for image, size, where, flags, crc in self.extents:
            if flags == ZERO:
                yield image, size, None
                continue
            data = self.read(where, size)
            need(zlib.crc32(data) == crc,
                 "the contents for %#x to %#x are damaged" % (image, image + size))
            yield image, size, data

    def verify(self):
        for _ in self.contents():
            pass

    def guest(self):
        """What is the same for a point and its parent."""
        return (self.memory_bytes, self.page_bytes, self.vcpus, self.machine, self.backend,
                self.guest_user, self.working_set_bytes)


def open_point(path):
    # Opening a FIFO must not block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        need(stat.S_ISREG(os.fstat(file.fileno()).st_mode), "no regular file")
        point = Point(file)
    point.file = None
    point.path = path
    return point


class Chain:
    """The points of a directory. damaged has the reasons, by number, for those left out."""

    def __init__(self, directory):
        self.points, self.damaged = {}, {}
        for name in sorted(os.listdir(directory)):
            number = int(name[:6]) if NAME.fullmatch(name) else 0
            if not number:
                continue
            try:
                point = open_point(os.path.join(directory, name))
                need(point.number == number, "it is the file of point %d" % point.number)
                self.points[number] = point
            except Damaged as why:
                self.damaged[number] = str(why)
            except OSError as why:
                self.damaged[number] = "cannot read it: %s" % why.strerror
        if os.path.lexists(os.path.join(directory, MERGED)):
            print("points.py: a merge is under way, or was interrupted; every point that is there "
                  "can be read", file=sys.stderr)
        self.by_id = {point.id: point for point in self.points.values()}

    def path(self, point):
        """The points from a base to this one."""
        path = [point]
        while path[0].parent != NONE:
            parent = self.by_id.get(path[0].parent)
            need(parent, "the parent of point %d is missing or damaged" % path[0].number)
            need(parent.number < path[0].number and parent.guest() == path[0].guest(),
                 "point %d is of another guest than its parent" % path[0].number)
            path.insert(0, parent)
        return path

    def last(self):
        """The last point that can be restored; names those that are passed over."""
        for number in sorted(set(self.points) | set(self.damaged), reverse=True):
            try:
                need(number in self.points, self.damaged.get(number))
                self.path(self.points[number])
                return self.points[number]
            except Damaged as why:
                print("points.py: point %d is not restored: %s" % (number, why), file=sys.stderr)
        raise Missing("no point can be restored" if self.damaged or self.points
                      else "there are no points")


def apply(point, memory):
    with open(point.path, "rb") as file:
        point.file = file
        try:
            for image, size, data in point.contents():
                memory[image:image + size] = data
        finally:
            point.file = None


def multiply(a, b):
    """The product of two polynomials modulo that of the CRC-32; bit 31 is x^0."""
    product = 0
    for bit in range(31, -1, -1):
        product ^= b if a >> bit & 1 else 0
        b = b >> 1 ^ (0xedb88320 if b & 1 else 0)
    return product


def add_zeros(crc, count):
    """As zlib.crc32(bytes(count), crc), without the bytes."""
    if count <= EXTENT_BYTES:
        return zlib.crc32(bytes(count), crc)
    factor, power = 1 << 31, 1 << 23
    while count:
        if count & 1:
            factor = multiply(factor, power)
        power = multiply(power, power)
        count >>= 1
    return multiply(factor, crc ^ 0xffffffff) ^ 0xffffffff


class Memory:
    """Of a guest. Blocks that no file has contents for are zero and take none here."""

    def __init__(self, count):
        self.bytes, self.blocks = count, {}

    def __setitem__(self, part, data):
        if data is None and (part.stop - part.start) // BLOCK > len(self.blocks):
            inside = [at for at in self.blocks if part.start < (at + 1) * BLOCK
                      and at * BLOCK < part.stop]
        else:
            inside = range(part.start // BLOCK, (part.stop - 1) // BLOCK + 1)
        for at in inside:
            start, end = max(part.start, at * BLOCK), min(part.stop, (at + 1) * BLOCK)
            if data is not None:
                new = data[start - part.start:end - part.start]
                block = self.blocks.setdefault(at, bytearray(BLOCK))
                block[start - at * BLOCK:end - at * BLOCK] = new
            elif end - start == BLOCK:
                self.blocks.pop(at, None)
            elif at in self.blocks:
                self.blocks[at][start - at * BLOCK:end - at * BLOCK] = bytes(end - start)

    def sum(self):
        crc, end = 0, 0
        for at, block in sorted(self.blocks.items()):
            crc = add_zeros(crc, at * BLOCK - end)
            end = min((at + 1) * BLOCK, self.bytes)
            crc = zlib.crc32(memoryview(block)[:end - at * BLOCK], crc)
        return add_zeros(crc, self.bytes - end)


class Replay:
    """Memory at one point after another; a point after its parent costs only itself."""

    def __init__(self, chain):
        self.chain, self.at, self.memory = chain, None, None

    def go_to(self, point):
        path = self.chain.path(point)
        if self.at and point.parent == self.at:
            path = [point]
        else:
            self.memory = Memory(point.memory_bytes)
        self.at = None
        for step in path:
            apply(step, self.memory)
        self.at = point.id
        need(not point.flags & HAS_MEMORY_CRC or self.memory.sum() == point.memory_crc,
             "the memory is not what it was at this point")


def verify(chain):
    replay, unsound = Replay(chain), set()
    for number in sorted(set(chain.points) | set(chain.damaged)):
        wrong, point = chain.damaged.get(number), chain.points.get(number)
        if point:
            try:
                # Those before it are checked already.
                for step in chain.path(point)[:-1]:
                    need(step.number not in unsound,
                         "it needs point %d, which is damaged" % step.number)
                if point.flags & HAS_MEMORY_CRC:
                    replay.go_to(point)
                else:
                    with open(point.path, "rb") as file:
                        point.file = file
                        point.verify()
            except Damaged as why:
                wrong = str(why)
            except OSError as why:
                wrong = "cannot read it: %s" % why.strerror
        if wrong is not None:
            unsound.add(number)
        print("%6d  %s" % (number, "DAMAGED: " + wrong if wrong else "sound"))
    need(not unsound, "%d points are damaged" % len(unsound))
    if not chain.points:
        raise Missing("there are no points")


def write_part(path, write):
    with open(path + ".part", "w+b") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def name_parts(paths):
    """The files have their names when all of them are whole and on disk; after a crash between two
    renames the first file is new and the second one is old."""
    for path in paths:
        os.rename(path + ".part", path)
    directory = os.open(os.path.dirname(paths[0]) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sum_of(file, count):
    """Of so many bytes. Holes are not read."""
    crc, end = 0, 0
    while end < count:
        try:
            at = os.lseek(file.fileno(), end, os.SEEK_DATA)
        except OSError as why:
            if why.errno != errno.ENXIO:
                raise
            break
        crc = add_zeros(crc, at - end)
        end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
        file.seek(at)
        while at < end:
            data = file.read(min(end - at, EXTENT_BYTES))
            need(data, "the image ends early")
            crc, at = zlib.crc32(data, crc), at + len(data)
    return add_zeros(crc, count - end)


def restore(chain, number, image):
    if number in chain.damaged:
        raise Damaged("point %d: %s" % (number, chain.damaged[number]))
    if number and number not in chain.points:
        raise Missing("there is no point %d" % number)
    point = chain.points[number] if number else chain.last()

    def write(file):
        file.truncate(point.memory_bytes)
        memory = Holes(file, point.page_bytes)
        for step in chain.path(point):
            apply(step, memory)
        file.flush()
        need(not point.flags & HAS_MEMORY_CRC
             or sum_of(file, point.memory_bytes) == point.memory_crc,
             "the memory is not what it was at this point")

    state = image + ".state"
    for path in image, state:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("%s is no regular file" % path)
    try:
        write_part(image, write)
        write_part(state, lambda file: file.write(point.state))
        name_parts([image, state])
    finally:
        for part in image + ".part", state + ".part":
            if os.path.exists(part):
                os.unlink(part)
    print("point %d: %d MiB, %d vCPUs" % (point.number, point.memory_bytes >> 20, point.vcpus))


class Holes:
    """A file as memory: zeros are written only over what was written before."""

    def __init__(self, file, page_bytes):
        self.file, self.page_bytes, self.written = file, page_bytes, set()

    def __setitem__(self, part, data):
        pages = range(part.start // self.page_bytes, part.stop // self.page_bytes)
        if data is not None and any(data):
            self.written.update(pages)
            self.file.seek(part.start)
            self.file.write(data)
            return
        for page in (self.written.intersection(pages) if len(pages) < len(self.written)
                     else [page for page in self.written if page in pages]):
            self.file.seek(page * self.page_bytes)
            self.file.write(bytes(self.page_bytes))


def show(chain):
    for number, point in sorted(chain.points.items()):
        parent = point.parent[:4].hex() if point.parent != NONE else "base"
        print("%6d  %s  %8s  %8d pages  %8d zero" % (number, point.id[:4].hex(), parent,
                                                   point.data_pages, point.zero_pages))
    for number, why in sorted(chain.damaged.items()):
        print("%6d  DAMAGED: %s" % (number, why))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["list", "verify", "restore"])
    parser.add_argument("directory")
    parser.add_argument("image", nargs="?")
    parser.add_argument("--point", type=int, default=0)
    options = parser.parse_args()
    if (options.command == "restore") != (options.image is not None):
        parser.error("restore needs an IMAGE, and only that")
    try:
        chain = Chain(options.directory)
        if options.command == "verify":
            verify(chain)
        elif options.command == "restore":
            restore(chain, options.point, options.image)
        else:
            show(chain)
    except Damaged as why:
        print("points.py: %s" % why, file=sys.stderr)
        return 1
    except (Missing, OSError, MemoryError) as why:
        print("points.py: %s" % (why if str(why) else "no memory"), file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
