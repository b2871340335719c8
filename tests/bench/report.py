#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Merges figures, prints them, and writes them into the document.

report.py --merge OUT PART...   merges the programs' files and adds the machine
report.py --print JSON          prints the table for a terminal
report.py JSON DOCUMENT         rewrites the text between the document's markers
"""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys

BEGIN = "<!-- figures: begin, written by tests/bench/report.py -->"
END = "<!-- figures: end -->"

# Why bars are missed, by a prefix of the figure's name. Only causes that were investigated.
REASONS = {
    "bitmap: merge 64 GiB, 1% dirty":
        "each dirty word is merged into a set that other threads mark at the same time, "
        "with an atomic OR, which the sum does not need. The row \"as above\" compares with a "
        "loop of these alone",
    "cursors: pass":
        "each word is taken from a set that both cursors share and or-ed into the second one's, "
        "which is two more maps in the caches: some 1.6 ns a word of 16 dirty pages, and the bar "
        "allows 1.5",
    "iterator: runs of":
        "each word is taken, with an exchange, from a set that other threads mark at the "
        "same time; the floor has none, and eight of them alone take more than twice its "
        "time. The row \"as above\" compares with a loop that has them. An extent is 64 bytes, "
        "all of them written",
    "many slots: repair":
        "each slot's words and summaries lie in pages of memory of their own, which miss the "
        "caches and the TLB once there are thousands of slots; the instructions of a slot, below, "
        "are the same",
    "mark: one page":
        "two fifths of the instructions look up and check, a fifth sets the page, and a third "
        "is liburcu's thread-local data; the atomic OR alone took 7.5 ns on an Intel host and "
        "takes 2.2 on an AMD host, the mark 26 and 14; two threads share one core's execution "
        "units if processors are hyper-threads",
    "pass: 1% of 64 GiB dirty":
        "the guest is small and much of it dirty, so the reaper's walks over its bitmaps, "
        "which the library saves, are only half of its time. Both read the cells, the "
        "library twice (copied, then released), which is an eighth of the reaper's time; "
        "and the library marks, takes and acknowledges each word with an atomic operation "
        "each. Longer runs need fewer of these: see the rows \"as above\"",
    "pass: 10,000 pages of 1 TiB dirty":
        "the rest is cache misses: some 600 locations in memory, each marked, taken and "
        "acknowledged; no step walks the guest",
    "rings: harvest, pages in order":
        "22 instructions an entry against 12: the cells are copied first and released "
        "afterwards, so that a page is published once it is protected again and not before; on "
        "an idle machine the ratio is near the bar",
    "rings: harvest, random pages of 64 GiB":
        "126 instructions an entry against 21, most of them for pages that share no word with "
        "others: one atomic OR for the page, one for the summary above it if its word was clean; "
        "1.5 to 2.4 in runs on one AMD host",
    "rings: harvest, random pages of 16 TiB":
        "each page misses the caches and the TLB, which depends on the host: 1.27 to 1.9 in ten "
        "runs on an Intel host, up to 4.7 on an AMD host whose floor is three times as fast",
    "rings: harvest of 1024 empty rings":
        "69 instructions a ring against 6: 1.09 on an idle host, as both wait for the same "
        "cache misses, and up to 1.8 if another tenant uses half of the core",
    "precopy: 512 MiB":
        "the guest and both ends of the socket are busy threads on two processors; single pairs "
        "differ by more than the bar",
    "slots: remove 1000":
        "the ioctls alone differ by more than the bar between runs; with 32,000 slots they do not",
    "slots: take from each of":
        "all is pending at first, so each take makes a CLEAR after its GET, and blocks signals "
        "around both: four system calls, against one that finds nothing. With 32,000 slots the "
        "kernel's own search takes most of the time of each",
    "stall: 64 vCPUs":
        "both sides are charged the CPU time that this run took, and the reaper gains most if "
        "memory is fast; the rest of the library's time is a reset of 100 us and the wait for "
        "it",
    "fan-out: 20,000 pages of 64 GiB, single":
        "as a take of single pages, and each word is written once more in both of the VMM's "
        "bitmaps; the reaper's mark in its ring pass is its first of three",
    "take: 20,000 pages of 64 GiB, single":
        "each page is a word of its own, marked and taken with an atomic operation each, at a "
        "place that misses the caches; the reaper's walks over its bitmaps take most of its time, "
        "whatever is dirty",
    "scale: a pass":
        "the locations lie in as many pages of memory and cache lines, which a guest of 1 GiB "
        "shares",
    "share: ring, in order":
        "RESET of neighbouring pages is quick, 19 ns each, as the kernel protects 64 at once",
    "share: bitmap, random":
        "each page is a word and an extent of its own, marked, taken and acknowledged with an "
        "atomic operation each; these alone take all the time that the bar leaves beside the "
        "kernel's GET and CLEAR. That it is owed a CLEAR is one more word, since several cursors "
        "share the kernel's bitmap, and all extents are checked before one is committed",
}


def machine(compiler, load):
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = re.search(r"model name\s*: (.*)", file.read()).group(1)
    except (OSError, AttributeError):
        pass
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return {
        "processor": re.sub(r"\s+", " ", model),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "compiler": (version.stdout or compiler).splitlines()[0],
        "load": load,
        "kvm": os.path.exists("/dev/kvm"),
        "date": datetime.date.today().isoformat(),
    }


def merge(out, parts, compiler, load):
    report = {"machine": machine(compiler, load), "figures": [], "instructions": []}
    for part in parts:
        with open(part, encoding="utf-8") as file:
            rows = json.load(file)
        for row in rows:
            report["figures" if "verdict" in row else "instructions"].append(row)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def bar(row):
    if not row.get("bar"):
        return ""
    return f"{'<=' if row['bar_is'] == 'most' else '>='} {row['bar']:g}"


def ratio(value):
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def times(row):
    if not row.get("unit"):
        return ""
    for ns, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns")):
        if max(row["measured_ns"], row["other_ns"]) >= ns or ns == 1:
            return f"{row['measured_ns'] / ns:.3g} / {row['other_ns'] / ns:.3g} {name}"
    return ""


def show(report):
    print(f"{'figure':<45} {'median':>6}  {'least':>6} - {'most':<6} {'bar':<7} {'':<6} "
          "measured / other")
    for row in report["figures"]:
        if row["verdict"] == "skipped":
            print(f"{row['name']:<45} skipped: {row['remark']}")
            continue
        print(f"{row['name']:<45} {ratio(row['ratio']):>6}  {ratio(row['least']):>6} - "
              f"{ratio(row['greatest']):<6} {bar(row):<7} {row['verdict']:<6} {times(row)}")
        if row["remark"]:
            print(f"    {row['remark']}")
    if report["instructions"]:
        print("\ninstructions, library / other")
    for row in report["instructions"]:
        print(f"{row['name']:<45} {row['library']:9.2f} / {row['other']:.2f} per {row['unit']}")


def reason(row):
    for name, text in REASONS.items():
        if row["name"].startswith(name):
            return text
    return "not profiled yet"


def document_figures(report):
    here = report["machine"]
    kvm = "with" if here["kvm"] else "without"
    yield (f"{here['processor']}, {here['cores']} processors, Linux {here['kernel']}, {kvm} "
           f"/dev/kvm, {here['compiler']}, {here['date']}. Load average before the run: "
           f"{here.get('load', 'unknown')}.")
    yield ""
    yield "| figure | against | median | least - most | bar | | measured / other |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    missed = []
    for row in report["figures"]:
        if row["verdict"] == "skipped":
            yield f"| {row['name']} | | skipped: {row['remark']} | | | | |"
            continue
        verdict = f"**{row['verdict']}**" if row["verdict"] == "missed" else row["verdict"]
        detail = "; ".join(text for text in (times(row), row["remark"]) if text)
        yield (f"| {row['name']} | {row['against']} | {ratio(row['ratio'])} | "
               f"{ratio(row['least'])} - {ratio(row['greatest'])} | {bar(row)} | {verdict} | "
               f"{detail} |")
        if row["verdict"] == "missed":
            missed.append(row)
    yield ""
    if missed:
        yield "Missed bars, and why:"
        yield ""
        for row in missed:
            yield f"- {row['name']} ({ratio(row['ratio'])}): {reason(row)}."
        yield ""
    if report["instructions"]:
        yield "| instructions | per | library | other |"
        yield "| --- | --- | --- | --- |"
        for row in report["instructions"]:
            yield f"| {row['name']} | {row['unit']} | {row['library']:.2f} | {row['other']:.2f} |"
    else:
        yield "No instructions were counted."


def rewrite(report, document):
    with open(document, encoding="utf-8") as file:
        text = file.read()
    if BEGIN not in text or END not in text:
        sys.exit(f"{document} has no markers for the figures")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    figures = "\n".join(document_figures(report))
    with open(document, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n{figures}\n{END}{after}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--merge", metavar="OUT")
    parser.add_argument("--print", action="store_true")
    parser.add_argument("--compiler", default="cc")
    parser.add_argument("--load", default="unknown", help="load average before the run")
    parser.add_argument("files", nargs="+")
    options = parser.parse_args()
    if options.merge:
        merge(options.merge, options.files, options.compiler, options.load)
        return
    with open(options.files[0], encoding="utf-8") as file:
        report = json.load(file)
    if options.print:
        show(report)
    elif len(options.files) == 2:
        rewrite(report, options.files[1])
    else:
        parser.error("expected JSON and DOCUMENT")


if __name__ == "__main__":
    main()
