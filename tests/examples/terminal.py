#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs a program on terminals of several widths. Arguments: the program and its arguments.

No line may be wider than the terminal, and on a wide one some line must use the room. Not even with
a terminal may there be colours if NO_COLOR is set. A progress line says "A of B", and A is never
above B.
"""
import fcntl
import os
import pty
import re
import struct
import sys
import termios


def run(command, columns):
    """Returns the program's output on a terminal, and its exit status."""
    child, terminal = pty.fork()
    if not child:
        os.environ["NO_COLOR"] = "1"
        # The parent sets the width, then lets the program begin.
        os.read(0, 1)
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.write(terminal, b"\n")
    text = b""
    try:
        while more := os.read(terminal, 4096):
            text += more
    except OSError:  # the terminal is closed
        pass
    return text.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    widest = {}
    for columns in (80, 130):
        text, status = run(sys.argv[1:], columns)
        if status:
            sys.exit(f"exit status {status}:\n{text}")
        escapes = set(re.findall(r"\x1b\[[0-9;]*[A-Za-z]", text)) - {"\x1b[K"}
        if escapes:
            sys.exit(f"escape sequences: {escapes}")
        lines = re.split(r"[\r\n]+", text.replace("\x1b[K", ""))
        widest[columns] = max(lines, key=len)
        for done, whole in re.findall(r"([\d.]+) of ([\d.]+) MiB", text):
            if not 0 <= float(done) <= float(whole):
                sys.exit(f"progress of {done} of {whole} MiB")
        if len(widest[columns]) > columns:
            sys.exit(f"{len(widest[columns])} columns of {columns}: {widest[columns]}")
    if len(widest[130]) <= 80:
        sys.exit(f"on a wide terminal nothing uses the room: {widest[130]}")


if __name__ == "__main__":
    main()
