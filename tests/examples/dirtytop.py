#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks dirtytop on terminals of several sizes. Arguments: dirtytop, precopy.

Most of it is fed by a publisher in this program, which speaks the protocol of status.h.
"""
import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import sys
import termios

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from common import QUICK, TIMEOUT_S, finish, require, run, run_tests, start  # noqa: E402

ESCAPES = r"\x1b\[[0-9;?]*[A-Za-z]"
COLOURS = r"\x1b\[[0-9;]*m"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def line_of(number, n_vcpus=4, **changes):
    """The line that a publisher would send after this number of half seconds."""
    line = {
        "dirtylog_status": 1, "sequence": number, "time_ns": number * 500_000_000,
        "elapsed_ns": number * 500_000_000, "interval_ms": 500, "program": "monitor",
        "pid": 4711, "state": "live", "ended": False, "mode": "ring", "backup_bitmap": False,
        "ring_entries": 4096, "page_bytes": 4096,
        "log": {"new_pages": 6173 * number, "overflows": 0, "full_exits": 0, "a_new_one": [1]},
        "cursor": {"pending_bytes": 5 << 20, "unacked_bytes": 1 << 20},
        "pass": {"number": 2, "bytes": 8 << 20, "sent_bytes": 2 << 20},
        "sent": {"pages": 10_000 * number, "wire_bytes": 30_000_000 * number},
        "verdict": "throttled", "held_vcpus": 2,
        "vcpus": [{"cookie": i, "entries": 1024 * number, "new_pages": 1000 * number,
                   "full_exits": i % 2, "high_water_entries": 3072} for i in range(n_vcpus)],
        "slots": [{"slot": 0, "gpa": 0, "bytes": 1 << 30}],
        "heat": {"cell_bytes": 1 << 20, "pages": [(i % 300) * number for i in range(1024)]},
        "later": {"key": None, "other": [[], {}, -1.5e3, "\u00e4\"\\"]},
    }
    line.update(changes)
    return line


class Publisher:
    """A publisher with one reader."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.reader = None

    def accept(self):
        self.listener.settimeout(TIMEOUT_S)
        self.reader = self.listener.accept()[0]
        self.reader.settimeout(TIMEOUT_S)
        self.requests = self.reader.makefile("rb")
        return self.interval()

    def interval(self):
        """The interval that the reader asks for."""
        return int(self.requests.readline())

    def send(self, line):
        self.reader.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    def close(self):
        self.requests.close()
        self.reader.close()


class Terminal:
    """dirtytop on a terminal, with a publisher."""

    def __init__(self, folder, dirtytop, columns=80, rows=24, colour=True, options=()):
        path = folder / f"socket{len(list(folder.iterdir()))}"
        self.publisher = Publisher(path)
        self.text = ""
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update(TERM="xterm", LC_ALL="C.UTF-8")
            os.environ.pop("NO_COLOR", None)
            if not colour:
                os.environ["NO_COLOR"] = "1"
            # The parent sets the size, then lets the program begin.
            os.read(0, 1)
            os.execv(dirtytop, [dirtytop, *options, str(path)])
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.fd)
        os.write(self.fd, b"\n")
        self.interval = self.publisher.accept()

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def key(self, key):
        os.write(self.fd, key)

    def wait_for(self, pattern):
        """Reads until the last frame shows something. Returns the frame."""
        while not re.search(pattern, frame := self.frame()):
            require(select.select([self.fd], [], [], 20)[0], f"no {pattern} in {frame}")
            self.text += self.decoder.decode(os.read(self.fd, 65536))
        return frame

    def frame(self):
        """The last frame, without escape sequences. Only a whole one has its last row."""
        _, home, last = self.text.rpartition("\x1b[H")
        return re.sub(ESCAPES, "", last) if home else ""

    def end(self):
        """The exit status, after all has been read."""
        try:
            while more := os.read(self.fd, 65536):
                self.text += self.decoder.decode(more)
        except OSError:
            pass
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        after = termios.tcgetattr(self.fd)
        require(after == self.before, "the terminal was not put back")
        require(self.text.count(ENTER) == self.text.count(LEAVE) == 1, "the screen was not left")
        require(self.text.index(LEAVE) > self.text.rindex("\x1b[H"), "it draws after leaving")
        os.close(self.fd)
        self.publisher.close()
        return status


