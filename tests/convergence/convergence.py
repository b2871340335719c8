#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs migrations under several laws in virtual time, checks them and prints a table.

Each run is one load, one law and one seed; the figures are the same on every machine. The laws
plan, plan-skip and plan-bitmap are the library's, and must meet the rules that --rules prints; the
others are what they are compared with. The exit status is 1 if a rule is broken.
"""

import argparse
import collections
import concurrent.futures
import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent.parent
LAWS = ["none", "auto-converge", "aggressive", "dirty-limit", "equal-quota", "plan", "plan-skip",
        "plan-bitmap"]
OURS = ["plan", "plan-skip"]
BITMAP = "plan-bitmap"
# Ten milliseconds of its vCPUs are more than its wire takes in the downtime.
TOO_FAST_FOR_SHARES = (BITMAP, 12)
LOADS = range(1, 19)
QUIET = 17
# Earlier running time pays for pauses, so that a second may have less than the floor.
CREDIT_S = 0.25
FLOOR_SLACK = 0.002
# Sleeps have a precision.
PAUSE_S = 0.002
# Factor on the budget, for the switch itself.
LATE = 1.02
BEGIN = "<!-- figures: begin, written by tests/convergence/run.sh -->"
END = "<!-- figures: end -->"

RULES = """\
all laws    no page is left behind with older contents
plan, plan-skip:
  loads 1-13, 17, 18 every run ends, in no more than 1.02 budgets
  all loads          the downtime is within its limit, but for 1 run in 100
                     (loads 14 to 16: 2; load 9, with its noise: 5)
  all loads          DIVERGING is never said of a run that ends
  all loads          readers lose nothing
  all loads          no pause is longer than the downtime
  load 16            in any second, 0.25 s of unused running time pay for pauses
                     at most: floor - 0.25 s * (1 - floor) is left
  load 17            no limit is ever set
