#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Takes points with examples/snapshot and restores them. Arguments: snapshot, the program that
flips bytes, and "some" or "every": how many of the faults. With "table" it prints the fault table
of doc/snapshots.md."""
import os
import signal
import struct
import sys
import tempfile
import zlib
from pathlib import Path

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

import hostile_points  # noqa: E402
import snapshot_merge  # noqa: E402
from common import finish, require, run, run_json, run_tests, start  # noqa: E402
from snapshot_common import (MODEL, READER, SLOW, SMALL, check_restored, read,  # noqa: E402
                             take)

KINDS = ("kill", "enospc", "eio", "short")


def backends():
    return ["model", "kvm"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["model"]


def the_help_fits_a_terminal(folder, snapshot, *_):
    out, _ = run(0, snapshot, "--help")
    require(max(map(len, out.splitlines())) <= 80, "--help is wider than 80 columns")
    for words in (["run"], ["fly", folder], ["run", folder, "--passes", "x"], ["merge", folder],
                  ["run", folder, "--fault", "kill"], ["run", folder, "--memory", "1"],
                  ["run", folder, "--nothing"], ["run", folder, "--count"],
                  ["run", folder, "--point", 3]):
        status = 3 if "--memory" in words else 2
        _, err = run_json(status, snapshot, *words)
        require(err.startswith("snapshot: "), f"no reason for {words}: {err}")


def every_point_is_what_memory_was(folder, snapshot, _, how_many):
    """While slots change, and beside a migration and a display."""
    count = 1000 if how_many == "every" else 25
    for backend in backends():
        points = folder / backend
        result, _ = take(0, snapshot, points, *SMALL, "--backend", backend, "--count", count,
                         "--beside", "--slot-moves")
        require(len(result["points"]) == count and all(p["complete"] for p in result["points"]),
                "points are missing")
        require(result["differing_pages"] == 0 and not result["unsound_points"], "not the memory")
        require(result["beside_differing_pages"] == 0, "the consumers beside lost pages")
        require(min(result["beside_passes"]) > 3, "nobody was beside")
        require(result["slot_changes"] > count / 10, "no slot has changed")
        out, _ = read(0, "verify", points)
        require(out.count("sound") == count, "the other reader does not agree")
        for point in (1, count // 2):
            require(check_restored(snapshot, points, "--point", point) == point, "another point")


def points_go_on_after_a_restore(folder, snapshot, *_):
    for backend in backends():
        points = folder / backend
        take(0, snapshot, points, *SMALL, "--backend", backend, "--count", 2)
        run_json(3, snapshot, "run", points, *SMALL)
        result, _ = take(0, snapshot, points, *SMALL, "--count", 3, "--continue", "--mode",
                         "bitmap", "--passes", "0", "--pause", "write", "--coalesce", "64K")
        require([point["number"] for point in result["points"]] == [3, 4, 5], "other numbers")
        require(not any(point["base"] for point in result["points"]), "it began with a base")
        result, _ = take(0, snapshot, points, *SMALL, "--count", 4, "--continue",
                         "--full-every", 2, "--passes", "3", "--buffer", "64K")
        require([p["base"] for p in result["points"]] == [True, False] * 2, "no bases")
        read(0, "verify", points)
        require(check_restored(snapshot, points) == 9, "not the last point")


def a_run_that_fails_waits_for_no_child_of_others(folder, snapshot, *_):
    """The shell's child becomes one of the program that takes its place."""
    take(0, snapshot, folder / "points", *MODEL, "--count", 1)
    process = start("sh", "-c", "cat /dev/zero >/dev/null & echo $! >$0; exec \"$@\"",
                    folder / "pid", snapshot, "run", folder / "points", *MODEL)
    try:
        require(process.wait(30) == 3, "another status")
    finally:
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)
    process.communicate()


def a_fork_does_not_copy_the_guest(folder, snapshot, *_):
    process = start(snapshot, "run", folder / "points", *MODEL, "--count", 0, "--json")
    while not (folder / "points/000001.snap").exists():
        require(process.poll() is None, "it has ended")
    size, flags = 0, []
    for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Size":
            size = int(value.split()[0])
        # By its size: a sanitizer too has memory that is left out of core dumps.
        elif name == "VmFlags" and "dd" in value.split() and size == 16 << 10:
            flags.append(value)
    process.send_signal(signal.SIGTERM)
    finish(process, 0)
    require(any("dc" in value.split() for value in flags), f"a fork copies the guest: {flags}")


