#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures what the throttles of examples/precopy cost, and prints the table of doc/convergence.md.

  tests/bench/throttles.py [--build-dir DIR] [--runs N] [--only THROTTLE]
                           [--json FILE] [--document]

Builds precopy for release and moves one guest on /dev/kvm, with each throttle in turn, several
times: one vCPU dirties memory far faster than the wire carries it, the other only reads. Run it on
an idle machine with 2 GiB of memory; a round takes three minutes. --document writes the table into
doc/convergence.md, between its markers.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
DOCUMENT = TOP / "doc/convergence.md"
BEGIN = "<!-- throttles: begin, written by tests/bench/throttles.py -->"
END = "<!-- throttles: end -->"

THROTTLES = {
    "none": [],
    "auto-converge": ["--throttle", "auto-converge"],
    "dirty-limit": ["--throttle", "dirty-limit"],
    "plan": ["--throttle", "plan"],
    "plan, --skip-rewritten": ["--throttle", "plan", "--skip-rewritten"],
}
BUDGET_S = 30
GUEST = ["--backend", "kvm", "--vcpus", "2", "--readers", "1", "--memory", "512M",
         "--working-set", "400M", "--ring-entries", "4096", "--bandwidth", "60M",
         "--downtime-limit", "300", "--budget", str(BUDGET_S)]


def build(directory):
    if not (directory / "build.ninja").exists():
        subprocess.run(["meson", "setup", directory, TOP, "-Dtests=true", "-Dbuildtype=release"],
                       check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "--quiet", "-C", directory, "examples/precopy/precopy"], check=True,
                   stdout=sys.stderr)


def move(precopy, throttle):
    """Moves the guest. Returns the report; without a proof that memory is equal there is none."""
    done = subprocess.run([precopy, *GUEST, *THROTTLES[throttle], "--json"], check=True,
                          stdout=subprocess.PIPE)
    report = json.loads(done.stdout)
    if report["differing_pages"] != 0 or not report["guest_healthy"]:
        sys.exit(f"{throttle}: writes were lost")
    report["busy"] = os.getloadavg()[0]
    return report


def spread(values, form):
    """The median, and the extremes if they show."""
    middle, least, most = (form % number for number in
                           (statistics.median(values), min(values), max(values)))
    return middle if least == most else f"{middle} ({least}-{most})"


def row(throttle, reports):
    def values(of):
        return [of(report) for report in reports]

    def counted(of):
        return f"{sum(map(of, reports))} of {len(reports)}"

    return (throttle,
            counted(lambda r: r["stopped_because"] == "fits"),
            counted(lambda r: r["stopped_because"] == "fits" and r["budget_met"]),
            counted(lambda r: r["downtime_limit_met"]),
            spread(values(lambda r: r["stop_ns"] / 1e9), "%.1f"),
            spread(values(lambda r: r["downtime_ns"] / 1e6), "%.0f"),
            spread(values(lambda r: r["wire_bytes"] / r["memory_bytes"]), "%.1f"),
            spread(values(lambda r: r["held_ns"]["writers"] / 1e9), "%.1f"),
            spread(values(lambda r: r["held_ns"]["readers"] / 1e9), "%.1f"),
            spread(values(lambda r: r["longest_pause_ns"] / 1e6), "%.0f"),
            spread(values(lambda r: r["reader_cpu_speed_percent"]), "%.0f"))


HEAD = ("throttle", "ends", "in the budget", "downtime kept", "s until the guest is stopped",
        "downtime, ms", "bytes x memory", "writer held, s", "reader held, s", "longest pause, ms",
        "reader's speed, %")


def table(runs):
    rows = [HEAD] + [row(throttle, reports) for throttle, reports in runs.items() if reports]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|" + " --- |" * len(HEAD))
    busy = [report["busy"] for reports in runs.values() for report in reports]
    return "\n".join([
        f"`precopy {' '.join(GUEST)}` on {os.cpu_count()} processors with a load of "
        f"{min(busy):.1f} to {max(busy):.1f}; medians, and extremes. The guest is stopped in any "
        f"case after {2 * BUDGET_S} s. The reader's speed is that in the same CPU time before "
        "anything was logged.", "", *lines])


def write_document(text):
    document = DOCUMENT.read_text(encoding="utf-8")
    if BEGIN not in document or END not in document:
        sys.exit(f"{DOCUMENT} has no markers for the table")
    before, rest = document.split(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}",
                        encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=TOP / "build-bench")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", choices=THROTTLES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    build(options.build_dir)
    precopy = options.build_dir / "examples/precopy/precopy"
    # The host of a virtual machine may have to find memory for the first guest.
    subprocess.run([precopy, *GUEST, "--passes", "1"], check=True, stdout=subprocess.DEVNULL)
    runs = {throttle: [] for throttle in THROTTLES if options.only in (None, throttle)}
    for _ in range(options.runs):
        for throttle, reports in runs.items():
            reports.append(move(precopy, throttle))
            if options.json:
                options.json.write_text(json.dumps(runs), encoding="utf-8")
    print(table(runs))
    if options.document:
        write_document(table(runs))


if __name__ == "__main__":
    main()
