# SPDX-License-Identifier: MIT
"""The binding on the model kernel."""

import unittest

import cases
import dirtylog
import model


class Model(cases.Cases, unittest.TestCase):
    def setUp(self):
        self.library = model.load()

    def new_guest(self):
        return model.Guest(self.library)

    @cases.with_guest
    def test_full_rings_are_drained(self, guest, log, slot, vcpu):
        if log.config().mode == dirtylog.Mode.RING:
            with log.cursor():
                guest.start(vcpu)
                guest.write_some()
                guest.stop()
                self.assertGreater(vcpu.stats().full_exits, 0)
