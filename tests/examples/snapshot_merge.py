# SPDX-License-Identifier: MIT
"""Tests of the command merge of examples/snapshot; snapshot.py runs them."""
import os
import signal

import hostile_points
from common import finish, require, run_json, start
from snapshot_common import MODEL, check_restored, read, take

LIST = "merged.list"
ALL = [f"{number:06}.snap" for number in range(1, 9)]
MERGED = [ALL[number - 1] for number in (1, 2, 6, 7, 8)]


def contents(points):
    return {path.name: path.read_bytes() for path in points.iterdir()}


def write(points, files):
    """The directory has these files and no others."""
    for path in points.iterdir():
        path.unlink()
    for name, data in files.items():
        (points / name).write_bytes(data)


def check_sound(snapshot, points):
    """Each point has the sum of its memory."""
    read(0, "verify", points)
    return run_json(0, snapshot, "verify", points)


def merged_points_are_the_last_of_them(folder, snapshot, *_):
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", 8, "--slot-moves")
    result, _ = run_json(0, snapshot, "merge", points, "--first", 3, "--last", 6)
    left = ["000001.snap", "000002.snap", "000006.snap", "000007.snap", "000008.snap"]
    require(sorted(path.name for path in points.iterdir()) == left, "not the points that are left")
    require(result["merged"] == 4 and result["kept"] == 0, "not four")
    read(0, "verify", points)
    run_json(0, snapshot, "verify", points)
    check_restored(snapshot, points, "--point", 7)
    run_json(0, snapshot, "merge", points, "--first", 1, "--last", 6)
    require(check_restored(snapshot, points) == 8, "not the last point")
    run_json(3, snapshot, "merge", points, "--first", 7, "--last", 2)


def only_parents_are_merged(folder, snapshot, *_):
    """Not the points of another base, nor a sibling, which has pages of its own."""
    bases, siblings = folder / "bases", folder / "siblings"
    take(0, snapshot, bases, *MODEL, "--count", 4, "--full-every", 2)
    take(0, snapshot, siblings, *MODEL, "--count", 3)
    take(0, snapshot, siblings, *MODEL, "--continue", "--point", 2, "--count", 1)
    for points, first, last in (bases, 1, 3), (siblings, 3, 4):
        before = contents(points)
        run_json(3, snapshot, "merge", points, "--first", first, "--last", last)
        require(before == contents(points), f"{points.name}: the files have changed")


def interrupt(snapshot, points, kind, step):
    """A merge in which this step goes wrong."""
    process = start(snapshot, "merge", points, "--first", 3, "--last", 6,
                    "--fault", f"{kind}@{step}")
    finish(process, -signal.SIGKILL if kind == "kill" else 3)


def finish_by(snapshot, points, command):
    """A command that writes. Returns the files that are there then."""
    if command == "run":
        before = sorted(path.name for path in points.glob("*.snap"))
        result, _ = take(0, snapshot, points, *MODEL, "--continue", "--count", 1)
        require(result["points"][0]["number"] == 9, "it goes on elsewhere")
        (points / "000009.snap").unlink()
        require(len(before) >= 5, "points are missing")
    else:
        run_json(3, snapshot, "merge", points, "--first", 7, "--last", 2)
    return sorted(path.name for path in points.iterdir())


def merged(folder, snapshot, count, *options):
    """Merges points 3 to 6 of so many. Returns the directory, its files before, and the steps."""
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", count, *options)
    files = contents(points)
    result, _ = run_json(0, snapshot, "merge", points, "--first", 3, "--last", 6)
    return points, files, result["steps"]


def an_interrupted_merge_is_finished_by_the_next_command(folder, snapshot, _, how_many):
    points, files, steps = merged(folder, snapshot, 8, "--slot-moves")
    require(sorted(contents(points)) == MERGED, "not the points that are left")
    after = contents(points)
    ends = set()
    for kind, stride in ("kill", 1), ("eio", 4), ("enospc", 6):
        for step in range(1, steps + 1, 1 if how_many == "every" else stride):
            write(points, files)
            interrupt(snapshot, points, kind, step)
            left = sorted(path.name for path in points.iterdir())
            result, err = run_json(0, snapshot, "verify", points)
            if step % 4 == 0:
                _, other_err = read(0, "verify", points)
                require(("merge" in other_err) == (LIST in left), f"points.py: {other_err}")
            require(set(MERGED) <= set(left), f"{kind}@{step}: points are missing")
            undone = (points / "000006.snap").read_bytes() == files["000006.snap"]
            require(kind == "kill" or not undone or left == ALL, "it has not cleaned up")
            require(result["interrupted_merge"] == (LIST in left), "the list is not named")
            require(("merge" in err) == (LIST in left), f"the list is not named: {err}")
            require(left == sorted(path.name for path in points.iterdir()), "verify has written")
            left = finish_by(snapshot, points, "run" if step in (5, steps - 6) else "merge")
            require(left in (ALL, MERGED), f"{kind}@{step}: {left} are left")
            require(contents(points) == (files if left == ALL else after), "other contents")
            ends.add(len(left))
    require(ends == {5, 8}, f"every merge ended with {ends} points")


