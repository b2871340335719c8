// SPDX-License-Identifier: MIT
//! Plans: migrations that end.

use crate::cursor::Cursor;
use crate::error::Result;
use crate::flags::GoalFlags;
use crate::log::Shared;
use crate::sys;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

/// What a plan is to reach. The default: 300 ms of downtime, no budget.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal {
    /// Whether vCPUs are limited.
    pub flags: GoalFlags,
    /// Longest pause of the guest at the switch; zero: 300 ms.
    pub downtime: Duration,
    /// Of it, what is not memory: device state, the switch.
    pub fixed: Duration,
    /// Budget from now to the end of the switch; zero: none.
    pub total: Duration,
    /// Of one vCPU at a time; zero: the downtime.
    pub longest_pause: Duration,
    /// Floor of a vCPU's running time; 0: 10,000, 1%.
    pub least_run_ppm: u32,
}

/// What a plan says of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Send what is pending, ask again. An unknown verdict, too.
    Continue,
    /// What is pending fits the downtime: pause now.
    Switchover,
    /// As Continue, with vCPUs limited.
    Throttled,
    /// As Throttled, past the budget.
    Late,
    /// Does not converge at the floor: give up or go post-copy.
    Diverging,
}

/// What keeps a migration from its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// Nothing, or something unknown.
    None,
    /// The backlog does not shrink by itself.
    Stall,
    /// The budget.
    Deadline,
    /// [`Goal::least_run_ppm`].
    Floor,
    /// [`Goal::longest_pause`].
    Pause,
    /// A vCPU that is to pause does not ask [`Vcpu::pause_due`](crate::Vcpu::pause_due).
    Ignored,
}

/// The figures, as the C library gives them.
#[derive(Clone, Copy, Debug)]
pub struct Advice(sys::dl_advice);

impl Advice {
    /// What to do.
    pub fn verdict(&self) -> Verdict {
        match self.0.verdict {
            sys::DL_VERDICT_SWITCHOVER => Verdict::Switchover,
            sys::DL_VERDICT_THROTTLED => Verdict::Throttled,
            sys::DL_VERDICT_LATE => Verdict::Late,
            sys::DL_VERDICT_DIVERGING => Verdict::Diverging,
            _ => Verdict::Continue,
        }
    }

    /// What keeps the migration from its goal.
    pub fn bound_by(&self) -> Bound {
        match self.0.bound_by {
            sys::DL_BOUND_STALL => Bound::Stall,
            sys::DL_BOUND_DEADLINE => Bound::Deadline,
            sys::DL_BOUND_FLOOR => Bound::Floor,
            sys::DL_BOUND_PAUSE => Bound::Pause,
            sys::DL_BOUND_IGNORED => Bound::Ignored,
            _ => Bound::None,
        }
    }

    /// Until the switch; None: never.
    pub fn remaining(&self) -> Option<Duration> {
        match self.0.remaining_ns {
            u64::MAX => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }

    /// Ask again after this; limits lapse at ten times it.
    pub fn again(&self) -> Duration {
        Duration::from_nanos(self.0.again_ns)
    }

    /// All of it.
    pub fn raw(&self) -> &sys::dl_advice {
        &self.0
    }
}

/// Controls the vCPUs so that a cursor's memory can be sent within a goal. Dropping it lifts its
/// limits.
pub struct Plan {
    raw: NonNull<sys::dl_plan>,
    log: Arc<Shared>,
}

// SAFETY: "Any call, any thread, also on the same handle" (dirtylog.h). The last call is made by
// Drop, which has the handle for itself.
unsafe impl Send for Plan {}
unsafe impl Sync for Plan {}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Plan {
    /// Starts to control the vCPUs for the cursor. EBUSY: the log has a plan.
    pub fn new(cursor: &Cursor, goal: &Goal) -> Result<Plan> {
        let goal = sys::dl_goal {
            flags: goal.flags.bits(),
            downtime_ns: nanoseconds(goal.downtime),
            fixed_ns: nanoseconds(goal.fixed),
            total_ns: nanoseconds(goal.total),
            longest_pause_ns: nanoseconds(goal.longest_pause),
            least_run_ppm: goal.least_run_ppm,
            ..sys::dl_goal::sized()
        };
        let mut raw = ptr::null_mut();
        // SAFETY: The cursor is alive, and what is passed beside it during the call.
        let r = unsafe { sys::dl_plan_new(cursor.raw(), &goal, &mut raw) };
        cursor.check(r)?;
        Ok(Plan {
            raw: NonNull::new(raw).expect("dl_plan_new() gives a handle"),
            log: cursor.log().clone(),
        })
    }

    /// Reports that the wire, busy for that long, took bytes of guest memory. Pages that are sent as
    /// "zero" do not count.
    pub fn sent(&self, bytes: u64, busy: Duration) -> Result<()> {
        // SAFETY: The handle is alive as long as self is.
        let r = unsafe { sys::dl_plan_sent(self.raw.as_ptr(), bytes, nanoseconds(busy)) };
        self.log.check(r).map(drop)
    }

    /// Sets the vCPUs' limits, and advises. `unsent_bytes`: taken by the caller, and not sent yet.
    /// Kick whom [`Log::kicks`](crate::Log::kicks) names afterwards.
    pub fn next(&self, unsent_bytes: u64) -> Result<Advice> {
        let mut advice = sys::dl_advice::sized();
        // SAFETY: As in sent(); advice is written during the call only.
        let r = unsafe { sys::dl_plan_next(self.raw.as_ptr(), unsent_bytes, &mut advice) };
        self.log.check(r).map(|_| Advice(advice))
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: This is the last call on the handle.
        unsafe { sys::dl_plan_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").finish_non_exhaustive()
    }
}
