# SPDX-License-Identifier: MIT
"""The thread of a guest's vCPU, for guest.py and model.py."""

import threading


class Worker:
    """A guest derives from it, and has enter(vcpu): runs the vCPU once, perhaps ends a round."""

    def __init__(self):
        self._thread = None
        self._rounds = 0
        self._moved = threading.Condition()
        self._stop = False
        self._failure = None

    def start(self, vcpu):
        """Runs the guest on a thread of its own. Argument: the log's vCPU."""
        self._stop = False
        self._thread = threading.Thread(target=self._run, args=[vcpu])
        self._thread.start()

    def stop(self):
        """Returns when the vCPU is outside of KVM_RUN."""
        if self._thread:
            self._stop = True
            self._thread.join()
            self._thread = None
        if self._failure:
            raise self._failure

    def write_some(self, rounds=3):
        """Returns when the running guest has written to that many times 37 more pages."""
        with self._moved:
            end = self._rounds + rounds
            self._moved.wait_for(lambda: self._rounds >= end or self._failure)

    def round_ended(self):
        with self._moved:
            self._rounds += 1
            self._moved.notify_all()

    def _run(self, vcpu):
        try:
            while not self._stop:
                self.enter(vcpu)
        except Exception as failure:
            with self._moved:
                self._failure = failure
                self._moved.notify_all()
