# SPDX-License-Identifier: MIT
"""A copy of the tree with a build of its own, where mutants are compiled and tests are run."""

import collections
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import time

JOBS = 2
LIBRARY = "lib/libdirtylog.a"
COMPILE_SECONDS_MAX = 300
SKIPPED = 77
# Which rooms may kill, the cheap ones first. One that does not exist is no error.
ROOMS = ["unit", "tuning", "migrations", "abi", "simulation", "process", "race", "fuzz", "kvm"]

# What the build needs of the tree.
PARTS = ["meson.build", "meson_options.txt", "README.md", "include", "lib", "tests", "examples"]

Killer = collections.namedtuple("Killer", "name room target command timeout")
Verdict = collections.namedtuple("Verdict", "killed how seconds")


def files_of(tree, part):
    """The files of one part of the tree, as names from its top."""
    there = tree / part
    paths = [there] if there.is_file() else there.rglob("*")
    return [str(p.relative_to(tree)) for p in paths
            if p.is_file() and "__pycache__" not in p.parts]


class BuildFailure(Exception):
    pass


class Workshop:
    def __init__(self, tree, directory, memory_bytes):
        self.tree, self.memory_bytes = tree, memory_bytes
        self.source, self.build = directory / "tree", directory / "build"
        self.objects = {}
        self.without_memory_limit = set()

    def prepare(self):
        """Copies what differs, so that a second run builds little, and builds the library."""
        self.copy()
        if not (self.build / "build.ninja").exists():
            # Without debugging information equal code makes equal objects.
            self.call("meson", "setup", "--buildtype=plain", "-Doptimization=2", "-Ddebug=false",
                      str(self.build), str(self.source))
        self.call("ninja", "-j%d" % JOBS, "-C", str(self.build), LIBRARY)
        self.objects = self.hashes()

    def copy(self):
        keep = {name for part in PARTS for name in files_of(self.tree, part)}
        for old in [p for p in self.source.rglob("*") if p.is_file()]:
            if str(old.relative_to(self.source)) not in keep:
                old.unlink()
        for name in keep:
            there, here = self.tree / name, self.source / name
            if not here.exists() or here.read_bytes() != there.read_bytes():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, here)
                shutil.copymode(there, here)

    def call(self, *command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=3600)
        if done.returncode:
            raise BuildFailure(done.stdout)
        return done.stdout

    def compile(self, *targets):
        """Whether the targets could be built."""
        done = subprocess.run(["ninja", "-j%d" % JOBS, "-C", str(self.build), *targets],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=COMPILE_SECONDS_MAX)
        return done.returncode == 0

    def compile_library(self):
        return self.compile(LIBRARY)

    def hashes(self):
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.build / "lib").rglob("*.o")
        }

    def is_unchanged(self):
        """Whether the library's objects are, bit by bit, those of the original."""
        return self.hashes() == self.objects

    def write(self, name, text):
        """ninja goes by times: what is written must be younger than what was built from it."""
        path = self.source / name
        path.write_text(text)
        now = time.time_ns()
        os.utime(path, ns=(now, now))

    def killers(self, rooms):
        """The fast test programs of these rooms that hold the library."""
        listed = json.loads(self.call("meson", "introspect", "--tests", str(self.build)))
        found = []
        for test in listed:
            suites = [s.split(":")[-1] for s in test["suite"]]
            room = next((r for r in rooms if r in suites), None)
            program = pathlib.Path(test["cmd"][0])
            if room is None or "fast" not in suites or self.build not in program.parents:
                continue
            target = str(program.relative_to(self.build))
            inputs = self.call("ninja", "-C", str(self.build), "-t", "inputs", target)
            if "lib/libdirtylog" in inputs:
                found.append(Killer(test["name"], room, target, tuple(test["cmd"]),
                                    test["timeout"]))
        return found

    def limit(self, killer, cpu_seconds):
        if killer.name not in self.without_memory_limit:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory_bytes, self.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def run(self, killer, seconds):
        """One test in a process group of its own, of which nothing is left afterwards."""
        begin, status = time.monotonic(), None
        child = subprocess.Popen(killer.command, cwd=self.build, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 start_new_session=True,
                                 preexec_fn=lambda: self.limit(killer, int(seconds) + 1))
        try:
            status = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
        return Verdict(status not in (0, SKIPPED), describe(status), time.monotonic() - begin)


def describe(status):
    if status is None:
        return "hang"
    if status < 0:
        return signal.Signals(-status).name
    return "exit %d" % status
