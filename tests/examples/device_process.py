#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks precopy's --device-process, which writes guest memory too. Argument: precopy."""
import json
import os
import select
import signal
import sys
from pathlib import Path

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from common import (SLOW, TIMEOUT_S, Reader, finish, require, run_json,  # noqa: E402
                    run_tests, start)

PROCESS = ["--device-process", "--memory", "16M"]


def logs():
    """The available backends, modes and guests."""
    for mode in "auto", "bitmap":
        yield ["--backend", "model", "--mode", mode]
        if os.access("/dev/kvm", os.R_OK | os.W_OK):
            for guest in "user", "kernel":
                yield ["--backend", "kvm", "--mode", mode, "--guest", guest]


def check_moved(result, what):
    require(result["differing_pages"] == 0 and result["guest_healthy"], f"{what}: the copy")
    require(result["process_writes"] > 0, f"{what}: the device process writes nothing")
    require(result["process_logged_pages"] > 0, f"{what}: nothing is found in the log")
    require(result["process_dropped_pages"] == 0, f"{what}: dropped pages")
    rows = sum(row["logged_pages"] for row in result["passes"])
    require(rows == result["process_logged_pages"],
            f"{what}: {rows} logged pages in all passes, {result['process_logged_pages']} in all")
    # Before each pass, and when the device has stopped; not while it stands still.
    require(result["process_log_reads"] == len(result["passes"]) + 1,
            f"{what}: {result['process_log_reads']} looks, {len(result['passes'])} passes")


def its_writes_arrive(_, precopy):
    for log in logs():
        check_moved(run_json(0, precopy, *PROCESS, *log)[0], log)


def its_writes_arrive_beside_everything_else(_, precopy):
    for options in (["--slot-moves", "--channels", "4"], ["--ring-entries", "1024"],
                    ["--transport", "tcp", "--no-zero-pages", "--skip-rewritten"],
                    ["--backend", "model", "--watch"]):
        check_moved(run_json(0, precopy, *PROCESS, *options)[0], options)


def a_dropped_log_is_found(_, precopy):
    for log in logs():
        result, _ = run_json(1, precopy, *PROCESS, *log, "--sabotage", "log")
        require(result["differing_pages"] > 0, f"{log}: no page differs")
        # The guest never looks at these pages.
        require(result["guest_healthy"], f"{log}: the guest is not healthy")
        require(result["process_dropped_pages"] > 0, f"{log}: nothing was dropped")
        require(result["process_logged_pages"] == 0, f"{log}: marked pages")


def it_goes_on_where_it_was(folder, precopy):
    """Through three hosts; the process of the second one checks what that of the first has left."""
    middle, last = f"unix:{folder}/middle", f"unix:{folder}/last"
    hosts = [start(precopy, "--json", "--listen", last)]
    hosts.append(start(precopy, "--json", "--device-process", "--listen", middle,
                       "--connect", last))
    for host in hosts:
        require(b"listening" in host.stderr.readline(), "the destination does not listen")
    first, _ = run_json(0, precopy, *PROCESS, "--connect", middle)
    finish(hosts[0], 0)
    # Its report as the destination, and then as the source.
    second = finish(hosts[1], 0)[0]
    second = json.loads("{" + second.rpartition("\n{")[2])
    check_moved(first, "the first host")
    check_moved(second, "the second host")
    require(second["process_writes"] > first["process_writes"],
            f"{second['process_writes']} writes after {first['process_writes']}")