def check_frame(terminal, frame):
    lines = frame.replace("\r", "").split("\n")
    require(len(lines) <= terminal.rows, f"{len(lines)} rows of {terminal.rows}")
    for line in lines:
        require(len(line) <= terminal.columns, f"{len(line)} columns of {terminal.columns}: {line}")
        require(line.isprintable() or not line, f"{line!r}")
    return lines


def frames_fit_their_terminals(folder, dirtytop, _):
    for columns, rows, vcpus in ((80, 24, 4), (80, 24, 8), (160, 60, 8), (100, 30, 200),
                                 (80, 24, 256), (40, 12, 4), (20, 5, 4), (1, 1, 1), (300, 100, 0)):
        terminal = Terminal(folder, dirtytop, columns, rows)
        for number in range(1, 4):
            terminal.publisher.send(line_of(number, vcpus))
        large = columns >= 80
        frame = terminal.wait_for(r"1\.5 s(?s:.*quit)" if large else r".")
        lines = check_frame(terminal, frame)
        if large:
            require("12,346 pages/s" in frame and "20,000 pages/s" in frame, frame)
            require("monitor 4711" in lines[0], lines[0])
            require("live, pass 2, throttled, 2 vCPUs held " in lines[0], lines[0])
            require(max(map(len, lines)) == columns, "the width is not used")
            require("█" in frame and "1 GiB" in frame and "memory" in frame, frame)
            shown = re.findall(r"^ *(\d+) +2,000 +2,048 +[01] ", frame.replace("\r", ""), re.M)
            hidden = re.search(r"(\d+) more vCPUs", frame)
            require(len(shown) + (int(hidden[1]) if hidden else 0) == vcpus, frame)
        if rows >= 60:
            require("▁" in frame or "▇" in frame or "█" in frame, "no history")
            require(frame.count("dirtied") == 2, "a high terminal shows no history")
        terminal.key(b"q")
        require(terminal.end() == 0, "q is no success")


def keys_work(folder, dirtytop, _):
    terminal = Terminal(folder, dirtytop, options=["--interval", "0.25"])
    require(terminal.interval == 250, f"the interval is {terminal.interval}")
    terminal.publisher.send(line_of(1))
    terminal.wait_for("interval 0.25 s")
    terminal.key(b"+")
    require(terminal.publisher.interval() == 500, "+ asks for another interval")
    terminal.wait_for("interval 0.5 s")
    terminal.key(b"-")
    terminal.key(b"-")
    require([terminal.publisher.interval() for _ in range(2)] == [250, 125], "-")
    terminal.key(b"x \x1b")
    terminal.wait_for("FROZEN")
    for number in range(2, 6):
        terminal.publisher.send(line_of(number))
    terminal.key(b" ")
    frame = terminal.wait_for(r"2\.5 s(?s:.*freeze)")
    require("FROZEN" not in frame, "it stays frozen")
    terminal.key(b"Q")
    require(terminal.end() == 0, "Q is no success")


def a_new_size_is_drawn_at_once(folder, dirtytop, _):
    terminal = Terminal(folder, dirtytop)
    terminal.publisher.send(line_of(1))
    terminal.publisher.send(line_of(2))
    terminal.wait_for(r"1\.0 s(?s:.*quit)")
    for columns, rows in (132, 40), (60, 20), (80, 24):
        terminal.text += "\x1b[H"
        terminal.resize(columns, rows)
        lines = check_frame(terminal, terminal.wait_for(r"1\.0 s(?s:.*quit)"))
        require(len(lines) == rows and max(map(len, lines)) == columns, f"{len(lines)} rows")
    terminal.key(b"q")
    terminal.end()


def signals_leave_the_terminal_as_it_was(folder, dirtytop, _):
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
        terminal = Terminal(folder, dirtytop)
        terminal.publisher.send(line_of(1))
        terminal.wait_for("quit")
        if number == signal.SIGINT:
            terminal.key(b"\x03")
        else:
            os.kill(terminal.pid, number)
        require(terminal.end() == -number, f"it does not end by {number!r}")


