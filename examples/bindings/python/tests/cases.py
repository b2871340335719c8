# SPDX-License-Identifier: MIT
"""What the binding does with a guest. test_kvm.py runs it on /dev/kvm, test_model.py on a model."""

import array
import asyncio
import errno
import functools
import mmap
import os
import selectors
import threading

import dirtylog
import precopy
from dirtylog import Mode

PAGE = mmap.PAGESIZE


def with_guest(test):
    """Runs a test in each mode that the kernel has, with a guest, its log, slot and vCPU."""

    @functools.wraps(test)
    def run(self):
        for mode in (Mode.RING, Mode.BITMAP):
            with self.subTest(mode=mode.name), self.new_guest() as guest:
                try:
                    log = dirtylog.Log(guest.vm, mode=mode, os=guest.os,
                                       ring_entries=guest.ring_entries)
                except dirtylog.Error as error:
                    self.assertEqual((error.errno, mode), (errno.EOPNOTSUPP, Mode.RING))
                    continue
                with log, log.slot(0, guest.memory, gpa=0, cookie="ram") as slot:
                    with log.vcpu(guest.create_vcpu(), cookie=7) as vcpu:
                        test(self, guest, log, slot, vcpu)

    return run


class Cases:
    """Mixed into a TestCase, which has new_guest()."""

    @with_guest
    def test_a_copy_is_equal_and_the_proof_finds_a_lost_extent(self, guest, log, slot, vcpu):
        precopy.prove(self, guest, log, vcpu)

    @with_guest
    def test_a_drain_and_a_reap_empty_the_ring(self, guest, log, slot, vcpu):
        with log.cursor(clean=True) as cursor:
            for empty in (vcpu.drain, lambda: log.reap(now=True)):
                guest.start(vcpu)
                guest.write_some()
                guest.stop()
                before = log.stats().entries
                empty()
                if log.config().mode == Mode.RING:
                    self.assertGreater(vcpu.stats().entries, before)
                    self.assertEqual(vcpu.stats().entries, log.stats().entries)
            with cursor.harvest(paused=True) as pass_:
                self.assertGreaterEqual(pass_.pending_bytes, 3 * 36 * PAGE)
                self.assertLessEqual(pass_.pending_bytes, slot.bytes)

    @with_guest
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

    @with_guest
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

    def test_probe_and_config_agree(self):
        with self.new_guest() as guest:
            foreseen = dirtylog.probe(guest.vm, os=guest.os)
            self.assertTrue(foreseen.why)
            with dirtylog.Log(guest.vm, os=guest.os) as log:
                self.assertEqual(log.config(), foreseen.config)
                self.assertIn(foreseen.config.mode.name.lower(), log.describe())
                self.assertEqual(log.last_error(), "")

    def test_errors_have_words(self):
        with self.new_guest() as guest:
            with self.assertRaises(dirtylog.Error) as caught:
                dirtylog.probe(guest.vm, ring_entries=3, os=guest.os)
            self.assertEqual(caught.exception.errno, errno.EINVAL)
            self.assertIn("power of two", caught.exception.why)
            with dirtylog.Log(guest.vm, os=guest.os) as log:
                with self.assertRaises(OSError) as caught:
                    log.slot(0, guest.memory, gpa=1)
                self.assertEqual(caught.exception.errno, errno.EINVAL)
                self.assertIn("gpa", caught.exception.why)
                self.assertEqual(caught.exception.why, log.last_error())
                self.assertIn("dl_slot_set", str(caught.exception))

    @with_guest
    def test_the_descriptor_works_in_event_loops(self, guest, log, slot, vcpu):
        self.assertIsNone(log.reap())
        if log.config().mode == Mode.BITMAP:
            return  # never readable
        with log.cursor(), selectors.DefaultSelector() as selector:
            selector.register(log, selectors.EVENT_READ)
            self.assertTrue(selector.select(10), "the descriptor stays silent")
            self.assertGreater(log.reap(now=True), 0)
            self.assertGreater(asyncio.run(reap_in_asyncio(log)), 0)

    @with_guest
    def test_handles_may_be_closed_under_other_threads(self, guest, log, slot, vcpu):
        cursor = log.cursor()
        begun = threading.Barrier(4)
        unexpected = []

        def use():
            begun.wait()
            while True:
                try:
                    with cursor.harvest() as pass_:
                        pass_.ack(pass_.read())
                    slot.mark(0, PAGE)
                except ValueError:
                    return  # closed
                except dirtylog.Error as error:
                    # Another thread's pass is open or has just ended, or the log is closed.
                    if error.errno not in (errno.EBUSY, errno.ECANCELED):
                        unexpected.append(error)
                        return

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        guest.start(vcpu)
        guest.write_some()
        cursor.close()
        guest.stop()
        log.close()
        for thread in threads:
            thread.join()
        self.assertEqual(unexpected, [])

    @with_guest
    def test_a_child_of_fork_is_refused(self, guest, log, slot, vcpu):
        with log.cursor() as cursor:
            child = os.fork()
            if not child:
                try:
                    cursor.harvest()
                except dirtylog.Error as error:
                    os._exit(error.errno)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            self.assertEqual(os.waitstatus_to_exitcode(status), errno.EIO)

    @with_guest
    def test_a_pass_hands_out_each_page_once_and_what_is_not_acked_again(self, guest, log, slot,
                                                                        vcpu):
        with log.cursor(max_extent_bytes=PAGE) as cursor:
            with cursor.harvest(paused=True) as pass_:
                self.assertEqual(pass_.pending_bytes, slot.bytes)
                extents = pass_.read(10) + list(pass_.extents())
                self.assertEqual([e.gpa for e in extents], list(range(0, slot.bytes, PAGE)))
                self.assertEqual(extents[3].memory[:], guest.memory[3 * PAGE:4 * PAGE])
                view = extents[3].memory
                guest.memory[3 * PAGE] ^= 255
                self.assertEqual(view[0], guest.memory[3 * PAGE])  # no copy
                self.assertEqual({e.cookie for e in extents}, {"ram"})
                pass_.ack(extents[0])
                pass_.ack(extents[2:])
            with cursor.harvest(paused=True) as later:
                with self.assertRaises(dirtylog.Error) as caught:
                    pass_.read()
                self.assertEqual(caught.exception.errno, errno.EBUSY)
                self.assertEqual([e.gpa for e in later.extents()], [PAGE])
                later.end(commit=True)
            with cursor.harvest(paused=True) as pass_:
                self.assertEqual(pass_.pending_bytes, 0)
            with cursor.harvest(all=True) as pass_:
                self.assertEqual(pass_.pending_bytes, slot.bytes)
            self.assertEqual(cursor.stats().passes, 4)

    @with_guest
    def test_a_mark_during_a_paused_pass_is_late(self, guest, log, slot, vcpu):
        with log.cursor() as cursor:
            for how, late in (({}, 0), ({"paused": True}, 1)):
                with cursor.harvest(**how):
                    slot.mark(0, PAGE)
                    self.assertEqual(log.stats().late_marks, late)

    @with_guest
    def test_a_loop_that_is_left_commits_only_what_it_was_given(self, guest, log, slot, vcpu):
        with log.cursor(max_extent_bytes=PAGE) as cursor:
            with cursor.harvest(paused=True) as pass_:
                for extent in pass_.extents():
                    if extent.gpa == 2 * PAGE:
                        break
                pass_.end(commit=True)
            with cursor.harvest(paused=True) as pass_:
                self.assertEqual(pass_.pending_bytes, slot.bytes - 3 * PAGE)

    @with_guest
    def test_a_part_of_an_extent_can_be_acknowledged(self, guest, log, slot, vcpu):
        with log.cursor() as cursor:
            with cursor.harvest(paused=True) as pass_:
                (extent,) = pass_.extents()
                part = extent.part(PAGE, 2 * PAGE)
                self.assertEqual((part.gpa, part.bytes), (PAGE, 2 * PAGE))
                self.assertEqual(part.hva - extent.hva, PAGE)
                pass_.ack(part)
                with self.assertRaises(ValueError):
                    extent.part(0, extent.bytes + PAGE)
            with cursor.harvest(paused=True) as pass_:
                self.assertEqual([(e.gpa, e.bytes) for e in pass_.extents()],
                                 [(0, PAGE), (3 * PAGE, slot.bytes - 3 * PAGE)])

    @with_guest
    def test_marks_and_takes_agree(self, guest, log, slot, vcpu):
        memory = slot.memory
        with log.cursor(clean=True) as cursor:
            words = slot.words()
            # No vCPU has run; KVM itself may have written a page.
            self.assertLess(cursor.take(slot, words, harvest=True, paused=True), 4 * PAGE)
            del words[:]
            words += slot.words()
            log.mark_gpa(PAGE, 1)
            slot.mark(3 * PAGE, PAGE)
            log.mark_hva(memory[5 * PAGE:6 * PAGE])
            log.mark_iov([memory[8 * PAGE:9 * PAGE], memory[70 * PAGE:72 * PAGE]], 2 * PAGE,
                         PAGE // 2)
            taken = cursor.take(slot, memoryview(words), harvest=True, paused=True)
            self.assertEqual(list(dirtylog.bits(words)), [1, 3, 5, 8, 70, 71])
            self.assertEqual(taken, 6 * PAGE)
            slot.mark(9 * PAGE, PAGE)
            words = array.array("Q", bytes(slot.words()))
            self.assertEqual(cursor.take(0, words, no_clear=True, little_endian=True), PAGE)
            self.assertEqual(list(dirtylog.bits(words.tobytes())), [9])
            slot.clear()
            theirs = array.array("Q", [1 << 3 | 1 << 8, 0])
            self.assertEqual(log.mark_bitmap(theirs, 2 * PAGE, 64 * PAGE, PAGE // 2, take=True,
                                             little_endian=True), 2 * PAGE)
            self.assertEqual(list(theirs), [0, 0])
            marked = slot.words()
            self.assertEqual(cursor.take(slot, marked), 2 * PAGE)
            self.assertEqual(list(dirtylog.bits(marked)), [3, 6])
            with self.assertRaises(dirtylog.Error) as caught:
                log.mark_bitmap(theirs, PAGE, PAGE, 2 * PAGE)
            self.assertEqual(caught.exception.errno, errno.EINVAL)
            with self.assertRaises(dirtylog.Error) as caught:
                log.mark_gpa(slot.bytes, 1)
            self.assertEqual(caught.exception.errno, errno.ENOENT)
            self.assertEqual(log.stats().failed_marks, 1)
            with self.assertRaises(ValueError):
                cursor.take(slot, memoryview(words).cast("B")[1:])
            with self.assertRaises(TypeError):
                cursor.take(slot, words.tobytes())

    @with_guest
    def test_a_watch_finds_writes_and_an_audit_forgotten_marks(self, guest, log, slot, vcpu):
        if not log.config().has & dirtylog.Has.WATCH:
            self.skipTest("the kernel has no PAGEMAP_SCAN, or no userfaultfd")

        def write(page):
            alias[page * PAGE] = 1
            guest.vmm_wrote(alias, page * PAGE)

        fd = os.memfd_create("ram")
        os.ftruncate(fd, 64 * PAGE)
        with mmap.mmap(fd, 64 * PAGE) as memory, mmap.mmap(fd, 64 * PAGE) as alias:
            os.close(fd)
            with log.slot(5, memory, gpa=1 << 30) as ram:
                with self.assertRaises(ValueError):
                    ram.watch(guest.memory)
                with self.assertRaises(dirtylog.Error) as caught:
                    ram.watch(memory)
                self.assertEqual(caught.exception.errno, errno.EINVAL)
                ram.watch(alias, audit=True)
                with self.assertRaises(BufferError):
                    alias.close()
                with log.cursor(clean=True, one_slot=5) as cursor, \
                        log.cursor(missed=True) as audit:
                    write(3)
                    write(7)
                    ram.mark(3 * PAGE, 1)
                    with cursor.harvest() as pass_:
                        found = [extent.offset_bytes for extent in pass_.read()]
                        self.assertEqual(found, [3 * PAGE, 7 * PAGE])
                    with audit.harvest() as pass_:
                        missed = [extent.offset_bytes for extent in pass_.read()]
                        self.assertEqual(missed, [7 * PAGE])
                self.assertEqual(log.stats().watched_bytes, 2 * PAGE)
                self.assertEqual(log.stats().missed_bytes, PAGE)
                ram.watch(None)

    @with_guest
    def test_slots_move_and_leave_with_their_pages(self, guest, log, slot, vcpu):
        with mmap.mmap(-1, 16 * PAGE) as other, log.cursor(clean=True, one_slot=5) as cursor:
            with self.assertRaises(dirtylog.Error) as caught:
                cursor.harvest()
            self.assertEqual(caught.exception.errno, errno.ENOENT)
            display = log.slot(5, other, gpa=1 << 30, cookie=["vram"])
            self.assertEqual(display.cookie, ["vram"])
            display.set(gpa=1 << 31, cookie="moved", wanted=True)
            self.assertEqual((display.gpa, display.cookie), (1 << 31, "moved"))
            with self.assertRaises(dirtylog.Error) as caught:
                log.slot(6, guest.memory, gpa=1 << 31)
            self.assertEqual(caught.exception.errno, errno.EEXIST)
            with cursor.harvest(paused=True) as pass_:
                (extent,) = pass_.read()
                self.assertEqual((extent.gpa, extent.slot, extent.cookie), (1 << 31, 5, "moved"))
                self.assertFalse(extent.flags)
                words = display.words()
                display.remove(words, paused=True)
                self.assertEqual(list(dirtylog.bits(words)), list(range(16)))
            view = extent.memory
            with self.assertRaises(BufferError):
                other.close()  # the guest has let go of it; the view has not
            del view, extent
            with self.assertRaises(ValueError):
                display.remove()

    @with_guest
    def test_a_removed_slot_leaves_its_pages_in_words(self, guest, log, slot, vcpu):
        with mmap.mmap(-1, 16 * PAGE) as other, log.cursor(clean=True):
            for paused, pages in ((True, [5]), (False, list(range(16)))):
                with log.slot(1, other, gpa=1 << 30, clean=True, paused=True) as moved:
                    moved.mark(5 * PAGE, PAGE)
                    words = moved.words()
                    moved.remove(words, paused=paused)
                    self.assertEqual(list(dirtylog.bits(words)), pages)

    @with_guest
    def test_memory_cannot_be_closed_while_the_guest_has_it(self, guest, log, slot, vcpu):
        with self.assertRaises(BufferError):
            guest.memory.close()
        again = log.slot(1, dirtylog.Address(extent_address(slot), PAGE), gpa=1 << 30)
        self.assertEqual(again.memory[:16], slot.memory[:16])
        again.remove()

    @with_guest
    def test_numbers_that_do_not_fit_are_refused(self, guest, log, slot, vcpu):
        with log.cursor() as cursor:
            for call in (lambda: cursor.take(1 << 32, slot.words()),
                         lambda: slot.mark(-1, PAGE),
                         lambda: log.mark_gpa(0, 1 << 64),
                         lambda: log.cursor(one_slot=1 << 32),
                         lambda: log.cursor(coalesce_bytes=-1),
                         lambda: log.slot(-1, guest.memory, gpa=0)):
                self.assertRaises(ValueError, call)

    @with_guest
    def test_calls_after_close_are_refused(self, guest, log, slot, vcpu):
        cursor = log.cursor()
        pass_ = cursor.harvest()
        log.close()
        with self.assertRaises(dirtylog.Error) as caught:
            cursor.harvest()
        self.assertEqual(caught.exception.errno, errno.ECANCELED)
        pass_.end()
        vcpu.drain()
        cursor.close()
        cursor.close()
        for call in (cursor.harvest, cursor.stats, log.config, log.fileno, log.describe):
            self.assertRaises(ValueError, call)


async def reap_in_asyncio(log):
    loop = asyncio.get_running_loop()
    reaped = loop.create_future()

    def reap():
        again_ns = log.reap()
        if not reaped.done():
            reaped.set_result(again_ns)

    loop.add_reader(log, reap)
    again_ns = await asyncio.wait_for(reaped, 10)
    loop.remove_reader(log)
    return again_ns


def extent_address(slot):
    with slot._log.cursor() as cursor, cursor.harvest() as pass_:
        return pass_.read(1)[0].hva