def process_of(parent):
    """The device process that the parent has started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            option = b"--device-process-fd" in (path / "cmdline").read_bytes()
            if option and f"\nPPid:\t{parent}\n" in (path / "status").read_text():
                return int(path.name)
        except (FileNotFoundError, ProcessLookupError):
            pass
    raise AssertionError("there is no device process")


def start_moving(folder, precopy, *options):
    """A migration in its first pass. Returns it, and its device process."""
    process = start(precopy, *SLOW, "--device-process", "--status", folder / "socket", *options)
    reader = Reader(folder / "socket")
    while not reader.line()["sent"]["pages"]:
        reader.ask(10)
    return process, process_of(process.pid)


def start_last_pass(folder, precopy):
    """A migration in its last pass, which takes seconds; the device has been stopped."""
    process = start(precopy, "--backend", "model", "--memory", "24M", "--working-set", "12M",
                    "--no-zero-pages", "--bandwidth", "5M", "--passes", "1", "--json",
                    "--device-process", "--status", folder / "socket")
    reader = Reader(folder / "socket")
    reader.ask(10)
    sent = set()
    while len(sent) < 2:
        line = reader.line()
        if line["state"] == "paused":
            sent.add(line["sent"]["pages"])
    return process


def after_a_cancel_it_goes_on(folder, precopy):
    process = start_last_pass(folder, precopy)
    process.send_signal(signal.SIGINT)
    result = json.loads(finish(process, 3)[0])
    require("cancelled" in result["error"], result["error"])
    for name in "runs_on_source", "guest_healthy", "process_runs":
        require(result[name], f"{name} is {result[name]}")
    require(result["process_writes"] > result["process_stopped_writes"] > 0,
            f"{result['process_writes']} writes, {result['process_stopped_writes']} of them before")


def fill_mapping(process, name, byte):
    """Overwrites what the process has mapped of a file."""
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        if f"/memfd:{name} " in line:
            first, end = (int(part, 16) for part in line.split()[0].split("-"))
            with open(f"/proc/{process}/mem", "r+b", buffering=0) as memory:
                memory.seek(first)
                require(memory.write(byte * (end - first)) == end - first, "a short write")
            return
    raise AssertionError(f"the process has not mapped {name}")


def a_write_after_the_stop_is_found(folder, precopy):
    """Somebody else logs it. The guest stays, since what was sent of it may be old."""
    process = start_last_pass(folder, precopy)
    fill_mapping(process.pid, "dirty-log", b"\1")
    result = json.loads(finish(process, 3)[0])
    require("has written memory after it had stopped" in result["error"], result["error"])
    require(result["runs_on_source"] and result["guest_healthy"], "the guest does not go on")


def damage_is_found(folder, precopy):
    """Somebody else writes the device's pages, which it checks before it writes them again."""
    process, device = start_moving(folder, precopy, "--json")
    fill_mapping(device, "guest", b"\xff")
    error = json.loads(finish(process, 3)[0])["error"]
    require("the device process: found damage at" in error, error)


def if_it_is_killed_the_guest_stays(folder, precopy):
    process, device = start_moving(folder, precopy, "--json")
    os.kill(device, signal.SIGKILL)
    out, err = finish(process, 3)
    result = json.loads(out)
    require("the device process was killed by signal 9" in result["error"], result["error"])
    require("the device process was killed" in " ".join(err.split()), err)
    for name in "runs_on_source", "guest_healthy", "logging_off":
        require(result[name], f"{name} is {result[name]}")
    # The pages that it had logged before were taken nevertheless.
    require(result["process_log_reads"] == len(result["passes"]) + 1,
            f"{result['process_log_reads']} looks, {len(result['passes'])} passes")
    require(result["process_logged_pages"] > 0, "nothing is found in the log")


def it_ends_with_the_program(folder, precopy):
    process, device = start_moving(folder, precopy)
    end = os.pidfd_open(device)
    process.kill()
    finish(process, -signal.SIGKILL)
    require(select.select([end], [], [], TIMEOUT_S)[0], "the device process is left")
    os.close(end)


if __name__ == "__main__":
    run_tests([its_writes_arrive, its_writes_arrive_beside_everything_else, a_dropped_log_is_found,
               it_goes_on_where_it_was, after_a_cancel_it_goes_on,
               a_write_after_the_stop_is_found, damage_is_found,
               if_it_is_killed_the_guest_stays, it_ends_with_the_program],
              os.path.abspath(sys.argv[1]))