def a_signal_ends_after_a_whole_point(folder, snapshot, *_):
    process = start(snapshot, "run", folder / "points", *MODEL, "--count", 0, "--json")
    while not (folder / "points/000002.snap").exists():
        require(process.poll() is None, "it has ended")
    process.send_signal(signal.SIGTERM)
    finish(process, 0)
    check_restored(snapshot, folder / "points")


def each_mistake_is_noticed(folder, snapshot, *_):
    for backend in backends():
        for kind in ("mark", "discard", "ack", "drop", "read-early"):
            for passes in ("0", "1"):
                result, _ = take(1, snapshot, folder / f"{backend}-{kind}-{passes}", "--memory",
                                 "16M", "--backend", backend, "--interval", "50", "--count", 3,
                                 "--passes", passes, "--sabotage", kind)
                require(result["differing_pages"] > 0, f"no page differs: {kind}")
        # The lost point is the second: its pages are in no file.
        steps = take(0, snapshot, folder / f"{backend}-clean", *SLOW, "--backend", backend,
                     "--count", 1)[0]["steps"]
        result, _ = take(1, snapshot, folder / f"{backend}-early", *SLOW, "--backend", backend,
                         "--prove", "last", "--sabotage", "commit-early",
                         "--fault", f"enospc@{steps + 6}")
        require(result["faults"] == 1 and result["differing_pages"] > 0, "no page differs")
    process = start(snapshot, "run", folder / "in-place", *SLOW, "--sabotage", "in-place",
                    "--writer", "self", "--fault", f"kill@{steps + 6}")
    finish(process, -signal.SIGKILL)
    run_json(1, snapshot, "verify", folder / "in-place")


def step_names(result):
    """Names of a run's steps: begin, writes, fsync, rename, sync of the directory."""
    names = []
    for point in result["points"]:
        batches = point["writes"] - 4
        names += ["create", "write header", *["write pages"] * batches, "write index",
                  "write state", "write footer", "fsync", "rename", "fsync of the directory"]
    require(len(names) == result["steps"], f"{len(names)} steps, not {result['steps']}")
    return names


def check_fault(folder, snapshot, kind, step, *options):
    """One fault of a writer in its own process. Returns the rows, and whether it was injected."""
    points = folder / f"{kind}-{step}"
    result, _ = take(0, snapshot, points, *SLOW, *options, "--fault", f"{kind}@{step}")
    rows = result["points"]
    require(rows[-1]["complete"] and result["differing_pages"] == 0, "the last point is not whole")
    require(not result["unsound_points"], "a point is not what memory was")
    require(sum(row["complete"] for row in rows) == 4, "not as many points as were wanted")
    for before, after in zip(rows, rows[1:]):
        require(after["number"] == before["number"] + before["complete"], "a wrong number")
    read(0, "verify", points)
    check_restored(snapshot, points)
    for file in points.iterdir():
        require(file.suffix == ".snap", f"{file} was left behind")
        file.unlink()
    return rows, result["faults"]


def a_fault_loses_no_page(folder, snapshot, _, how_many):
    every = how_many == "every"
    for options in ([], ["--passes", "0", "--pause", "write"])[:2 if every else 1]:
        folder = folder / "more"
        folder.mkdir()
        names = step_names(take(0, snapshot, folder / "clean", *SLOW, *options)[0])
        one = len(step_names(take(0, snapshot, folder / "one", *SLOW, *options, "--count", 1)[0]))
        # The number of batches differs from run to run: fewer steps than in the shortest run.
        chosen = range(1, len(names) - 10) if every else range(one + 1, one + 11)
        for kind in KINDS:
            injected = lost = 0
            for step in chosen:
                rows, faults = check_fault(folder, snapshot, kind, step, *options)
                require(faults <= 1, "more than one fault")
                injected += faults
                lost += sum(not row["complete"] for row in rows)
            least = 3 if kind == "short" else len(chosen)
            require(injected >= least, f"only {injected} faults: {kind}")
            require(lost == (0 if kind == "short" else injected), f"{lost} points lost: {kind}")


