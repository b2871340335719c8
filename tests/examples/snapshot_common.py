# SPDX-License-Identifier: MIT
"""Helpers shared by the tests of examples/snapshot."""
import sys
from pathlib import Path

from common import require, run, run_json

READER = Path(__file__).resolve().parent.parent.parent / "examples/snapshot/points.py"
SMALL = ["--memory", "16M", "--interval", "0", "--prove", "all"]
MODEL = [*SMALL, "--backend", "model"]
# Most pages of a point are not written again before the next one.
SLOW = [*MODEL, "--dirty-rate", "4M", "--interval", "20", "--count", "4"]


def take(status, snapshot, folder, *options):
    return run_json(status, snapshot, "run", folder, *options)


def read(status, *arguments):
    return run(status, sys.executable, READER, *arguments)


def check_restored(snapshot, folder, *point):
    result, _ = run_json(0, snapshot, "restore", folder, *point)
    require(result["guest_healthy"] and result["device_healthy"], "the restored guest is damaged")
    require(result["checked_pages"] >= 1000, "the restored guest has checked few pages")
    return result["point"]
