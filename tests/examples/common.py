# SPDX-License-Identifier: MIT
"""Helpers shared by the tests of --status, --report and dirtytop."""
import json
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Moves in a fraction of a second, and anywhere.
QUICK = ["--backend", "model", "--memory", "16M", "--vcpus", "2", "--bandwidth", "0"]
# Moves in several seconds, unless it is interrupted; its first pass is long.
SLOW = ["--backend", "model", "--memory", "16M", "--vcpus", "2", "--no-zero-pages",
        "--bandwidth", "3M"]
TIMEOUT_S = 100


def require(condition, what):
    if not condition:
        raise AssertionError(what)


def start(*command):
    return subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, status):
    """Waits for the program, which must exit so. Returns what it has printed."""
    out, err = (text.decode() for text in process.communicate(timeout=TIMEOUT_S))
    require(process.returncode == status,
            f"exit status {process.returncode}, expected {status}:\n{out}{err}")
    return out, err


def run(status, *command):
    return finish(start(*command), status)


def run_json(status, *command):
    """Runs precopy. Returns the object that it prints, and its errors."""
    out, err = run(status, *command, "--json")
    result = json.loads(out)
    require(result["exit_status"] == status, f"exit_status is {result['exit_status']}")
    return result, err


class Reader:
    """A reader of a status socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT_S)
        limit = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                require(time.monotonic() < limit, f"nobody listens at {path}")
        self.file = self.socket.makefile("rb")

    def ask(self, milliseconds):
        self.socket.sendall(b"%d\n" % milliseconds)

    def line(self):
        """The next line, or None at the end."""
        try:
            text = self.file.readline()
        except ConnectionResetError:
            return None
        return json.loads(text) if text else None

    def rest(self):
        return list(iter(self.line, None))


def run_tests(tests, *arguments):
    """Calls each test with a directory of its own and the arguments. Exits."""
    failed = 0
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(Path(folder), *arguments)
            except Exception:
                failed += 1
                print(f"failed: {test.__name__}", file=sys.stderr)
                traceback.print_exc()
    print(f"{len(tests)} tests, {failed} failed")
    sys.exit(failed != 0)
