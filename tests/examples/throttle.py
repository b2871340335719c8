#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks precopy's --throttle, --budget and --readers. Argument: precopy."""
import os
import signal
import sys

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from common import (QUICK, Reader, finish, require, run, run_json, run_tests, start)  # noqa: E402

THROTTLES = ("none", "auto-converge", "dirty-limit", "plan")
VERDICTS = ("continue", "switchover", "throttled", "late", "diverging")
BOUNDS = ("none", "stall", "deadline", "floor", "pause", "ignored")

# Dirties faster than the wire carries. vCPU 1 only reads.
LOSING = ["--memory", "24M", "--working-set", "16M", "--vcpus", "2", "--readers", "1",
          "--dirty-rate", "200M", "--bandwidth", "16M", "--downtime-limit", "200"]
# As LOSING, with more than a vCPU dirties in a moment, so that there is something to hold back.
LARGE = ["--memory", "96M", "--working-set", "80M", "--bandwidth", "60M"]


def backends():
    return ("model", "kvm") if os.access("/dev/kvm", os.R_OK | os.W_OK) else ("model",)


def check_fields(result, throttle):
    """Checks what every report must say, whatever happened."""
    require(result["throttle"] == throttle, f"throttle is {result['throttle']}")
    require(result["differing_pages"] == 0 and result["guest_healthy"], "writes were lost")
    writers = set(range(result["vcpus"] - 1))
    limited = set(result["limited_vcpus"])
    require(limited <= writers | {result["vcpus"] - 1}, f"vCPUs {limited} do not exist")
    for who in ("writers", "readers"):
        free, held_ns = result["guest_run_percent"][who], result["held_ns"][who]
        require(0 <= free <= 100, f"{who} ran {free}%")
        require((held_ns == 0) >= (free == 100), f"{who} were held for {held_ns} ns: {free}%")
    held_ns = sum(result["held_ns"].values())
    require(result["longest_pause_ns"] <= held_ns, "a pause is longer than all of them")
    require((held_ns > 0) == (result["longest_pause_ns"] > 0) == bool(limited), "who was held?")
    for verdict in result["verdicts"]:
        require(verdict["verdict"] in VERDICTS and verdict["bound_by"] in BOUNDS, verdict)
        require(verdict["limited_vcpus"] <= result["vcpus"], verdict)
    times = [verdict["start_ns"] for verdict in result["verdicts"]]
    require(times == sorted(times), "the verdicts are not in order")
    require(bool(times) == (throttle == "plan"), "a plan has verdicts, and nobody else")
    speeds = (result["reader_speed_percent"], result["reader_cpu_speed_percent"])
    require(None not in speeds, f"the speed of the reader is {speeds}")


def every_throttle_moves_the_guest(folder, precopy):
    for backend in backends():
        for throttle in THROTTLES:
            result, _ = run_json(0, precopy, *QUICK, "--backend", backend, "--readers", "1",
                                 "--mode", "ring", "--throttle", throttle)
            check_fields(result, throttle)
            require(result["budget_ns"] == 0 and result["budget_met"] is None, "no budget")


def losing(precopy, backend, throttle, *arguments):
    result, _ = run_json(0, precopy, *LOSING, "--backend", backend, "--throttle", throttle,
                         *arguments)
    check_fields(result, throttle)
    return result


def a_plan_holds_the_writer_and_not_the_reader(folder, precopy):
    for backend in backends():
        result = losing(precopy, backend, "plan", *LARGE, "--budget", "3")
        require(result["budget_ns"] == 3 * 10**9, "the budget")
        require(result["limited_vcpus"] == [0], f"it held {result['limited_vcpus']}")
        require(result["held_ns"]["readers"] == 0, "the reader was held")
        require(result["stopped_because"] in ("fits", "budget"), result["stopped_because"])
        last = result["verdicts"][-1]["verdict"]
        require((last == "switchover") == (result["stopped_because"] == "fits"),
                f"it stopped because of {result['stopped_because']}, the last verdict is {last}")


def auto_converge_holds_everybody(folder, precopy):
    out, _ = run(0, precopy, *LOSING, "--backend", "auto", "--throttle", "auto-converge",
                 "--budget", "2")
    require("held vCPUs, free to run" in out and "  0,1: " in out, out)
    require("throttle auto-converge: held vCPUs 0,1; " in out, out)
    require("budget   2 s; the guest was stopped after " in out, out)
    require(all(len(line) <= 80 for line in out.splitlines()), f"too wide:\n{out}")


