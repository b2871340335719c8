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
    def test_a_limited_vcpu_is_kicked_and_pauses(self, guest, log, slot, vcpu):
        with log.cursor() as cursor:
            self.assertEqual(vcpu.pause_due(), 0)
            if log.config().mode != dirtylog.Mode.RING:
                with self.assertRaisesRegex(dirtylog.Error, "rings"):
                    vcpu.limit(1)
                return
            vcpu.limit(4096)
            with cursor.harvest() as pass_:
                list(pass_.extents())
                pass_.end(commit=True)
            guest.start(vcpu)
            guest.write_some()
            guest.stop()
            log.reap(now=True)
            self.assertEqual(len(log.kicks()), 1)
            self.assertGreater(vcpu.pause_due(), 0)
            self.assertEqual(log.stats().limited_vcpus, 1)
            vcpu.limit(0)
            self.assertEqual(vcpu.pause_due(), 0)

    @cases.with_guest
    def test_a_plan_advises(self, guest, log, slot, vcpu):
        with log.cursor(skip_rewritten=True) as cursor:
            with cursor.plan(total_ns=60 * 10**9) as plan:
                with self.assertRaisesRegex(dirtylog.Error, "a plan"):
                    cursor.plan()
                plan.sent(4096, 10**6)
                advice = plan.next()
                self.assertEqual(advice.verdict, dirtylog.Verdict.CONTINUE)
                self.assertEqual(advice.bound_by, dirtylog.Bound.NONE)
                self.assertGreater(advice.again_ns, 0)
            with self.assertRaisesRegex(dirtylog.Error, "least_run_ppm"):
                cursor.plan(least_run_ppm=10**6 + 1)
            cursor.plan(advise=True).close()

    @cases.with_guest
    def test_full_rings_are_drained(self, guest, log, slot, vcpu):
        if log.config().mode == dirtylog.Mode.RING:
            with log.cursor():
                guest.start(vcpu)
                guest.write_some()
                guest.stop()
                self.assertGreater(vcpu.stats().full_exits, 0)
