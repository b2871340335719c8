// SPDX-License-Identifier: MIT
//! vCPUs: the sources of a log.

use crate::error::Result;
use crate::log::Shared;
use crate::sys;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A registered vCPU. Dropping it releases the registration: the vCPU must not be running.
///
/// Its ring stays: KVM cannot delete a vCPU, so the log goes on harvesting what it wrote.
pub struct Vcpu {
    raw: NonNull<sys::dl_vcpu>,
    log: Arc<Shared>,
}

// SAFETY: "Any call, any thread, also on the same handle" (dirtylog.h). The last call is made by
// Drop, which has the handle for itself.
unsafe impl Send for Vcpu {}
unsafe impl Sync for Vcpu {}

impl Vcpu {
    pub(crate) fn new(raw: NonNull<sys::dl_vcpu>, log: Arc<Shared>) -> Self {
        Vcpu { raw, log }
    }

    /// Empties the ring after KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL, before it is entered
    /// again. Each time: after an overflow the same exit may come several times.
    ///
    /// The vCPU must not be in KVM_RUN; its own thread is the one that knows.
    pub fn drain(&self) -> Result<()> {
        // SAFETY: The handle is alive as long as self is.
        let r = unsafe { sys::dl_vcpu_drain(self.raw.as_ptr(), 0) };
        self.log.check(r).map(drop)
    }

    /// Limits how fast the vCPU dirties new memory; 0: no limit. EOPNOTSUPP in bitmap mode.
    pub fn limit(&self, bytes_per_s: u64) -> Result<()> {
        // SAFETY: As in drain().
        let r = unsafe { sys::dl_vcpu_limit(self.raw.as_ptr(), bytes_per_s) };
        self.log.check(r).map(drop)
    }

    /// How long this vCPU must stay out of KVM_RUN; zero: enter. For the thread that runs the vCPU:
    /// its CPU time is how long the guest ran.
    pub fn pause_due(&self) -> Result<Duration> {
        let mut pause_ns = 0;
        // SAFETY: As in drain(); pause_ns is written during the call only.
        let r = unsafe { sys::dl_vcpu_pause_due(self.raw.as_ptr(), &mut pause_ns) };
        self.log.check(r).map(|_| Duration::from_nanos(pause_ns))
    }

    /// This vCPU's counters; all 0 in bitmap mode.
    pub fn stats(&self) -> Result<sys::dl_stats> {
        let mut stats = sys::dl_stats::sized();
        // SAFETY: As in drain(); stats is written during the call only.
        let r = unsafe { sys::dl_vcpu_stats(self.raw.as_ptr(), &mut stats) };
        self.log.check(r).map(|_| stats)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        // SAFETY: This is the last call on the handle.
        unsafe { sys::dl_vcpu_remove(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Vcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").finish_non_exhaustive()
    }
}