plan-bitmap:
  loads 1-11, 13, 17, 18 every run ends, in no more than 1.02 budgets
  all loads          the downtime, as above"""

Row = collections.namedtuple("Row", "law load seed figures")


def numbers(text, most, what):
    """1,3-5 as a list."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if not match:
            sys.exit(f"convergence.py: {what}: not a list of numbers: {text}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if not found or min(found) < 1 or max(found) > most:
        sys.exit(f"convergence.py: {what}: from 1 to {most}")
    return found


def parse_rows(text):
    lines = text.splitlines()
    head = lines[0].split("\t")
    for line in lines[1:]:
        values = line.split("\t")
        row = dict(zip(head, values))
        figures = {name: float(value) for name, value in row.items() if name != "law"}
        yield Row(row["law"], int(row["load"]), int(row["seed"]), figures)


def run_one(program, law, load, seeds, mistake):
    done = subprocess.run([program, "--laws", law, "--loads", str(load), "--seeds", seeds,
                           "--mistake", mistake],
                          stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"convergence.py: load {load} under {law} ended with {done.returncode}")
    return list(parse_rows(done.stdout))


def run_all(args, laws, loads):
    """In portions, so that all processors have work until the end."""
    portions = [(law, load, f"{first}-{min(first + 9, args.seeds)}")
                for law in laws for load in loads for first in range(1, args.seeds + 1, 10)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = pool.map(lambda portion: run_one(args.program, *portion, args.mistake), portions)
        return [row for rows in runs for row in rows]


def chosen(rows, law, load=None):
    return [row for row in rows if row.law == law and load in (None, row.load)]


def mean(rows, name):
    return sum(row.figures[name] for row in rows) / len(rows)


def in_budget(row):
    return bool(row.figures["ended"]) and \
        row.figures["seconds"] <= LATE * row.figures["budget"]


def breaks_downtime(row):
    return bool(row.figures["ended"]) and \
        row.figures["downtime"] > row.figures["downtime_limit"]


def least_second(floor):
    """Least share of a second for a vCPU at its floor that began it with all of its credit."""
    return floor - CREDIT_S * (1 - floor) - FLOOR_SLACK


def check_load(rows, law, load):
    """Faults in the runs of one load under one of the library's laws."""
    first = rows[0].figures
    late = [row.seed for row in rows if not in_budget(row)]
    if first["must_end"] and late and (law, load) != TOO_FAST_FOR_SHARES:
        yield "not in budget", late
    broken = [row.seed for row in rows if breaks_downtime(row)]
    # One run tells nothing about a share that is tolerated, but two do.
    if len(broken) > max(first["may_break"] * len(rows), first["may_break"] > 0.01):
        yield "downtime", broken
    if law == BITMAP:
        return
    wrong = [row.seed for row in rows if row.figures["ended"] and row.figures["diverging"] >= 0]
    if wrong:
        yield "DIVERGING, and ended", wrong
    losers = [row.seed for row in rows if row.figures["lost_readers"] > 0]
    if losers:
        yield "readers lost time", losers
    long = [row.seed for row in rows
            if row.figures["longest_pause"] > row.figures["downtime_limit"] + PAUSE_S]
    if long:
        yield "a pause was too long", long
    below = [row.seed for row in rows
             if row.figures["worst_writer"] < least_second(row.figures["least_run"])]
    if below:
        yield "ran less than its floor", below
    limited = [row.seed for row in rows if row.figures["limited"] >= 0]
    if load == QUIET and limited:
        yield "a quiet guest was limited", limited


def broken_rules(rows):
    lost = [row for row in rows if row.figures["lost_pages"]]
    for row in lost:
        yield f"load {row.load}, {row.law}, seed {row.seed}: pages were left behind"
    for law in [*OURS, BITMAP]:
        for load in LOADS:
            some = chosen(rows, law, load)
            for what, seeds in check_load(some, law, load) if some else ():
                shown = ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")
                yield f"load {load}, {law}: {what}: {len(seeds)} of {len(some)}; seeds {shown}"


def share(rows, test):
    return 100 * sum(map(test, rows)) / len(rows)


TABLE = [
    # heading, width, value of some rows
    ("ends", 4, lambda rows: f"{share(rows, lambda row: row.figures['ended']):.0f}"),
    ("inbud", 5, lambda rows: f"{share(rows, in_budget):.0f}"),
    ("t/bud", 5, lambda rows: f"{mean_of_quotients(rows):.2f}"),
    ("copied", 6, lambda rows: f"{mean(rows, 'copied'):.2f}"),
    ("broken", 6, lambda rows: f"{share(rows, breaks_downtime):.1f}"),
    ("writers", 7, lambda rows: f"{mean(rows, 'lost_writers'):.1f}"),
    ("readers", 7, lambda rows: f"{mean(rows, 'lost_readers'):.1f}"),
    ("pause", 6, lambda rows: f"{max(row.figures['longest_pause'] for row in rows):.2f}"),
    ("worst", 5, lambda rows: f"{100 * mean(rows, 'worst_writer'):.0f}"),
    ("varies", 6, lambda rows: f"{mean(rows, 'variation'):.2f}"),
]
LEGEND = """\
ends, inbud   runs that end, and that do so in budget, of 100
t/bud         time to the switch, in budgets; 2.5 for a run that does not end
copied        what the wire took, in sizes of the memory without zero pages
broken        runs with more than the allowed downtime, of 100
writers, readers  vCPU-seconds that they lost
pause, worst  the longest pause, s; how much of its worst second a writer ran, %
varies        deviation of what the throttled guest dirties each second, to its mean"""


def mean_of_quotients(rows):
    return sum(row.figures["seconds"] / row.figures["budget"] for row in rows) / len(rows)


def table(rows, by_load):
    yield f"{'law':13} {'load':>4} " + " ".join(f"{head:>{width}}" for head, width, _ in TABLE)
    for law in LAWS:
        loads = [load for load in LOADS if chosen(rows, law, load)]
        for load in ([*loads, None] if by_load and len(loads) > 1 else [None]):
            some = chosen(rows, law, load)
            if some:
                name = "all" if load is None else load
                yield f"{law:13} {name:>4} " + \
                    " ".join(f"{value(some):>{width}}" for _, width, value in TABLE)


def ratio_to(rows, law, other, name):
    """Ratio of the means, over loads that always end under both laws."""
    pairs = [(chosen(rows, law, load), chosen(rows, other, load)) for load in LOADS]
    pairs = [(a, b) for a, b in pairs if a and b and all(r.figures["ended"] for r in [*a, *b])]
    below = sum(mean(b, name) for _, b in pairs)
    return sum(mean(a, name) for a, _ in pairs) / below if below else float("nan")


def diverging(rows):
    """How often the plan says DIVERGING, and whether that is right."""
    for law in OURS:
        some = chosen(rows, law)
        said = [row for row in some if row.figures["diverging"] >= 0]
        never = [row for row in some if not row.figures["ended"]]
        right = [row for row in said if not row.figures["ended"]]
        if some:
            yield (f"{law}: {len(never)} of {len(some)} runs do not end; DIVERGING: "
                   f"{len(right)} right, {len(said) - len(right)} wrong")


def goals(rows):
    """Not rules: what the plan wants to be."""
    for law in OURS:
        if chosen(rows, law) and chosen(rows, "dirty-limit"):
            time = ratio_to(rows, law, "dirty-limit", "seconds")
            work = ratio_to(rows, law, "dirty-limit", "lost_writers")
            yield (f"{law}: {time:.2f} of dirty-limit's time and {work:.2f} of its lost work, "
                   "on loads that it always ends")


def table_of_document(rows):
    yield "| law | ends % | in budget % | t / budget | bytes x memory | downtime broken % " \
          "| lost by writers, vCPU-s | by readers | longest pause, s | worst second, running % " \
          "| variation |"
    yield "|" + " --- |" * 11
    for law in LAWS:
        some = chosen(rows, law)
        if some:
            name = f"**{law}**" if law in OURS else law
            yield f"| {name} | " + " | ".join(value(some) for _, _, value in TABLE) + " |"


def load_names():
    """As loads.c has them, in order."""
    source = (TOP / "tests/convergence/loads.c").read_text(encoding="utf-8")
    return re.findall(r'^\t\t\.name = "(.*)",$', source, re.M)


def table_of_loads(rows, loads):
    names = load_names()
    yield "| load | " + " | ".join(LAWS) + " |"
    yield "|" + " --- |" * (1 + len(LAWS))
    for load in loads:
        cells = []
        for law in LAWS:
            some = chosen(rows, law, load)
            if not some:
                cells.append("")
                continue
            ends = share(some, lambda row: row.figures["ended"])
            cells.append(f"{ends:.0f}%, {mean(some, 'seconds'):.0f} s, "
                         f"{mean(some, 'lost_writers'):.0f} + {mean(some, 'lost_readers'):.0f}")
        yield f"| {load}. {names[load - 1]} | " + " | ".join(cells) + " |"


def seeds_of(rows):
    """How many each law has, and which loads have more."""
    parts = []
    for law in LAWS:
        seeds = {load: len(chosen(rows, law, load)) for load in LOADS if chosen(rows, law, load)}
        if seeds:
            least = min(seeds.values())
            more = [f"load {load} {n}" for load, n in seeds.items() if n > least]
            parts.append(f"{law} {least}" + (f" ({', '.join(more)})" if more else ""))
    return ", ".join(parts)


def write_document(path, rows):
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        sys.exit(f"convergence.py: {path} has no markers for the figures")
    loads = [load for load in LOADS if any(row.load == load for row in rows)]
    broken = list(broken_rules(rows))
    lines = [f"{len(loads)} loads. Seeds of each: {seeds_of(rows)}.", "",
             *table_of_document(rows), "",
             "By load: how many runs end, after how long, and what writers and readers lost in "
             "vCPU-seconds.", "", *table_of_loads(rows, loads), "",
             *(f"- {line}." for line in [*diverging(rows), *goals(rows)]),
             "- Broken rules: " + "; ".join(broken) + "." if broken else "- Every rule is met."]
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    figures = "\n".join(lines)
    path.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}", encoding="utf-8")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", help="the built program tests/convergence/convergence")
    parser.add_argument("--seeds", type=int, default=100, metavar="N",
                        help="seeds 1 to N of each load (default: %(default)s)")
    parser.add_argument("--loads", default="1-18", metavar="LIST", help="as 1,3-5 (default: all)")
    parser.add_argument("--laws", default=",".join(LAWS), metavar="LIST", help="default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N",
                        help="runs at the same time (default: %(default)s)")
    parser.add_argument("--by-load", action="store_true", help="a row of the table for each load")
    parser.add_argument("--mistake", default="none", metavar="NAME",
                        help="what the plan's caller does wrong: zero, unsent")
    parser.add_argument("--wrong", action="store_true",
                        help="some rule must be broken: the checks see what they are for")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the figures of each run")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="saved", action="append",
                        help="run nothing: use figures that were kept; may be given repeatedly")
    parser.add_argument("--document", type=Path, metavar="FILE",
                        help="write the tables between the markers of this file")
    parser.add_argument("--rules", action="store_true", help="print the rules")
    return parser.parse_args()


def collect(args):
    if args.saved:
        return [row for path in args.saved
                for row in parse_rows(path.read_text(encoding="utf-8"))]
    if not args.program:
        sys.exit("convergence.py: --program is required")
    laws = args.laws.split(",")
    for law in laws:
        if law not in LAWS:
            sys.exit(f"convergence.py: no such law: {law}")
    return run_all(args, laws, numbers(args.loads, LOADS[-1], "--loads"))


def save(path, rows):
    names = [name for name in rows[0].figures if name not in ("load", "seed")]
    lines = ["\t".join(["law", "load", "seed", *names])]
    lines += ["\t".join([row.law, str(row.load), str(row.seed),
                         *(f"{row.figures[name]:g}" for name in names)]) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    args = parse_arguments()
    if args.rules:
        print(RULES)
        return 0
    rows = collect(args)
    if args.save:
        save(args.save, rows)
    broken = list(broken_rules(rows))
    print("\n".join([*table(rows, args.by_load), "", LEGEND, "", *diverging(rows), *goals(rows)]))
    print("\n".join(["", *broken]) if broken else "\nEvery rule is met.")
    if args.document:
        write_document(args.document, rows)
    return int(bool(broken) != args.wrong)


if __name__ == "__main__":
    sys.exit(main())
