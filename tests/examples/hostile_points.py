# SPDX-License-Identifier: MIT
"""Files of points whose sums are right and whose numbers lie. doc/snapshots.md has the format."""
import struct
import zlib

HEADER = struct.Struct("<8sII16s16sQQIIIIIIQQQ3980s")
EXTENT = struct.Struct("<QQQII")
FOOTER = struct.Struct("<8s16sQQQQQQIIII36s")
IDENTITY = b"i" * 16
MOST = 2 ** 64 - 1
PAGE = 4096
STATE_BYTES = 64 + 512
DATA = b"x" * PAGE
SUM = zlib.crc32(DATA)
# Of that and zeros up to 256 GiB.
HUGE_SUM = 0xa0aeaac8


def seal(part):
    return part + struct.pack("<I", zlib.crc32(part))


def point(data=DATA, extents=((0, PAGE, PAGE, 0, SUM),), **numbers):
    """A point of one vCPU with 16 MiB; it is sound unless some of its numbers are given."""
    header = seal(HEADER.pack(
        b"DLSNAP1\n", 1, HEADER.size + 4, IDENTITY, numbers.get("parent", bytes(16)),
        numbers.get("number", 1), numbers.get("memory", 16 << 20), numbers.get("page", PAGE),
        numbers.get("vcpus", 1), 62, 2, 1, 0, numbers.get("working_set", 0), 1, 1, bytes(3980)))
    index = b"".join(EXTENT.pack(*extent) for extent in extents)
    state = bytes(STATE_BYTES)
    body = header + data + index + state
    return body + seal(FOOTER.pack(
        b"DLSNEND\n", IDENTITY, numbers.get("index_at", len(header) + len(data)),
        numbers.get("extents_claimed", len(extents)), numbers.get("state_bytes", STATE_BYTES),
        numbers.get("data_pages", len(data) // PAGE), numbers.get("zero_pages", 0),
        numbers.get("file_bytes", len(body) + FOOTER.size + 4), zlib.crc32(index),
        zlib.crc32(state), numbers.get("memory_crc", 0), numbers.get("flags", 0), bytes(36)))


def huge_point(crc):
    """Of a guest of 256 GiB, which is zero except for one page, with a sum of its memory."""
    most = 256 << 30
    return point(extents=[(0, PAGE, PAGE, 0, SUM), (PAGE, most - PAGE, 0, 1, 0)], memory=most,
                 zero_pages=most // PAGE - 1, flags=1, memory_crc=crc)


def hostile_files():
    """Names and contents."""
    first = (0, PAGE, PAGE, 0, SUM)
    yield "256 GiB of zeros with another sum", huge_point(HUGE_SUM ^ 1)
    yield "an index near 2^64", point(index_at=MOST - PAGE + 1)
    yield "so many extents that their bytes wrap", point(extents_claimed=2 ** 59 + 1)
    yield "2^64 - 1 extents", point(extents_claimed=MOST)
    yield "a state near 2^64", point(state_bytes=MOST)
    yield "a file of 2^64 - 1 bytes", point(file_bytes=MOST)
    yield "2^64 - 1 pages of data", point(data_pages=MOST)
    yield "2^64 - 1 pages of zeros", point(zero_pages=MOST)
    yield "an extent near 2^64", point(extents=[(MOST - PAGE + 1, PAGE, PAGE, 0, SUM)])
    yield "an extent of 2^64 bytes", point(extents=[(0, MOST - PAGE + 1, PAGE, 0, SUM)])
    yield "an extent whose end wraps", point(extents=[(PAGE, 2 ** 64 - PAGE, PAGE, 0, SUM)])
    yield "zeros whose end wraps", point(extents=[first, (PAGE, 2 ** 64 - PAGE, 0, 1, 0)])
    yield "contents near 2^64", point(extents=[(0, PAGE, MOST - PAGE + 1, 0, SUM)])
    yield "contents that overlap", point(2 * DATA, [first, (PAGE, PAGE, PAGE, 0, SUM)])
    yield "contents out of order", point(2 * DATA, [(0, PAGE, 2 * PAGE, 0, SUM),
                                                    (PAGE, PAGE, PAGE, 0, SUM)])
    yield "half a page", point(extents=[(0, PAGE // 2, PAGE, 0, SUM)])
    yield "zeros whose sum wraps", point(extents=[first, (0, 16 << 20, 0, 1, 0)],
                                         zero_pages=PAGE + 2 ** 52)
    yield "memory that is no whole page", point(memory=(16 << 20) + 1)
    yield "2^64 - 1 bytes of memory", point(memory=MOST)
    yield "2^64 - 4096 bytes of memory", point(memory=MOST - PAGE + 1)
    yield "a working set larger than memory", point(working_set=MOST)
    yield "number 0", point(number=0)
    yield "number 2^64 - 1", point(number=MOST)
    yield "a point that is its own parent", point(parent=IDENTITY)
    yield "an unknown flag", point(flags=2)
    yield "2^32 - 1 vCPUs", point(vcpus=2 ** 32 - 1)
    yield "pages of no bytes", point(page=0)


def hostile_lists(listed):
    """Names and contents of lists of a merge, made of one that asks for three deletions."""
    start, entry = struct.Struct("<8sII"), struct.Struct("<Q16sII")
    whole = list(entry.iter_unpack(listed[start.size:-4]))
    result, *others, last = whole

    def made(entries, magic=b"DLSNDEL\n", version=1, claimed=None, more=b""):
        body = start.pack(magic, version, len(entries) if claimed is None else claimed)
        return seal(body + b"".join(entry.pack(*one) for one in entries) + more)

    def only(*fields):
        return made([result, fields])

    assert made(whole) == listed
    # No point is relative to the last one, which would keep it from being deleted.
    number, identity, crc, zero = last
    yield "no bytes", b""
    yield "a part of it", listed[:-1]
    yield "half an entry", made(whole, more=bytes(entry.size // 2))
    yield "a flipped bit", listed[:72] + bytes([listed[72] ^ 1]) + listed[73:]
    yield "another magic", made(whole, magic=b"DLSNAP1\n")
    yield "another version", made(whole, version=2)
    yield "no entries", made([])
    yield "2^32 - 1 entries", made(whole, claimed=2 ** 32 - 1)
    yield "fewer entries than it has", made(whole, claimed=2)
    yield "number 0", only(0, identity, crc, zero)
    yield "number 2^64 - 1", only(MOST, identity, crc, zero)
    yield "the result itself", made([result, result])
    yield "the same file twice", made([result, last, last])
    yield "a file after the result", only(result[0] + 1, identity, crc, zero)
    yield "another identity", only(number, IDENTITY, crc, zero)
    yield "no identity", only(number, bytes(16), crc, zero)
    yield "another header", only(number, identity, crc ^ 1, zero)
    yield "another file's identity", only(number, *others[0][1:])
    yield "an unknown field", only(number, identity, crc, 1)
    yield "a merge of another identity", made([(result[0], IDENTITY, result[2], 0), *others, last])
    yield "a merge of another header", made([(*result[:2], result[2] ^ 1, 0), *others, last])
    yield "a merge that is not there", made([(9, *result[1:]), *others, last])