def dirty_limit_sleeps_when_a_ring_is_full(folder, precopy):
    result = losing(precopy, "auto", "dirty-limit", "--budget", "2", "--ring-entries", "1024",
                    "--bandwidth", "30M", "--working-set", "20M", "--downtime-limit", "1")
    require(result["full_exits"] > 0, "no ring was ever full")
    require(result["limited_vcpus"] == [0], f"it held {result['limited_vcpus']}")
    require(result["held_ns"]["readers"] == 0, "the reader was held")


def a_guest_that_converges_is_left_alone(folder, precopy):
    for throttle in THROTTLES[1:]:
        result = losing(precopy, "auto", throttle, "--dirty-rate", "1M", "--bandwidth", "40M")
        require(result["limited_vcpus"] == [], f"{throttle} held {result['limited_vcpus']}")
        require(result["stopped_because"] == "fits", result["stopped_because"])


def without_a_throttle_the_budget_ends_it(folder, precopy):
    result = losing(precopy, "auto", "none", "--budget", "1")
    require(result["stopped_because"] == "budget", result["stopped_because"])
    require(result["budget_met"] is False, "the budget cannot have been met")
    require(result["stop_ns"] >= 2 * result["budget_ns"], "it was not waited for")


def left_out(precopy, *arguments):
    """Bytes that the first pass does not send."""
    # The second writer's pages are in the slot that is sent last.
    result = losing(precopy, "auto", "none", *LARGE, "--vcpus", "3", "--dirty-rate", "0",
                    "--ring-entries", "1024", "--passes", "1", *arguments)
    first = result["passes"][0]
    require(result["skip_rewritten"] == bool(arguments), "skip_rewritten")
    return first["dirty_bytes"] - first["sent_pages"] * result["page_bytes"]


def what_is_rewritten_waits_for_the_second_pass(folder, precopy):
    require(not left_out(precopy), "the first pass left something out")
    # The writer may not have had a processor in time.
    require(any(left_out(precopy, "--skip-rewritten") for _ in range(5)), "nothing was left out")


def interrupted_while_held(folder, precopy):
    """The guest runs on, unharmed and unlimited."""
    process = start(precopy, *LOSING, *LARGE, "--backend", "auto", "--throttle", "plan",
                    "--budget", "3", "--json", "--status", folder / "socket")
    reader = Reader(folder / "socket")
    reader.ask(10)
    while not (line := reader.line())["held_vcpus"]:
        require(not line["ended"], "no vCPU was ever held")
    require(line["verdict"] in VERDICTS and line["held_vcpus"] == 1, line)
    process.send_signal(signal.SIGINT)
    reader.rest()
    out, _ = finish(process, 3)
    require('"runs_on_source": true' in out and '"logging_off": true' in out, out)
    require('"guest_healthy": true' in out, out)


def rings_that_do_not_exist_are_missed(folder, precopy):
    _, err = run(3, precopy, *QUICK, "--mode", "bitmap", "--throttle", "dirty-limit")
    require("--throttle dirty-limit needs rings" in err, err)
    result, _ = run_json(0, precopy, *QUICK, "--mode", "bitmap", "--throttle", "plan")
    require(result["stopped_because"] == "fits", result["stopped_because"])


def bad_values_are_refused(folder, precopy):
    for option, bad in (("--throttle", ("", "Plan", "auto", "99")),
                        ("--budget", ("", "0", "-1", "1.5", "86401", "99999999999999999999")),
                        ("--readers", ("", "-1", "8", "x"))):
        for value in bad:
            _, err = run(2, precopy, option, value)
            require(err.startswith(f"precopy: {option} {value}: expected "), err)
        _, err = run(2, precopy, option)
        require(f"option '{option}' needs an argument" in err, err)
    _, err = run(2, precopy, "--vcpus", "2", "--readers", "2")
    require("--readers must be less than --vcpus" in err, err)


if __name__ == "__main__":
    run_tests((every_throttle_moves_the_guest, a_plan_holds_the_writer_and_not_the_reader,
               auto_converge_holds_everybody, dirty_limit_sleeps_when_a_ring_is_full,
               a_guest_that_converges_is_left_alone, without_a_throttle_the_budget_ends_it,
               what_is_rewritten_waits_for_the_second_pass, interrupted_while_held,
               rings_that_do_not_exist_are_missed, bad_values_are_refused), sys.argv[1])
