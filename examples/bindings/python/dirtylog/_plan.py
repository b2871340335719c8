# SPDX-License-Identifier: MIT
"""Plans: migrations that end."""

from __future__ import annotations

import ctypes
from collections import namedtuple

from ._abi import Bound, GoalFlag, Verdict, dl_advice, dl_goal, fill
from ._handle import Handle, Owner, flags, lib

Advice = namedtuple(
    "Advice", [name for name, _ in dl_advice._fields_ if name not in ("size", "reserved")])


def _known(enum, value):
    # A newer library may have values of which this binding knows the number only.
    return enum(value) if value in set(enum) else value


class Plan(Owner):
    """Controls the vCPUs so that a cursor's memory can be sent within a goal; Cursor.plan() makes
    it. A context manager: leaving it lifts the limits (dl_plan_free).
    """

    def __init__(self, cursor, *, downtime_ns=0, fixed_ns=0, total_ns=0, longest_pause_ns=0,
                 least_run_ppm=0, advise=False):
        self._cursor = cursor
        goal = fill(dl_goal(), flags=flags((GoalFlag.ADVISE, advise)), downtime_ns=downtime_ns,
                    fixed_ns=fixed_ns, total_ns=total_ns, longest_pause_ns=longest_pause_ns,
                    least_run_ppm=least_run_ppm)
        pointer = ctypes.c_void_p()
        cursor._call(lib.dl_plan_new, goal, pointer)
        self._handle = Handle(pointer.value, lib.dl_plan_free)

    def _why(self):
        return self._cursor._why()

    def sent(self, bytes: int, busy_ns: int) -> None:
        """Reports that the wire, busy for busy_ns, took bytes of guest memory (dl_plan_sent).

        Pages that are sent as "zero" do not count.
        """
        self._call(lib.dl_plan_sent, bytes, busy_ns)

    def next(self, unsent_bytes: int = 0) -> Advice:
        """Sets the vCPUs' limits, and advises (dl_plan_next). Call Log.kicks() afterwards.

        unsent_bytes  taken by the caller, and not sent yet
        """
        raw = fill(dl_advice())
        self._call(lib.dl_plan_next, unsent_bytes, raw)
        advice = Advice(*(getattr(raw, name) for name in Advice._fields))
        return advice._replace(verdict=_known(Verdict, advice.verdict),
                               bound_by=_known(Bound, advice.bound_by))
