# SPDX-License-Identifier: MIT
"""Memory that Python and C share: guest memory, and bitmaps."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import NamedTuple


class Address(NamedTuple):
    """Memory that Python has no object for, such as a C library's.

    It must stay mapped while a slot, an extent or a memoryview of it is in use: nothing here can
    see to that.
    """

    address: int
    bytes: int


def view_of(memory) -> memoryview:
    """A memoryview of bytes, which keeps the object alive and from being closed or resized."""
    if isinstance(memory, Address):
        memory = (ctypes.c_char * memory.bytes).from_address(memory.address)
    view = memoryview(memory).cast("B")
    if view.readonly:
        raise TypeError("the memory must be writable; a guest's ROM has KVM_MEM_READONLY")
    return view


def address_of(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) if view.nbytes else 0


def words_of(words):
    """Whole aligned words of a writable buffer, for C, and their number. None is NULL."""
    if words is None:
        return None, 0
    view = view_of(words)
    if view.nbytes % 8 or address_of(view) % 8:
        raise ValueError("a bitmap has whole words of 64 bits, at an address that 8 divides")
    return (ctypes.c_uint64 * (view.nbytes // 8)).from_buffer(view), view.nbytes // 8


def bits(words) -> Iterator[int]:
    """The numbers of the bits, the pages of a slot, that are set in words of the host's order."""
    for index, word in enumerate(memoryview(words).cast("B").cast("Q")):
        while word:
            lowest = word & -word
            yield index * 64 + lowest.bit_length() - 1
            word ^= lowest
