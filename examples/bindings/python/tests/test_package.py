# SPDX-License-Identifier: MIT
"""pip installs the package without a network, and what it installed works."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

BINDING = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Package(unittest.TestCase):
    def setUp(self):
        for module in ("pip", "setuptools", "wheel"):
            if not importlib.util.find_spec(module):
                raise unittest.SkipTest("no %s for %s (python3-%s)"
                                        % (module, sys.executable, module))

    def test_pip_installs_it(self):
        with tempfile.TemporaryDirectory() as scratch:
            source, target = os.path.join(scratch, "source"), os.path.join(scratch, "target")
            shutil.copytree(BINDING, source)  # setuptools builds in its source
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index",
                            "--no-build-isolation", "--no-deps", "--disable-pip-version-check",
                            "--target", target, source], check=True)
            program = ("import dirtylog, importlib.metadata as m, sys;"
                       "print(dirtylog.__file__, dirtylog.__version__, m.version('dirtylog'))")
            output = subprocess.run([sys.executable, "-c", program], check=True, cwd=scratch,
                                    env={**os.environ, "PYTHONPATH": target},
                                    stdout=subprocess.PIPE).stdout.decode().split()
            self.assertEqual(output[0], os.path.join(target, "dirtylog/__init__.py"))
            self.assertEqual(output[1:], [os.environ["DIRTYLOG_VERSION"]] * 2)
