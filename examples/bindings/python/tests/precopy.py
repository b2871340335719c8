# SPDX-License-Identifier: MIT
"""A pre-copy of a guest that writes all the while, and the proof that the copy is equal."""

LIVE_PASSES = 4


class Receiver:
    """A copy of the memory, by guest address. It may be told to lose an extent when paused."""

    def __init__(self, memory_bytes, lose=False):
        self.memory = bytearray(memory_bytes)
        self.received = 0
        self.lost = None
        self._lose = lose

    def receive(self, extent, paused):
        place = slice(extent.gpa, extent.gpa + extent.bytes)
        if paused and self._lose and not self.lost:
            self.lost = place
            return
        self.memory[place] = extent.memory
        self.received += 1


def copy_pass(cursor, receiver, **how):
    """Copies what one pass hands out. Returns what was pending."""
    with cursor.harvest(**how) as pass_:
        for extent in pass_.extents():
            receiver.receive(extent, "paused" in how)
            pass_.ack(extent)
        return pass_.pending_bytes


def migrate(guest, cursor, vcpu, receiver):
    """Copies while the guest runs, then stops it and copies until nothing is pending."""
    guest.start(vcpu)
    copy_pass(cursor, receiver, all=True)
    for _ in range(LIVE_PASSES):
        guest.write_some()
        copy_pass(cursor, receiver)
    guest.write_some()
    guest.stop()
    while copy_pass(cursor, receiver, paused=True):
        pass


def prove(test, guest, log, vcpu):
    """Migrates twice: the first copy is equal, the second lacks an extent and is not."""
    with log.cursor(vcpus=1) as cursor:
        receiver = Receiver(len(guest.memory))
        migrate(guest, cursor, vcpu, receiver)
        test.assertGreater(receiver.received, LIVE_PASSES)
        test.assertTrue(receiver.memory == guest.memory[:], "the copy is not equal")
        test.assertEqual(cursor.stats().pending_bytes, 0)

        broken = Receiver(len(guest.memory), lose=True)
        migrate(guest, cursor, vcpu, broken)
        test.assertIsNotNone(broken.lost, "nothing was lost, so this shows nothing")
        test.assertFalse(broken.memory == guest.memory[:], "the proof misses a lost extent")
        broken.memory[broken.lost] = guest.memory[broken.lost]
        test.assertTrue(broken.memory == guest.memory[:], "more than the lost extent is missing")
