# SPDX-License-Identifier: MIT
"""The output of mutants.py."""

import collections
import re

import operators
from workshop import say

STATUSES = ["killed", "survived", "equivalent", "stillborn"]
EXPLAINED_ROW = re.compile(r"^\| `([0-9a-f]{8})` \|", re.MULTILINE)


def changed(diff):
    """The changed lines of a diff, joined to one line."""
    lines = [line for line in diff.split("\n") if re.match(r"[-+](?![-+]{2})", line)]
    return "  ".join(re.sub(r"\s+", " ", line) for line in lines)


def progress(mutant, entry):
    by = " by %s (%s)" % (entry["killer"], entry["how"]) if "killer" in entry else ""
    say("%s %s:%d %s %s: %s%s, %.1f s" % (mutant.id, mutant.file, mutant.line, mutant.function,
                                          mutant.operator, entry["status"], by, entry["seconds"]))


def listing(mutants, texts):
    for m in mutants:
        say("%s %s:%d %s %s  %s" % (m.id, m.file, m.line, m.function, m.operator,
                                    changed(operators.diff(m.file, texts[m.file], m.edits))))
    say("%d mutants" % len(mutants))


def table(title, entries, key):
    rows = collections.defaultdict(collections.Counter)
    for entry in entries:
        rows[entry[key]][entry["status"]] += 1
        rows["all"][entry["status"]] += 1
    say("\n| %s | %s |" % (title, " | ".join(STATUSES)))
    say("| --- |" + " ---: |" * len(STATUSES))
    for name in sorted(rows, key=lambda n: (n == "all", n)):
        say("| %s | %s |" % (name, " | ".join(str(rows[name][s]) for s in STATUSES)))


def explained(path):
    return set(EXPLAINED_ROW.findall(path.read_text())) if path.exists() else set()


def check(mutants, explanations):
    """Returns the exit status: 1 if a row explains a mutant that is gone."""
    known = {m.id for m in mutants}
    stale = [i for i in sorted(explained(explanations)) if i not in known]
    for i in stale:
        say("%s: %s explains a mutant that does not exist" % (i, explanations.name))
    say("%d mutants, %d explained" % (len(known), len(explained(explanations)) - len(stale)))
    return 1 if stale else 0


def summary(data, mutants, explanations):
    """Returns the exit status: 1 if a survivor is not explained."""
    known = {m.id for m in mutants}
    entries = {i: e for i, e in data["mutants"].items() if i in known}
    table("file", entries.values(), "file")
    table("operator", entries.values(), "operator")
    killers = collections.Counter(e["killer"] for e in entries.values() if "killer" in e)
    hows = collections.Counter(e["how"] for e in entries.values() if "how" in e)
    say("\nkilled by: " + ", ".join("%s %d" % pair for pair in killers.most_common()))
    say("and how: " + ", ".join("%s %d" % pair for pair in hows.most_common()))
    survivors = {i: e for i, e in entries.items() if e["status"] == "survived"}
    reasons = explained(explanations)
    unexplained = {i: e for i, e in survivors.items() if i not in reasons}
    say("%d survived, of which %d are explained in %s" %
        (len(survivors), len(survivors) - len(unexplained), explanations.name))
    for mutant, entry in unexplained.items():
        say("\n%s %s:%d %s %s\n%s" % (mutant, entry["file"], entry["line"], entry["function"],
                                      entry["operator"], entry["diff"]))
    return 1 if unexplained else 0
