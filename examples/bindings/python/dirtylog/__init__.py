# SPDX-License-Identifier: MIT
"""Which guest pages changed since I last asked? A binding of libdirtylog.

Log is the dirty log of one VM. Slots and vCPUs are its sources, cursors its consumers:

    with dirtylog.Log(vm_fd) as log, log.slot(0, memory, gpa=0), log.vcpu(vcpu_fd):
        with log.cursor() as cursor, cursor.harvest() as pass_:
            for extent in pass_.extents():
                send(extent.gpa, extent.memory)
                pass_.ack(extent)

A cursor sees every write that is made after it was made: a page that is written after its contents
were read is handed out again. The conditions are THE PROMISE of dirtylog.h, which is the reference
for each call as well. Any call may be made on any thread.

libdirtylog.so.0 is loaded; the environment variable DIRTYLOG_LIBRARY names another file.
"""

__version__ = "0.2.0"

from ._abi import Backup, Bound, ExtentFlag, Has, Mode, Verdict
from ._cursor import Cursor, CursorStats, Extent, Pass
from ._handle import Error
from ._log import Config, Log, Probe, Stats, Vcpu, library_version, probe
from ._memory import Address, bits
from ._plan import Advice, Plan
from ._slot import Slot

__all__ = [
    "Address", "Advice", "Backup", "Bound", "Config", "Cursor", "CursorStats", "Error", "Extent",
    "ExtentFlag", "Has", "Log", "Mode", "Pass", "Plan", "Probe", "Slot", "Stats", "Vcpu", "Verdict",
    "bits", "library_version", "probe",
]
