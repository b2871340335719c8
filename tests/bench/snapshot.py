#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures what points of a guest cost, and prints the tables of doc/snapshots.md.

  tests/bench/snapshot.py [--build-dir DIR] [--scratch DIR] [--only TABLE] [--document]

Builds examples/snapshot for release and runs it on /dev/kvm. Run it on an idle machine with 20 GiB
of memory and as much room on the disk; it takes a quarter of an hour. --document writes the tables
into doc/snapshots.md. A table is pause, coalesce, guest or scale.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
MIB = 1 << 20
RUNS = 5


def build(directory):
    if not (directory / "build.ninja").exists():
        subprocess.run(["meson", "setup", directory, TOP, "-Dtests=true", "-Dbuildtype=release"],
                       check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "--quiet", "-C", directory, "examples/snapshot/snapshot",
                    "tests/bench/bench-snapshot"], check=True, stdout=sys.stderr)


class Bench:
    def __init__(self, directory, scratch):
        self.snapshot = directory / "examples/snapshot/snapshot"
        self.scale = directory / "tests/bench/bench-snapshot"
        self.scratch = scratch / "points"

    def run(self, *options):
        """The object that a run prints."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        command = [self.snapshot, "run", self.scratch, "--backend", "kvm", "--json", "--prove",
                   "none", *options]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.sync()
        return json.loads(done.stdout)

    def increments(self, *options):
        """The increment with the least pause whose pages are not far from the median. The first one
        is left out: it follows the base.

        On a machine that others use, the least is what it costs; the rest is their work."""
        points = self.run("--count", 2 + RUNS, *options)["points"][2:]
        usual = statistics.median(map(handed_out, points))
        return min((point for point in points if handed_out(point) >= usual * 0.9),
                   key=lambda point: point["pause_ms"])


def handed_out(point):
    return point["live_bytes"] + point["paused_bytes"]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def size(count):
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return "%.3g %s" % (count / unit, name)
    return "%d B" % count


def ms(value):
    return "%.2f" % value if value < 10 else "%.0f" % value


def pauses(bench):
    rows = []
    for memory in (256 * MIB, 1024 * MIB, 4096 * MIB, 8192 * MIB):
        full = bench.run("--memory", memory, "--fill", "--passes", "0", "--pause", "write",
                         "--dirty-rate", "1M", "--count", "1")["points"][0]
        for percent in (0.1, 1, 10):
            guest = ["--memory", memory, "--interval", "1000", "--buffer", "2G", "--dirty-rate",
                     int(memory * percent / 100)]
            write = bench.increments(*guest, "--passes", "0", "--pause", "write")
            copy = bench.increments(*guest, "--passes", "0")
            live = bench.increments(*guest)
            again = bench.increments(*guest, "--passes", "2")
            rows.append([size(memory), "%g%%" % percent, size(copy["paused_bytes"]),
                         ms(full["pause_ms"]), ms(write["pause_ms"]), ms(copy["pause_ms"]),
                         ms(live["pause_ms"]), ms(again["pause_ms"]),
                         size(full["file_bytes"]), size(live["file_bytes"]),
                         ms(live["ms"])])
            print(rows[-1], file=sys.stderr)
    return table(["memory", "dirtied a second", "dirty", "full save, ms", "written in it", "copied",
                  "one pass before", "two", "full file", "increment's file", "complete after, ms"],
                 rows)


def coalescing(bench):
    rows = []
    for pattern in ("random", "hot", "sequential"):
        for gap in ("0", "16K", "64K"):
            cost = bench.increments("--memory", "1G", "--interval", "1000", "--dirty-rate", "32M",
                                    "--working-set", "256M", "--pattern", pattern, "--coalesce",
                                    gap)
            rows.append([pattern, gap, size(handed_out(cost)), "%d" % cost["extents"],
                         "%d" % cost["writes"], size(cost["file_bytes"]), ms(cost["pause_ms"]),
                         ms(cost["ms"])])
            print(rows[-1], file=sys.stderr)
    return table(["pattern", "`--coalesce`", "handed out", "extents", "`pwritev`", "file",
                  "pause, ms", "complete after, ms"], rows)


def guests(bench):
    """Records a second of a guest that does nothing but write, against one that is not logged."""
    guest = ["--memory", "1G", "--working-set", "64M", "--dirty-rate", "0", "--vcpus", "1"]
    ways = [("not logged", ["--no-log", "--count", 1, "--interval", 3000]),
            ("logged, no pass", ["--log-only", "--count", 1, "--interval", 5000]),
            ("a point every 4 s", ["--count", 2, "--interval", 4000]),
            ("a point every second", ["--count", 6, "--interval", 1000]),
            ("a point every 200 ms", ["--count", 25, "--interval", 200])]
    rows, rates = [], {}
    for mode in ("ring", "bitmap"):
        for name, options in ways:
            runs = [bench.run(*guest, "--mode", mode, *options) for _ in range(3)]
            rates[mode, name] = max(run["records"] / run["guest_ms"] for run in runs)
            print(mode, name, rates[mode, name], file=sys.stderr)
    for name, _ in ways:
        rows.append([name] + ["%.0f%%" % (100 * rates[mode, name] / rates[mode, "not logged"])
                              for mode in ("ring", "bitmap")])
    rows.insert(0, ["records a millisecond, not logged"]
                + ["%.0f" % rates[mode, "not logged"] for mode in ("ring", "bitmap")])
    return table(["the guest", "ring", "bitmap"], rows)


def scales(bench):
    done = subprocess.run([bench.scale], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode().strip()


TABLES = {"pause": pauses, "coalesce": coalescing, "guest": guests, "scale": scales}


def write_document(tables):
    path = TOP / "doc/snapshots.md"
    text = path.read_text(encoding="utf-8")
    for name, made in tables.items():
        begin, end = "<!-- %s -->\n" % name, "<!-- end -->"
        before, rest = text.split(begin)
        text = before + begin + made + "\n" + end + rest.split(end, 1)[1]
    path.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=TOP / "build-bench")
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--only", choices=sorted(TABLES))
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    build(options.build_dir)
    bench = Bench(options.build_dir, options.scratch)
    tables = {name: make(bench) for name, make in TABLES.items() if options.only in (None, name)}
    for name, made in tables.items():
        print("%s\n\n%s\n" % (name, made))
    if options.document:
        write_document(tables)


if __name__ == "__main__":
    main()
