#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks what precopy publishes with --status. Argument: precopy."""
import json
import os
import select
import signal
import socket
import stat
import sys

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from common import (QUICK, SLOW, Reader, finish, require, run, run_json,  # noqa: E402
                    run_tests, start)

COUNTERS = ("entries", "new_pages", "resets", "full_exits", "high_water_entries")


def counters(line):
    for key in COUNTERS:
        yield f"log.{key}", line["log"][key]
    for key in ("pages", "wire_bytes"):
        yield f"sent.{key}", line["sent"][key]
    for vcpu in line["vcpus"]:
        for key in ("entries", "new_pages", "full_exits"):
            yield f"vCPU {vcpu['cookie']}.{key}", vcpu[key]
    yield from enumerate(line["heat"]["pages"])


def check_growth(lines):
    for before, after in zip(lines, lines[1:]):
        for (name, old), (_, new) in zip(counters(before), counters(after)):
            require(new >= old, f"{name} went from {old} to {new}")
        require(after["sequence"] > before["sequence"], "the sequence does not grow")


def every_reader_sees_the_migration_to_its_end(folder, precopy):
    path = folder / "socket"
    process = start(precopy, *SLOW, "--bandwidth", "16M", "--passes", "2", "--json",
                    "--status", path)
    readers = [Reader(path) for _ in range(3)]
    readers[0].ask(20)
    seen = [reader.rest() for reader in readers]
    result = json.loads(finish(process, 0)[0])
    for lines in seen:
        check_growth(lines)
        last = lines[-1]
        require([line["ended"] for line in lines] == [False] * (len(lines) - 1) + [True],
                "the last line, and only that, has ended")
        require(last["state"] == "moved", f"the last state is {last['state']}")
        require(last["sent"]["pages"] == result["pages_sent"], "not all pages were counted")
        require(sum(last["heat"]["pages"]) == result["pages_sent"], "the map misses pages")
        require(last["log"]["new_pages"] >= result["new_pages"] > 0, "pages were not counted")
        require(sum(slot["bytes"] for slot in last["slots"]) == result["memory_bytes"], "slots")
        require(last["heat"]["cell_bytes"] * len(last["heat"]["pages"]) >= 16 << 20, "cells")
        require(last["ring_entries"] == result["ring_entries"], "ring_entries")
    fast = seen[0]
    require(len(fast) > len(seen[1]), "a shorter interval gives no more lines")
    require({line["interval_ms"] for line in fast} >= {20}, "the interval was not taken")
    require(any(line["cursor"] for line in fast), "the cursor was never published")
    require("live" in {line["state"] for line in fast}, "no line was sent while it moved")
    require(not path.exists(), "the socket was left behind")


def the_socket_is_for_its_owner_only(folder, precopy):
    path = folder / "socket"
    folder.chmod(0o755)
    process = start(precopy, *SLOW, "--status", path)
    Reader(path).line()
    mode = path.stat().st_mode
    require(stat.S_ISSOCK(mode) and mode & 0o777 == 0o600, f"its mode is {mode:o}")
    if os.geteuid() == 0:
        child = os.fork()
        if not child:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as stranger:
                os._exit(stranger.connect_ex(str(path)) != 13)
        require(os.waitpid(child, 0)[1] == 0, "another user can connect")
    process.send_signal(signal.SIGINT)
    finish(process, 3)
    require(not path.exists(), "the socket was left behind")


def a_slow_reader_is_dropped_and_delays_nobody(folder, precopy):
    path = folder / "socket"
    process = start(precopy, *SLOW, "--status", path)
    slow, fast = Reader(path), Reader(path)
    slow.ask(10)
    dropped = select.poll()
    dropped.register(slow.socket, select.POLLRDHUP)
    fast.ask(50)
    lines = []
    while not dropped.poll(0):
        lines.append(fast.line())
        require(lines[-1] and not lines[-1]["ended"], "the slow reader was not dropped")
    after = [fast.line() for _ in range(3)]
    require(not any(line["ended"] for line in after), "the migration has ended")
    require(after[-1]["sent"]["pages"] > lines[0]["sent"]["pages"] or
            after[-1]["pass"]["number"] > lines[0]["pass"]["number"], "the migration stands still")
    data = slow.file.read()
    require(len(data) > 1000 and b'"ended":true' not in data, "the slow reader has it all")
    process.send_signal(signal.SIGINT)
    last = fast.rest()[-1]
    require(last["ended"] and last["state"] == "failed", f"the last line is {last}")
    require("still runs on the source" in finish(process, 3)[0], "the guest is gone")


