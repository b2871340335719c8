# SPDX-License-Identifier: MIT
"""The binding on /dev/kvm."""

import errno
import unittest

import cases
import dirtylog
import guest


class Kvm(cases.Cases, unittest.TestCase):
    def setUp(self):
        guest.require()

    def new_guest(self):
        return guest.Guest()

    def test_the_wrong_descriptor_is_refused_with_words(self):
        with open("/dev/null") as null, self.assertRaises(dirtylog.Error) as caught:
            dirtylog.Log(null)
        self.assertEqual(caught.exception.errno, errno.EBADF)
        self.assertTrue(caught.exception.why)
