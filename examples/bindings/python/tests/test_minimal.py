# SPDX-License-Identifier: MIT
"""minimal.py says what minimal.c says."""

import os
import subprocess
import sys
import unittest

import guest

BINDING = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.join(BINDING, "../../minimal.py")


class Minimal(unittest.TestCase):
    def test_both_programs_print_the_same(self):
        guest.require()
        environment = {**os.environ, "PYTHONPATH": BINDING}
        ours = subprocess.run([sys.executable, PROGRAM], env=environment, check=True,
                              stdout=subprocess.PIPE).stdout
        theirs = subprocess.run([os.environ["DIRTYLOG_MINIMAL"]], check=True,
                                stdout=subprocess.PIPE).stdout
        self.assertEqual(ours, theirs)
        self.assertIn(b"dirty: 4096 bytes", ours)

    def test_it_is_short(self):
        with open(PROGRAM, encoding="utf-8") as file:
            self.assertLess(len(file.readlines()), 100)