def finishing_a_merge_may_be_interrupted(folder, snapshot, *_):
    points, files, steps = merged(folder, snapshot, 8)
    write(points, files)
    # The first of three points has just been deleted; its deletion may be repeated.
    interrupt(snapshot, points, "kill", steps - 4)
    interrupted = contents(points)
    require(len(interrupted) == 8, f"not the second deletion: {sorted(interrupted)}")
    for step in range(1, 7):
        write(points, interrupted)
        interrupt(snapshot, points, "kill", step)
        run_json(0, snapshot, "verify", points)
        require(finish_by(snapshot, points, "merge") == MERGED, "something is left")


def siblings_outlive_an_interrupted_merge(folder, snapshot, *_):
    """Points that were taken from one of the merged points, after it was on the list."""
    points, whole, steps = merged(folder, snapshot, 6)
    for step, left in (steps - 6, (1, 2, 3, 4, 6, 7)), (5, (1, 2, 3, 4, 5, 6, 7)):
        write(points, whole)
        interrupt(snapshot, points, "kill", step)
        listed = (points / LIST).read_bytes()
        (points / LIST).unlink()
        take(0, snapshot, points, *MODEL, "--continue", "--point", 4, "--count", 1)
        (points / LIST).write_bytes(listed)
        run_json(3, snapshot, "merge", points, "--first", 7, "--last", 2)
        require(sorted(contents(points)) == [ALL[number - 1] for number in left], "not these")
        check_sound(snapshot, points)
        check_restored(snapshot, points, "--point", 7)


def hostile_lists_delete_nothing(folder, snapshot, *_):
    points, before, steps = merged(folder, snapshot, 6)
    write(points, before)
    # Its result has its name, and nothing was deleted yet.
    interrupt(snapshot, points, "kill", steps - 6)
    listed = (points / LIST).read_bytes()
    (points / LIST).unlink()
    files = contents(points)
    require(len(files) == 6 and files != before, "the merge was not effective")
    (folder / "outside").write_bytes(listed)
    for name, data in hostile_points.hostile_lists(listed):
        write(points, {**files, LIST: data})
        finish_by(snapshot, points, "merge")
        require(contents(points) == files, f"{name}: the files have changed")
    write(points, files)
    (points / LIST).symlink_to(folder / "outside")
    finish_by(snapshot, points, "merge")
    os.mkfifo(points / LIST)
    finish_by(snapshot, points, "merge")
    require(contents(points) == files and (folder / "outside").exists(), "another file is gone")
    # A result that is damaged replaces nothing.
    damaged = bytearray(files["000006.snap"])
    damaged[4096] ^= 1
    write(points, {**files, "000006.snap": bytes(damaged), LIST: listed})
    finish_by(snapshot, points, "merge")
    require(sorted(contents(points)) == sorted(files), "points of a damaged merge were deleted")
    # One of the files is another by now.
    other = {**files, "000004.snap": files["000002.snap"]}
    write(points, {**other, LIST: listed})
    finish_by(snapshot, points, "merge")
    require("000004.snap" in contents(points), "another file was deleted")
    write(points, {**files, LIST: listed})
    require(finish_by(snapshot, points, "merge") == ["000001.snap", "000002.snap", "000006.snap"],
            "the list itself was not followed")


def merge_beside(snapshot, points, at, *words):
    """Reads while a merge happens. Returns the result, its errors, and whether it has happened."""
    merge = f"{snapshot} merge {points} --first 3 --last 6 >/dev/null"
    result, err = run_json(0, "env", f"RACE_AT={at}", f"RACE_COMMAND={merge}",
                           f"{snapshot}_raced", *words)
    return result, err, sorted(contents(points)) == MERGED


def a_merge_beside_a_reader_is_no_damage(folder, snapshot, _, how_many):
    """At each moment at which the reader opens a file."""
    points = folder / "points"
    take(0, snapshot, points, *MODEL, "--count", 8)
    # In a directory that lists them as they were made, the result comes before its parents.
    files = dict(sorted(contents(points).items(), reverse=True))
    commands = ["verify", points], ["restore", points], ["restore", points, "--point", 6]
    for words in commands if how_many == "every" else commands[:2]:
        at, happened = 0, True
        while happened:
            at += 1
            write(points, files)
            result, err, happened = merge_beside(snapshot, points, at, *words)
            if words[0] == "verify":
                numbers = {row["number"] for row in result["points"] if row["sound"]}
                require({1, 2, 6, 7, 8} <= numbers, f"{at}: only {numbers} are sound")
                require(len(numbers) == len(result["points"]), f"{at}: a point is there twice")
            else:
                require(result["point"] == (6 if "--point" in words else 8), f"{at}: another")
                require("not restored" not in err, f"{at}: {err}")
        require(at > 10, f"only {at} files were opened")


TESTS = [
    merged_points_are_the_last_of_them,
    only_parents_are_merged,
    an_interrupted_merge_is_finished_by_the_next_command,
    finishing_a_merge_may_be_interrupted,
    siblings_outlive_an_interrupted_merge,
    hostile_lists_delete_nothing,
    a_merge_beside_a_reader_is_no_damage,
]