def lost_points_do_not_count(folder, snapshot, *_):
    """The last one, too: the guest is stopped for it, and runs on when it is lost."""
    for backend in backends():
        # A writer's error is seen after the pause, one in this process before it.
        for writer in "process", "self":
            for step in 1, 3:
                result, _ = take(0, snapshot, folder / f"{backend}-{writer}-{step}", *SMALL,
                                 "--backend", backend, "--count", 1, "--writer", writer,
                                 "--fault", f"eio@{step}")
                require([row["complete"] for row in result["points"]] == [False, True],
                        f"not one point was taken after one was lost: {step}")
                require(result["differing_pages"] == 0, "the last point is not the memory")


def a_run_gives_up_after_ten_lost_points(folder, snapshot, *_):
    """No file may have more than a megabyte."""
    process = start("sh", "-c", "ulimit -f 2000; exec \"$@\"", "sh", snapshot, "run",
                    folder / "points", *MODEL, "--count", 3, "--json")
    out, err = finish(process, 3)
    require(out.count('"complete": false') == 10 and '"complete": true' not in out,
            f"it has not given up after ten: {out}")
    require("10 points in a row were lost" in err.replace("\n", " "), f"no reason: {err}")
    require(not list((folder / "points").iterdir()), "something is left")


def a_lost_base_is_taken_again(folder, snapshot, *_):
    options = [*SLOW, "--full-every", 2]
    steps = take(0, snapshot, folder / "two", *options, "--count", 2)[0]["steps"]
    lost = 0
    # The number of batches differs from run to run.
    for step in range(steps, steps + 5):
        rows = take(0, snapshot, folder / str(step), *options,
                    "--fault", f"enospc@{step}")[0]["points"]
        for row, after in zip(rows[1:], rows[2:]):
            if row["base"] and not row["complete"]:
                require(after["base"], "the next point is no base")
                lost += 1
    require(lost > 0, "no base was lost")


def what_a_killed_run_has_left_goes_on(folder, snapshot, _, how_many):
    """The whole program is killed at a step; the guest goes on from the last point."""
    steps = take(0, snapshot, folder / "clean", *SLOW, "--writer", "self")[0]["steps"]
    for step in range(1, steps - 10, 1 if how_many == "every" else 7):
        points = folder / f"killed-{step}"
        process = start(snapshot, "run", points, *SLOW, "--writer", "self",
                        "--fault", f"kill@{step}")
        finish(process, -signal.SIGKILL)
        whole = sorted(points.glob("*.snap"))
        if not whole:
            continue
        read(0, "verify", points)
        run_json(0, snapshot, "verify", points)
        check_restored(snapshot, points)
        result, _ = take(0, snapshot, points, *SLOW, "--continue", "--count", 1)
        require(result["points"][0]["number"] == len(whole) + 1, "it goes on elsewhere")
        require(not list(points.glob("*.part")), "a part was left behind")
        require(check_restored(snapshot, points) == len(whole) + 1, "not the last point")


def the_guest_survives_a_killed_writer(folder, snapshot, *_):
    points = folder / "points"
    process = start(snapshot, "run", points, *SLOW, "--count", 0, "--json")
    while not (points / "000002.snap").exists():
        require(process.poll() is None, "it has ended")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    require(len(children) == 1, f"the writers are {children}")
    os.kill(int(children[0]), signal.SIGKILL)
    numbers = len(list(points.glob("*.snap")))
    while not (points / f"{numbers + 3:06}.snap").exists():
        require(process.poll() is None, "it has ended")
    process.send_signal(signal.SIGTERM)
    out, _ = finish(process, 0)
    require('"complete": false' in out, "no point was lost")
    read(0, "verify", points)
    check_restored(snapshot, points)


def both_readers_find_every_flipped_byte(folder, snapshot, flips, how_many):
    """The C reader: of the contents of pages some. Python is slow: it gets some of all bytes."""
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--vcpus", 1, "--dirty-rate", "64K", "--count", 3,
         "--passes", "0", "--prove", "last")
    path = min(points.glob("*.snap"), key=lambda file: file.stat().st_size)
    run(0, flips, path, 1 if how_many == "every" else 23)
    whole = path.read_bytes()
    step = 61 if how_many == "every" else 1031
    sys.path.insert(0, str(READER.parent))
    from points import Damaged, open_point

    def sound(data):
        path.write_bytes(data)
        try:
            point = open_point(path)
            with open(path, "rb") as file:
                point.file = file
                point.verify()
        except Damaged:
            return False
        return True

    require(sound(whole), "the file is not sound")
    for at in range(0, len(whole), step):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 8
        require(not sound(flipped), f"byte {at} was flipped unnoticed")
        require(not sound(whole[:at]), f"a file of {at} bytes is sound")
    require(not sound(whole + b"\0"), "a byte more is sound")
    path.write_bytes(whole[:-1])
    run_json(1, snapshot, "verify", points)
    read(1, "verify", points)


