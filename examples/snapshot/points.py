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
import os
import re
import struct
import sys
import zlib

HEADER = struct.Struct("<8sII16s16sQQIIIIIIQQQ3980sI")
EXTENT = struct.Struct("<QQQII")
FOOTER = struct.Struct("<8s16sQQQQQQIIII36sI")
NAME = re.compile(r"[0-9]{6}\.snap")
NONE = bytes(16)
ZERO = 1
HAS_MEMORY_CRC = 1
DEVICE_BYTES, VCPU_BYTES = 64, 512
EXTENT_BYTES = 1 << 20
MEMORY_BYTES = 256 << 30


class Damaged(Exception):
    pass


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
    with open(path, "rb") as file:
        if not os.path.isfile(path):
            raise Damaged("no regular file")
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
        for number in sorted(self.points, reverse=True):
            try:
                self.path(self.points[number])
                return self.points[number]
            except Damaged:
                pass
        raise Damaged("no point can be restored")


def apply(point, memory):
    with open(point.path, "rb") as file:
        point.file = file
        try:
            for image, size, data in point.contents():
                memory[image:image + size] = data or bytes(size)
        finally:
            point.file = None


class Replay:
    """Memory at one point after another; a point after its parent costs only itself."""

    def __init__(self, chain):
        self.chain, self.at, self.memory = chain, None, None

    def go_to(self, point):
        path = self.chain.path(point)
        if self.at and point.parent == self.at:
            path = [point]
        else:
            self.memory = bytearray(point.memory_bytes)
        self.at = None
        for step in path:
            apply(step, self.memory)
        self.at = point.id
        need(not point.flags & HAS_MEMORY_CRC or zlib.crc32(self.memory) == point.memory_crc,
             "the memory is not what it was at this point")


def verify(chain):
    replay, unsound = Replay(chain), 0
    for number in sorted(set(chain.points) | set(chain.damaged)):
        wrong, point = chain.damaged.get(number), chain.points.get(number)
        if point:
            try:
                if point.flags & HAS_MEMORY_CRC:
                    replay.go_to(point)
                else:
                    chain.path(point)
                    with open(point.path, "rb") as file:
                        point.file = file
                        point.verify()
            except Damaged as why:
                wrong = str(why)
        unsound += wrong is not None
        print("%6d  %s" % (number, "DAMAGED: " + wrong if wrong else "sound"))
    need(not unsound, "%d points are damaged" % unsound)
    need(chain.points, "there are no points")


def write_aside(path, write):
    """The file has its name when it is whole and on disk."""
    aside = path + ".part"
    with open(aside, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def restore(chain, number, image):
    if number and number not in chain.points:
        raise Damaged("point %d: %s" % (number, chain.damaged.get(number, "there is none")))
    point = chain.points[number] if number else chain.last()

    def write(file):
        file.truncate(point.memory_bytes)
        memory = Holes(file, point.page_bytes)
        for step in chain.path(point):
            apply(step, memory)

    write_aside(image + ".state", lambda file: file.write(point.state))
    write_aside(image, write)
    if point.flags & HAS_MEMORY_CRC:
        crc = 0
        with open(image, "rb") as file:
            for data in iter(lambda: file.read(EXTENT_BYTES), b""):
                crc = zlib.crc32(data, crc)
        need(crc == point.memory_crc, "the memory is not what it was at this point")
    print("point %d: %d MiB, %d vCPUs" % (point.number, point.memory_bytes >> 20, point.vcpus))


class Holes:
    """A file as memory: zeros are written only over what was written before."""

    def __init__(self, file, page_bytes):
        self.file, self.page_bytes, self.written = file, page_bytes, set()

    def __setitem__(self, part, data):
        pages = range(part.start // self.page_bytes, part.stop // self.page_bytes)
        if any(data):
            self.written.update(pages)
            self.file.seek(part.start)
            self.file.write(data)
            return
        for page in self.written.intersection(pages):
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
    except (OSError, MemoryError) as why:
        print("points.py: %s" % (why or "no memory"), file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
