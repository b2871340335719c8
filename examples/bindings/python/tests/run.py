#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs modules of tests here, and reports as cmocka does, so that each test is counted."""

import os
import sys
import traceback
import unittest

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]


class Result(unittest.TestResult):
    def say(self, what, test):
        print("[ %8s ] %s" % (what, test.id()), flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.say("RUN     ", test)

    def addSuccess(self, test):
        self.say("OK", test)

    def addSkip(self, test, reason):
        print("skip: %s" % reason)
        self.say("SKIPPED ", test)

    def _failed(self, test, error):
        traceback.print_exception(*error, file=sys.stdout)
        self.say("FAILED  ", test)

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self._failed(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self._failed(test, error)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            print("in %s" % subtest.id())
            self._failed(test, error)


def main(modules):
    suite = unittest.defaultTestLoader.loadTestsFromNames(modules)
    print("[==========] Running %d test(s)." % suite.countTestCases(), flush=True)
    result = suite.run(Result())
    print("[==========] %d test(s) run." % result.testsRun)
    return 0 if result.testsRun and result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
