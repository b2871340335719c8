#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the page that precopy writes with --report. Argument: precopy."""
import html.parser
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

# Leave no bytecode in the tree.
sys.dont_write_bytecode = True

from common import (QUICK, SLOW, Reader, finish, require, run_json, run_tests,  # noqa: E402
                    start)

HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
FIGURES = ("rates", "convergence", "downtime-parts", "map")
COLUMNS = ("dirty_bytes", "sent_pages", "zero_pages", "wire_bytes", "start_ns", "ns",
           "remaining_bytes", "full_exits", "overflows")
NUMBERS = ("exit_status", "memory_bytes", "vcpus", "total_ns", "downtime_ns", "downtime_limit_ns",
           "pages_sent", "zero_pages", "wire_bytes")
MOVED = NUMBERS + ("left_bytes", "compared_pages", "differing_pages", "downtime_vcpus_ns",
                   "downtime_devices_ns", "downtime_harvest_ns", "downtime_send_ns",
                   "downtime_state_ns", "new_pages", "entries", "duplicates", "resets",
                   "full_exits", "overflows", "high_water_entries", "ioctl_ns")


class Balance(html.parser.HTMLParser):
    """Notes what an HTML parser would not like, and what the page would load."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.ids = [], [], []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes, closed=True)

    def handle_starttag(self, tag, attributes, closed=False):
        if not closed:
            self.open.append(tag)
        if tag in ("script", "link", "img", "iframe", "object", "base", "form"):
            self.wrong.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "action") or name.startswith("on"):
                self.wrong.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")


def parse(path):
    """The page as a tree; checks its form."""
    text = path.read_text(encoding="utf-8")
    balance = Balance()
    balance.feed(text)
    balance.close()
    require(not balance.wrong and not balance.open, f"{balance.wrong} {balance.open}")
    require(len(set(balance.ids)) == len(balance.ids), "an id is there twice")
    require(not re.search(r"@import|url\(", text), "the style loads something")
    links = set(re.findall(r"https?://[^\"' ]*", text))
    require(links <= {HTML[1:-1], SVG[1:-1]}, f"addresses: {links}")
    for word in "prefers-color-scheme:dark", "@media print":
        require(word in text, f"the style has no {word}")
    return ElementTree.fromstring(text)


def by_id(tree, name):
    return next((element for element in tree.iter() if element.get("id") == name), None)


def words(element):
    return " ".join("".join(element.itertext()).split())


def check_numbers(tree, result, names):
    for name in names:
        element = by_id(tree, name)
        require(element is not None, f"the page has no {name}")
        require(int(element.get("value")) == result[name],
                f"{name} is {element.get('value')}, expected {result[name]}")
    rows = [row for row in by_id(tree, "passes").iter(HTML + "tr")][1:]
    require(len(rows) == len(result["passes"]), f"{len(rows)} passes")
    for row, expected in zip(rows, result["passes"]):
        values = [int(data.get("value")) for data in row.iter(HTML + "data")]
        require(values == [expected[column] for column in COLUMNS], f"{values}: {expected}")


def check_coordinates(tree):
    """Shapes have sizes that can be drawn, and lie inside."""
    for svg in tree.iter(SVG + "svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for shape in svg.iter():
            for name, value in shape.attrib.items():
                if name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                    limit = height if "y" in name or name == "height" else width
                    require(-0.11 <= float(value) <= limit + 0.11, f"{name}={value}: {svg.attrib}")
            require(re.fullmatch(r"[MLHV\d. ]*", shape.get("d", "")), shape.get("d"))


def the_page_says_what_json_says(folder, precopy):
    for options in (["--backend", "model", "--memory", "24M", "--bandwidth", "20M",
                     "--no-zero-pages", "--dirty-rate", "8M", "--downtime-limit", "20"],
                    ["--memory", "24M", "--mode", "bitmap", "--bandwidth", "0", "--passes", "2",
                     "--downtime-limit", "0", "--slot-moves", "--channels", "2"]):
        path = folder / "page.html"
        result, _ = run_json(0, precopy, *options, "--report", path)
        tree = parse(path)
        check_numbers(tree, result, MOVED)
        check_coordinates(tree)
        parts = [result[name] for name in result if re.fullmatch(r"downtime_(?!limit).+_ns", name)]
        require(len(parts) == 5 and sum(parts) == result["downtime_ns"], f"{parts}")
        for figure in FIGURES:
            require(by_id(tree, figure) is not None, f"there is no {figure}")
        require(by_id(tree, "convergence").find(SVG + "svg") is not None, "no curve")
        require(by_id(tree, "map").find(SVG + "svg") is not None, "no map")
        points = list(by_id(tree, "convergence").iter(SVG + "circle"))
        require(len(points) == len(result["passes"]) + 1, f"{len(points)} points")
        require("cut short" not in words(tree), "a pass was cut short")
        require("no write was lost" in words(by_id(tree, "outcome")), "the outcome")
        require(words(by_id(tree, "command")).endswith(f"--report {path} --json"), "the command")
        require([entry.name for entry in folder.iterdir()] == ["page.html"], "a file is left")


def sabotage_shows(folder, precopy):
    path = folder / "page.html"
    result, _ = run_json(1, precopy, *QUICK, "--sabotage", "drop", "--report", path)
    tree = parse(path)
    check_numbers(tree, result, MOVED)
    require("Corruption" in words(by_id(tree, "outcome")), "the outcome")


def a_cancelled_migration_has_a_page(folder, precopy):
    path, publish = folder / "page.html", folder / "socket"
    process = start(precopy, *SLOW, "--json", "--report", path, "--status", publish)
    reader = Reader(publish)
    while not reader.line()["sent"]["pages"]:
        reader.ask(10)
    require(not path.exists(), "the page is there before the end")
    process.send_signal(signal.SIGINT)
    result = json.loads(finish(process, 3)[0])
    tree = parse(path)
    check_numbers(tree, result, NUMBERS)
    require("cancelled" in result["error"], result["error"])
    require(words(by_id(tree, "error")) == result["error"], "the reason")
    require("keeps running" in words(tree), "where the guest runs")
    require("1, cut short" in words(tree) and "No pass was completed" in words(tree), "the pass")


def a_killed_program_leaves_the_old_page(folder, precopy):
    path, publish = folder / "page.html", folder / "socket"
    path.write_text("of another run")
    link = folder / "link.html"
    link.symlink_to(path)
    process = start(precopy, *SLOW, "--report", link, "--status", publish)
    Reader(publish).line()
    require(path.read_text() == "of another run", "it was replaced before the end")
    process.kill()
    process.wait()
    require(path.read_text() == "of another run", "it was replaced by no page")
    require({entry.name for entry in folder.iterdir()} == {"page.html", "link.html", "socket"},
            "a file is left")
    run_json(0, precopy, *QUICK, "--report", link)
    require(link.is_symlink() and by_id(parse(path), "outcome") is not None, "it was not replaced")


def refuse(precopy, path, why):
    result, err = run_json(3, precopy, *QUICK, "--report", path)
    require(why in " ".join(err.split()), f"'{why}' is not in {err}")
    require(set(result) == {"error", "exit_status"}, "the migration was begun")


def a_page_that_cannot_be_written_is_refused_before(folder, precopy):
    refuse(precopy, folder / "absent" / "page.html", "No such file")
    refuse(precopy, folder, "Is a directory")
    refuse(precopy, "/dev/null", "no regular file")
    refuse(precopy, folder / ("x" * 300), "too long")
    # A pipe without a reader would wait for ever.
    os.mkfifo(folder / "pipe")
    refuse(precopy, folder / "pipe", "no regular file")
    refuse(precopy, "", "No such file")
    if os.geteuid():
        folder.chmod(0o500)
        refuse(precopy, folder / "page.html", "Permission denied")
        folder.chmod(0o700)
    require({entry.name for entry in folder.iterdir()} == {"pipe"}, "a file is left")


def a_page_that_is_lost_is_an_error(folder, precopy):
    inside, publish = folder / "inside", folder / "socket"
    inside.mkdir()
    process = start(precopy, *SLOW, "--passes", "1", "--bandwidth", "40M", "--json",
                    "--report", inside / "page.html", "--status", publish)
    reader = Reader(publish)
    reader.line()
    shutil.rmtree(inside)
    out, err = finish(process, 5)
    require(json.loads(out)["exit_status"] == 5, "exit_status")
    require("cannot write" in err, err)


HOSTILE = "<script>alert(1)</script>\"'&amp;]]>--\x07\x7f<!-- "


def names_are_escaped(folder, precopy):
    path = folder / "page.html"
    address = f"unix:{folder}/" + HOSTILE.replace("/", "|")
    broken = os.fsencode(address) + b"\xff\xc0\xaf\xed\xa0\x80\xe2\x82"
    for option in os.fsencode(address), broken:
        process = subprocess.run([precopy, b"--connect", option, b"--report", os.fsencode(path)],
                                 capture_output=True, check=False)
        require(process.returncode == 3, process.stderr)
        tree = parse(path)
        expected = HOSTILE.strip().replace("/", "|").replace("\x07\x7f", "\ufffd\ufffd")
        for name in "error", "command":
            require(expected in words(by_id(tree, name)), words(by_id(tree, name)))
        require("<script" not in path.read_text(), "it is not escaped")
    name = "<b>&\"'"
    uts = subprocess.run(["unshare", "--uts", sys.executable, "-c",
                          "import socket, sys, os; socket.sethostname(sys.argv[1]);"
                          "os.execv(sys.argv[2], sys.argv[2:])", name, precopy, "--connect",
                          "unix:/absent", "--report", path], capture_output=True, check=False)
    if uts.returncode == 3:
        require(name in words(by_id(parse(path), "host")), "the name of the host")
    else:
        print("the name of the host cannot be changed here")


if __name__ == "__main__":
    run_tests([the_page_says_what_json_says, sabotage_shows, a_cancelled_migration_has_a_page,
               a_killed_program_leaves_the_old_page,
               a_page_that_cannot_be_written_is_refused_before, a_page_that_is_lost_is_an_error,
               names_are_escaped], sys.argv[1])
