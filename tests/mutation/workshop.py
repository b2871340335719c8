# SPDX-License-Identifier: MIT
"""A copy of the tree with a build of its own, in which lib/ is broken and the tests are run.

planted.py, orderings.py and mutants.py decide what to break and which programs must notice; this
module copies, builds and runs.
"""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = "lib/libdirtylog.a"
COMPILE_SECONDS_MAX = 300
SKIPPED = 77

# The parts of the tree that the build needs.
PARTS = ["meson.build", "meson_options.txt", "README.md", "doc", "include", "lib", "tests",
         "examples"]

# Without debugging information, equal code makes equal objects.
PLAIN = ("--buildtype=plain", "-Doptimization=2", "-Ddebug=false")

Test = collections.namedtuple("Test", "name room target command timeout")
# failed: whether the program failed, crashed or hung.
Run = collections.namedtuple("Run", "failed how output seconds")


def say(text):
    print(text, flush=True)


def files_of(tree, part):
    """The files of one part of the tree, as names relative to its top."""
    there = tree / part
    paths = [there] if there.is_file() else there.rglob("*")
    return [str(p.relative_to(tree)) for p in paths
            if p.is_file() and "__pycache__" not in p.parts]


def describe(status):
    if status is None:
        return "hang"
    if status < 0:
        return signal.Signals(-status).name
    return f"exit {status}"


class Workshop:
    def __init__(self, directory, setup=PLAIN, jobs=2, cc=None):
        self.directory, self.jobs = pathlib.Path(directory).resolve(), jobs
        self.source, self.build = self.directory / "tree", self.directory / "build"
        self.setup = ["meson", "setup", "-Dtests=true", *setup, str(self.build), str(self.source)]
        self.env = {**os.environ, "CC": cc} if cc else dict(os.environ)
        self.output = ""  # of the last build
        self.objects = {}

    def prepare(self):
        """Copies what differs and sets up the build, so that a later run builds little."""
        copied = {TREE / part for part in PARTS}
        if self.directory == TREE or {self.directory, *self.directory.parents} & copied:
            sys.exit(f"{self.directory} would be copied into itself")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.copy()
        stamp = self.directory / "setup"
        wanted = " ".join(self.setup + [self.env.get("CC", "")])
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(self.build, ignore_errors=True)
            self.call(*self.setup)
            stamp.write_text(wanted)

    def copy(self):
        keep = {name for part in PARTS for name in files_of(TREE, part)}
        for old in [p for p in self.source.rglob("*") if p.is_file()]:
            if str(old.relative_to(self.source)) not in keep:
                old.unlink()
        for name in keep:
            there, here = TREE / name, self.source / name
            if not here.exists() or here.read_bytes() != there.read_bytes():
                here.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, here)
                shutil.copymode(there, here)

    def call(self, *command):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env=self.env, text=True, check=False,
                              timeout=3600)
        if done.returncode:
            sys.exit(f"{command[0]} failed:\n{done.stdout}")
        return done.stdout

    def compile(self, *targets):
        """Whether the targets could be built; self.output says why not."""
        done = subprocess.run(["ninja", f"-j{self.jobs}", "-C", str(self.build), *targets],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, env=self.env, text=True, check=False,
                              timeout=COMPILE_SECONDS_MAX)
        self.output = done.stdout
        return done.returncode == 0

    def write(self, name, text):
        """ninja compares times: what is written must be younger than what was built from it."""
        path = self.source / name
        path.write_text(text)
        now = time.time_ns()
        os.utime(path, ns=(now, now))

    @contextlib.contextmanager
    def broken(self, name, text):
        """The file has this text within the with statement."""
        original = (self.source / name).read_text()
        self.write(name, text)
        try:
            yield
        finally:
            self.write(name, original)

    def run(self, command, seconds, memory_bytes=0, env=None):
        """Runs a program in a process group of its own and kills what is left of the group."""
        def limit():
            if memory_bytes:
                resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
            cpu_seconds = int(seconds * os.cpu_count()) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        begin, status = time.monotonic(), None
        with tempfile.TemporaryFile() as log:
            child = subprocess.Popen([str(c) for c in command], cwd=self.build,
                                     stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**os.environ, **(env or {})}, start_new_session=True,
                                     preexec_fn=limit)
            try:
                status = child.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            log.seek(0)
            output = log.read().decode(errors="replace")
        return Run(status not in (0, SKIPPED), describe(status), output, time.monotonic() - begin)

    def tests(self, rooms):
        """The fast test programs of these rooms that link the library."""
        found = []
        for test in json.loads(self.call("meson", "introspect", "--tests", str(self.build))):
            suites = [s.split(":")[-1] for s in test["suite"]]
            room = next((r for r in rooms if r in suites), None)
            program = pathlib.Path(test["cmd"][0])
            if room is None or "fast" not in suites or self.build not in program.parents:
                continue
            target = str(program.relative_to(self.build))
            inputs = self.call("ninja", "-C", str(self.build), "-t", "inputs", target)
            if "lib/libdirtylog" in inputs:
                found.append(Test(test["name"], room, target, tuple(test["cmd"]), test["timeout"]))
        return found

    def hashes(self):
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in (self.build / "lib").rglob("*.o")}

    def note_objects(self):
        """Builds the library as it is, for is_unchanged()."""
        if not self.compile(LIBRARY):
            sys.exit(self.output)
        self.objects = self.hashes()

    def is_unchanged(self):
        """Whether the library's objects are, bit by bit, those of the original."""
        return self.hashes() == self.objects