def a_stop_gives_the_terminal_back(folder, dirtytop, _):
    terminal = Terminal(folder, dirtytop)
    terminal.publisher.send(line_of(1))
    terminal.wait_for("quit")
    os.kill(terminal.pid, signal.SIGTSTP)
    require(os.WIFSTOPPED(os.waitpid(terminal.pid, os.WUNTRACED)[1]), "it does not stop")
    require(termios.tcgetattr(terminal.fd) == terminal.before, "it keeps the terminal")
    terminal.publisher.send(line_of(2))
    os.kill(terminal.pid, signal.SIGCONT)
    terminal.text = ""
    terminal.wait_for(r"1\.0 s(?s:.*quit)")
    require(LEAVE in terminal.text and ENTER in terminal.text, "the screen is not taken again")
    terminal.text = terminal.text.split(LEAVE)[-1]
    terminal.key(b"q")
    require(terminal.end() == 0, "q is no success")


def colours_are_only_where_they_are_wanted(folder, dirtytop, _):
    for colour in True, False:
        terminal = Terminal(folder, dirtytop, colour=colour)
        terminal.publisher.send(line_of(1))
        terminal.publisher.send(line_of(2))
        terminal.wait_for(r"1\.0 s(?s:.*quit)")
        terminal.key(b"q")
        terminal.end()
        drawn = terminal.text.replace("\x1b[0m" + LEAVE, "")
        require(bool(re.search(COLOURS, drawn)) == colour, "colours")


def the_end_stays_on_the_screen(folder, dirtytop, _):
    terminal = Terminal(folder, dirtytop)
    terminal.publisher.send(line_of(1))
    terminal.publisher.send(line_of(2, state="moved", ended=True, cursor=None))
    require(terminal.end() == 0, "an end is no success")
    last = terminal.text.split(LEAVE)[1]
    require("monitor 4711 has ended: moved" in last and "12,346 pages/s" in last, last)
    require(len(last.split("\n")) <= 24, "the last frame is higher than the terminal")


def troubles_of_the_publisher_are_said(folder, dirtytop, _):
    good = json.dumps(line_of(1)).encode() + b"\n"
    for data, why in (
            (b"", "closed the connection"), (good, "has crashed, or this was too slow"),
            (good + good[:50], "too slow"), (b"HTTP/1.1 400 Bad\n", "is not the status"),
            (b"{}\n", "is not the status"), (b'{"dirtylog_status":2}\n', "version 2"),
            (b"[" * 5000 + b"\n", "is not the status"), (b'{"a":"' + b"x" * 3000 + b"\n", "not"),
            (good.replace(b"}\n", b"}}\n"), "is not the status"), (b"x" * (1 << 21), "too long"),
            (b"\0\n", "is not the status"), (b'{"page_bytes":"\\', "closed the connection")):
        terminal = Terminal(folder, dirtytop)
        try:
            terminal.publisher.send(data)
        except OSError:
            pass
        terminal.publisher.close()
        require(terminal.end() == 1, f"{data[:40]} is no failure")
        last = " ".join(terminal.text.split(LEAVE)[1].split())
        require(why in last, f"'{why}' is not in: {last}")


def hostile_text_is_not_printed(folder, dirtytop, _):
    terminal = Terminal(folder, dirtytop, colour=False)
    hostile = "\x1b]0;x\x07\x1b[31m\r\n\u202e%s%n"
    number = 10 ** 30
    terminal.publisher.send(line_of(1, program=hostile, state=hostile * 20, pid=number,
                                    ring_entries=number, page_bytes=number, mode=hostile,
                                    vcpus=[{"cookie": number, "high_water_entries": number}] * 300))
    terminal.publisher.send(line_of(2, program=hostile, state=hostile * 20, pid=number,
                                    heat={"cell_bytes": number, "pages": [number, -1] * 2000},
                                    vcpus=[{"cookie": number, "entries": number}] * 300))
    frame = terminal.wait_for(r"1\.0 s(?s:.*quit)")
    check_frame(terminal, frame)
    raw = json.dumps(line_of(3, program=hostile, state=hostile, ended=True)).encode() + b"\n"
    terminal.publisher.send(raw.replace(b"\\u001b", b"\x1b").replace(b"\\u0007", b"\x07"))
    require(terminal.end() == 0, "it has failed")
    require("has ended" in terminal.text, "the end is missing")
    require(not re.search("\x07|\x1b\\[31m|\u202e", terminal.text), "escapes pass")


