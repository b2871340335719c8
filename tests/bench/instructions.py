#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Counts the instructions of some figures with callgrind, independently of other load.

Each figure runs twice, once with only the library's side counted and once with only the other.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

FIGURES = [
    "rings: harvest, pages in order",
    "rings: harvest, random pages of 64 GiB",
    "rings: harvest of 1024 empty rings",
    "pass: 1% of 64 GiB dirty",
    "bitmap: merge 64 GiB, clean",
    "bitmap: merge 64 GiB, 1% dirty, whole words",
    "iterator: runs of 1",
    "iterator: runs of 8",
    "iterator: runs of 512",
    "mark: one page, 1 thread",
    "many slots: set and remove 4,000",
    "many slots: start and stop with 4,000",
    "many slots: repair with 4,000",
]
RUNS = 2
SIDES = {"library": "bench_run_measured", "other": "bench_run_other"}


def count(program, figure, function, directory):
    """Returns the instructions inside a function while a figure runs, and the figure's row."""
    report = os.path.join(directory, "figure.json")
    counts = os.path.join(directory, "counts")
    subprocess.run(
        ["valgrind", "--tool=callgrind", f"--toggle-collect={function}",
         f"--callgrind-out-file={counts}",
         program, "--only", figure, "--runs", str(RUNS), "--json", report],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    with open(counts, encoding="ascii") as file:
        total = re.search(r"^(?:totals|summary): (\d+)", file.read(), re.MULTILINE)
    with open(report, encoding="utf-8") as file:
        row = next(row for row in json.load(file) if row["name"] == figure)
    return int(total.group(1)), row


def measure(program, figure):
    counted = {"name": figure}
    with tempfile.TemporaryDirectory() as directory:
        for side, function in SIDES.items():
            total, row = count(program, figure, function, directory)
            # One more than RUNS: the first run warms the caches.
            counted[side] = total / ((RUNS + 1) * row["units"])
    counted["unit"] = row["unit"]
    counted["against"] = row["against"]
    return counted


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the bench program of a release build")
    parser.add_argument("--only", default="", help="count only figures whose names begin with this")
    parser.add_argument("--json", help="also write the counts to this file")
    parser.add_argument("--at-most", type=float, metavar="RATIO",
                        help="fail if the library takes more than this times the other side")
    options = parser.parse_args()
    counted, failed = [], False
    if not shutil.which("valgrind"):
        print("skip: valgrind is not installed")
        sys.exit(77 if options.at_most else 0)
    else:
        for figure in FIGURES:
            if not figure.startswith(options.only):
                continue
            print(f"instructions of {figure}", file=sys.stderr)
            try:
                counted.append(measure(options.program, figure))
            except (subprocess.SubprocessError, OSError, AttributeError, StopIteration) as error:
                print(f"instructions: {figure}: {error}", file=sys.stderr)
                failed = failed or bool(options.at_most)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(counted, file, indent=1)
    for row in counted:
        print(f"{row['name']:<44} {row['library']:9.2f} / {row['other']:.2f} per {row['unit']}")
        failed = failed or (options.at_most and row["library"] > options.at_most * row["other"])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