def requests_that_are_none_end_a_connection(folder, precopy):
    path = folder / "socket"
    process = start(precopy, *SLOW, "--status", path)
    good = Reader(path)
    good.ask(20)
    for wrong in (b"9\n", b"60001\n", b"\n", b"-20\n", b"x\n", b"20 \n", b"1" * 100,
                  b"GET / HTTP/1.0\r\n\r\n"):
        bad = Reader(path)
        bad.socket.sendall(wrong)
        require(not any(line["ended"] for line in bad.rest()), f"{wrong} was served to the end")
    half = Reader(path)
    half.ask(20)
    half.socket.shutdown(socket.SHUT_WR)
    require(all(half.line() for _ in range(3)), "a reader that says no more gets no more lines")
    many, lines = [], []
    for _ in range(20):
        many.append(Reader(path))
        lines.append(many[-1].line())
    require(None in lines and lines[0], "there is no limit of readers, or it is 0")
    require(good.line(), "the others are served no more")
    process.send_signal(signal.SIGINT)
    finish(process, 3)


def refuse(precopy, path, why):
    result, err = run_json(3, precopy, *QUICK, "--status", path)
    text = " ".join(err.split())
    require(why in text, f"'{why}' is not in: {text}")
    require(set(result) == {"error", "exit_status"}, "the migration was begun")


def files_of_others_stay(folder, precopy):
    path = folder / "file"
    path.write_text("of somebody else")
    refuse(precopy, path, "is no socket")
    require(path.read_text() == "of somebody else", "the file was changed")
    (folder / "directory").mkdir()
    refuse(precopy, folder / "directory", "is no socket")
    (folder / "link").symlink_to(folder / "nothing")
    refuse(precopy, folder / "link", "is no socket")
    require((folder / "link").is_symlink(), "the link was removed")
    refuse(precopy, folder / "absent" / "socket", "No such file")
    refuse(precopy, folder / ("x" * 200), "too long")
    for mode, why in ((0o755, "of something else"), (0o600, "of something else")):
        with socket.socket(socket.AF_UNIX) as other:
            path = folder / f"other{mode:o}"
            other.bind(str(path))
            path.chmod(mode)
        refuse(precopy, path, why)
        require(stat.S_ISSOCK(path.lstat().st_mode), "the socket was removed")


def two_do_not_publish_at_one_place(folder, precopy):
    path = folder / "socket"
    first = start(precopy, *SLOW, "--status", path)
    reader = Reader(path)
    require(reader.line(), "the first one publishes nothing")
    inode = path.stat().st_ino
    refuse(precopy, path, "another program publishes there")
    require(path.stat().st_ino == inode, "the socket was replaced")
    require(Reader(path).line(), "the first one is disturbed")
    # The socket that it leaves behind is replaced.
    first.kill()
    first.wait()
    require(path.exists(), "a killed program has removed its socket")
    # Its number may be taken for the new file, so the time tells them apart.
    created = path.stat().st_ctime_ns
    second = start(precopy, *SLOW, "--status", path)
    while path.stat().st_ctime_ns == created:
        pass
    require(Reader(path).line()["pid"] == second.pid, "the second one publishes nothing")
    require([entry.name for entry in folder.iterdir()] == ["socket"], "a file is left")
    second.send_signal(signal.SIGINT)
    finish(second, 3)
    require(not path.exists(), "the socket was left behind")


def a_file_in_its_place_is_not_removed(folder, precopy):
    path = folder / "socket"
    process = start(precopy, *SLOW, "--status", path)
    Reader(path).line()
    path.unlink()
    path.write_text("of somebody else")
    process.send_signal(signal.SIGINT)
    finish(process, 3)
    require(path.read_text() == "of somebody else", "the file was removed")


def the_destination_alone_publishes_nothing(folder, precopy):
    for option in "--status", "--report":
        _, err = run(2, precopy, "--listen", f"unix:{folder}/listen", option, folder / "x")
        require("for the source" in err, err)
    require(not list(folder.iterdir()), "a file was made")


if __name__ == "__main__":
    run_tests([every_reader_sees_the_migration_to_its_end, the_socket_is_for_its_owner_only,
               a_slow_reader_is_dropped_and_delays_nobody, requests_that_are_none_end_a_connection,
               files_of_others_stay, two_do_not_publish_at_one_place,
               a_file_in_its_place_is_not_removed, the_destination_alone_publishes_nothing],
              sys.argv[1])