def plain(folder, dirtytop, lines, *options):
    """The output of dirtytop to a pipe for these lines."""
    path = folder / f"socket{len(list(folder.iterdir()))}"
    publisher = Publisher(path)
    process = start(dirtytop, *options, path)
    publisher.accept()
    for line in lines:
        publisher.send(line)
    out, err = finish(process, 0)
    publisher.close()
    require("\x1b" not in out + err, "escape sequences in a pipe")
    require(not [line for line in out.split("\n") if len(line) > 80 and line[0] != "{"], out)
    return out


def pipes_get_plain_text(folder, dirtytop, _):
    three = [line_of(1), line_of(2), line_of(3, ended=True)]
    require(plain(folder, dirtytop, three).count("monitor 4711") == 3, "not a frame a line")
    once = plain(folder, dirtytop, three[:2], "--once")
    require(once.count("monitor 4711") == 1 and "12,346 pages/s" in once, once)
    bitmap = plain(folder, dirtytop, [line_of(i, mode="bitmap", ring_entries=0) for i in (1, 2)],
                   "--once")
    require("bitmap mode" in bitmap, bitmap)
    ended = plain(folder, dirtytop, [line_of(1, ended=True)], "--once")
    require("not known yet" in ended, ended)
    lines = plain(folder, dirtytop, three, "--json").splitlines()
    require([json.loads(line) for line in lines] == three, "the lines are not the publisher's")
    require(len(plain(folder, dirtytop, three[:1], "--json", "--once").splitlines()) == 1, "--once")


def a_missing_publisher_is_said_or_waited_for(folder, dirtytop, precopy):
    path = folder / "socket"
    _, err = run(1, dirtytop, path)
    require(f"there is no {path}" in " ".join(err.split()), err)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    _, err = run(1, dirtytop, path)
    require("nothing publishes on" in err, err)
    path.unlink()
    waiting = start(dirtytop, "--wait", "--json", "--interval", "0.01", path)
    # It waits now or will in a moment; both must work.
    publisher = start(precopy, *QUICK, "--bandwidth", "20M", "--no-zero-pages", "--status", path)
    lines = [json.loads(line) for line in finish(waiting, 0)[0].splitlines()]
    require(lines[-1]["ended"] and lines[-1]["state"] == "moved", f"{lines[-1]}")
    finish(publisher, 0)
    waiting = start(dirtytop, "--wait", path)
    waiting.terminate()
    finish(waiting, -signal.SIGTERM)


def usage_is_checked(folder, dirtytop, _):
    out, _ = run(0, dirtytop, "--help")
    require(max(map(len, out.split("\n"))) <= 80 and out.startswith("Usage: dirtytop"), "--help")
    for wrong in ([], ["a", "b"], ["--nonsense", "a"], ["--interval"], ["--interval", "0", "a"],
                  ["--interval", "61", "a"], ["--interval", "nan", "a"], ["--interval", "1x", "a"]):
        _, err = run(2, dirtytop, *wrong)
        require(err.startswith("dirtytop: "), err)
    full = run(1, "/bin/sh", "-c", 'exec "$0" --help >/dev/full', dirtytop)[1]
    require("cannot write all of the output" in full, full)


if __name__ == "__main__":
    run_tests([frames_fit_their_terminals, keys_work, a_new_size_is_drawn_at_once,
               signals_leave_the_terminal_as_it_was, a_stop_gives_the_terminal_back,
               colours_are_only_where_they_are_wanted, the_end_stays_on_the_screen,
               troubles_of_the_publisher_are_said, hostile_text_is_not_printed,
               pipes_get_plain_text, a_missing_publisher_is_said_or_waited_for, usage_is_checked],
              *sys.argv[1:])