def hostile_files_are_damaged(folder, snapshot, *_):
    points, image = folder / "points", folder / "image"
    points.mkdir()
    file = points / "000001.snap"
    file.write_bytes(hostile_points.point())
    run_json(0, snapshot, "verify", points)
    read(0, "verify", points)
    # As much memory as they say is not needed; the sum is that of zlib.
    file.write_bytes(hostile_points.huge_point(hostile_points.HUGE_SUM))
    run_json(0, snapshot, "verify", points)
    read(0, "verify", points)
    read(0, "restore", points, image, "--point", 1)
    require(image.stat().st_size == 256 << 30 and image.stat().st_blocks < 1000, "it has no holes")
    for path in folder.glob("image*"):
        path.unlink()
    for name, data in hostile_points.hostile_files():
        file.write_bytes(data)
        for _, err in (read(1, "verify", points), read(1, "restore", points, image, "--point", 1)):
            require("Traceback" not in err, f"{name}: {err}")
        run_json(1, snapshot, "verify", points)
        require(not list(folder.glob("image*")), f"{name}: an image was left")


def a_damaged_point_is_not_restored(folder, snapshot, *_):
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", 4, "--prove", "last")
    second = points / "000002.snap"
    data = bytearray(second.read_bytes())
    data[4096] ^= 1
    second.write_bytes(data)
    run_json(1, snapshot, "restore", points)
    require(check_restored(snapshot, points, "--point", 1) == 1, "another point")
    result, _ = run_json(1, snapshot, "verify", points)
    require([row["sound"] for row in result["points"]] == [True, False, False, False], "sound")
    # Without its header no path goes through it.
    data[8] ^= 1
    second.write_bytes(data)
    result, _ = run_json(0, snapshot, "restore", points)
    require(result["point"] == 1, "not the last that can be restored")
    require([row["number"] for row in result["passed_over"]] == [4, 3, 2], "passed over")
    reasons = [row["why"] for row in result["passed_over"]]
    require("parent of point 3" in reasons[1] and "point 2: the header" in reasons[2], reasons)
    require(not run_json(0, snapshot, "restore", points, "--point", 1)[0].get("passed_over"),
            "what was not asked for was passed over")
    run_json(1, snapshot, "restore", points, "--point", 4)
    result, _ = run_json(1, snapshot, "verify", points)
    require([row["sound"] for row in result["points"]] == [True, False, False, False], "sound")
    read(1, "verify", points)


def an_older_point_is_not_continued_by_itself(folder, snapshot, *_):
    """Numbers go on after the damaged points, whose files stay as they are."""
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", 4)
    last = points / "000004.snap"
    data = bytearray(last.read_bytes())
    data[8] ^= 1
    last.write_bytes(data)
    before = {path.name: path.read_bytes() for path in points.iterdir()}
    _, err = run_json(3, snapshot, "run", points, *MODEL, "--count", 1, "--continue")
    require("--point 3" in err.replace("\n", " "), f"no way out: {err}")
    result, err = run_json(0, snapshot, "restore", points)
    require(result["point"] == 3, "the wrong point")
    require([row["number"] for row in result["passed_over"]] == [4]
            and "damaged" in result["passed_over"][0]["why"], "point 4 is not named with a reason")
    require("point 4" in err, "the damaged point is not named")
    out, err = read(0, "restore", points, folder / "image")
    require("point 3" in out and "point 4 is not restored" in err, "the other reader is silent")
    result, _ = take(0, snapshot, points, *MODEL, "--prove", "last", "--count", 2, "--continue",
                     "--point", 3)
    require([row["number"] for row in result["points"]] == [5, 6], "other numbers")
    for name, whole in before.items():
        require((points / name).read_bytes() == whole, f"{name} was written")
    require(check_restored(snapshot, points) == 6, "not the last point")
    run_json(1, snapshot, "run", points, *MODEL, "--count", 1, "--continue", "--point", 4)


