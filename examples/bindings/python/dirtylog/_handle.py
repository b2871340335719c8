# SPDX-License-Identifier: MIT
"""Errors, and the lifetime of C handles."""

import ctypes
import os

from . import __version__, _abi

lib = _abi.load(tuple(int(number) for number in __version__.split(".")))


class Error(OSError):
    """A call of the library failed; errno is its error.

    call  the C function
    why   the log's last failure in words; another thread's, if that failed just now as well
    """

    def __init__(self, number, call, why=""):
        super().__init__(number, f"{call}: {why or os.strerror(number)}")
        self.call = call
        self.why = why

    def __reduce__(self):
        return type(self), (self.errno, self.call, self.why)


def text_of(function, pointer):
    """The text that a function writes as snprintf(3) does; empty after an error."""
    room = 256
    while True:
        text = ctypes.create_string_buffer(room)
        length = function(pointer, text, room)
        if length < room:
            return text.value.decode(errors="replace") if length > 0 else ""
        room = length + 1


class Handle:
    """A C handle that is released once, and never while a thread is inside a call on it.

    No lock: an append, a pop and a test of a list cannot be interrupted, by a signal's handler
    either. Each user enters before it looks whether the handle is closed, and close() says so
    before it looks for users; so one of them sees the other.
    """

    def __init__(self, pointer, release):
        self.closed = False
        self._pointers = [pointer]
        self._users = []
        self._release = release

    def __enter__(self):
        self._users.append(None)
        if self.closed:
            self.__exit__()
            raise ValueError(f"{self._release.__name__}() was called")
        return self._pointers[0]

    def __exit__(self, *_):
        self._users.pop()
        if self.closed:
            self.close()

    def close(self):
        self.closed = True
        if self._users:
            return  # the last of them does it
        try:
            pointer = self._pointers.pop()
        except IndexError:
            return
        self._release(pointer)


class Owner:
    """What has a handle. A context manager: leaving it closes."""

    _handle = None  # until the C call that makes one has succeeded

    @property
    def closed(self):
        return self._handle is None or self._handle.closed

    def close(self):
        """Releases the handle. If a thread is inside a call on it, that call's end does it."""
        if self._handle is not None:
            self._handle.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()

    def _why(self):
        raise NotImplementedError

    def _call(self, function, *arguments):
        """Makes a call on the handle. Returns its result; raises Error if that is negative."""
        with self._handle as pointer:
            try:
                result = function(pointer, *arguments)
            except ctypes.ArgumentError as error:
                raise ValueError(f"{function.__name__}: {error}") from None
            if result < 0:
                raise Error(-result, function.__name__, self._why())
            return result


def fileno(fd):
    return fd if isinstance(fd, int) else fd.fileno()


def flags(*pairs):
    """The sum of the flags that are asked for. Arguments: (flag, whether)."""
    return sum(flag for flag, wanted in pairs if wanted)