def numbers_end(folder, snapshot, *_):
    """The base has the number 999,999 now, under its own sum."""
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", 1)
    header = bytearray((points / "000001.snap").read_bytes())
    header[48:56] = struct.pack("<Q", 999999)
    header[4092:4096] = struct.pack("<I", zlib.crc32(header[:4092]))
    (points / "999999.snap").write_bytes(header)
    (points / "000001.snap").unlink()
    _, err = run_json(3, snapshot, "run", points, *MODEL, "--count", 1, "--continue")
    require("new directory" in err.replace("\n", " "), f"another reason: {err}")
    require([path.name for path in points.iterdir()] == ["999999.snap"], "other files")


def a_failed_restore_leaves_the_image(folder, snapshot, *_):
    points, image = folder / "points", folder / "image"
    take(0, snapshot, points, *MODEL, "--count", 3)
    read(0, "restore", points, image, "--point", 1)
    before = {path.name: path.read_bytes() for path in folder.glob("image*")}
    data = bytearray((points / "000002.snap").read_bytes())
    data[4096] ^= 1
    (points / "000002.snap").write_bytes(data)
    for point in 2, 3:
        read(1, "restore", points, image, "--point", point)
        after = {path.name: path.read_bytes() for path in folder.glob("image*")}
        require(after == before, "the image has changed, or a part was left")
    read(3, "restore", points, image, "--point", 7)
    # What is no file of a point must not keep the others from being read.
    (points / "000008.snap").mkdir()
    os.mkfifo(points / "000009.snap")
    read(0, "restore", points, image, "--point", 1)
    out, _ = read(1, "verify", points)
    require("needs point 2, which is damaged" in out, "point 3 is sound")
    require(out.count("DAMAGED") == 4, f"not four: {out}")
    (folder / "empty").mkdir()
    read(3, "verify", folder / "empty")
    read(3, "restore", folder / "empty", image)
    (folder / "other.state").mkdir()
    read(3, "restore", points, folder / "other", "--point", 1)
    require(not (folder / "other").exists(), "an image without its state")


def the_image_of_the_other_reader_is_the_memory(folder, snapshot, *_):
    points, image = folder / "points", folder / "image"
    take(0, snapshot, points, *MODEL, "--count", 5, "--slot-moves")
    sys.path.insert(0, str(READER.parent))
    from points import Chain
    for number, point in Chain(points).points.items():
        read(0, "restore", points, image, "--point", number)
        data = image.read_bytes()
        require(len(data) == 16 << 20 and zlib.crc32(data) == point.memory_crc, "another image")
        require(image.stat().st_blocks * 512 < len(data) // 2, "it has no holes")
        require(len((folder / "image.state").read_bytes()) == point.state_bytes, "no state")


def print_fault_table(folder, snapshot):
    names = step_names(take(0, snapshot, folder / "clean", *SLOW)[0])
    one = len(step_names(take(0, snapshot, folder / "one", *SLOW, "--count", 1)[0]))
    print("| step of a point | " + " | ".join(KINDS) + " |\n|---|---|---|---|---|")
    for step in range(one + 1, one + 11):
        cells = []
        for kind in KINDS:
            rows, faults = check_fault(folder, snapshot, kind, step)
            lost = any(not row["complete"] for row in rows)
            cells.append("lost; the next has it" if lost else "written on" if faults else "-")
        print(f"| {step - one}: {names[step - 1]} | " + " | ".join(cells) + " |")


TESTS = [
    the_help_fits_a_terminal,
    every_point_is_what_memory_was,
    points_go_on_after_a_restore,
    a_run_that_fails_waits_for_no_child_of_others,
    a_fork_does_not_copy_the_guest,
    a_signal_ends_after_a_whole_point,
    each_mistake_is_noticed,
    a_fault_loses_no_page,
    lost_points_do_not_count,
    a_run_gives_up_after_ten_lost_points,
    a_lost_base_is_taken_again,
    what_a_killed_run_has_left_goes_on,
    the_guest_survives_a_killed_writer,
    *snapshot_merge.TESTS,
    both_readers_find_every_flipped_byte,
    hostile_files_are_damaged,
    a_damaged_point_is_not_restored,
    an_older_point_is_not_continued_by_itself,
    numbers_end,
    a_failed_restore_leaves_the_image,
    the_image_of_the_other_reader_is_the_memory,
]

if __name__ == "__main__":
    # Half of the time goes into syncs; the few files of the short form need no disk.
    if sys.argv[3] == "some" and os.access("/dev/shm", os.W_OK):
        tempfile.tempdir = "/dev/shm"
    if sys.argv[3] == "table":
        run_tests([print_fault_table], sys.argv[1])
    run_tests(TESTS, *sys.argv[1:])
