// SPDX-License-Identifier: MIT
//! Cursors: the consumers of a log.

use crate::error::Result;
use crate::flags::{CursorFlags, HarvestFlags, TakeFlags};
use crate::log::Shared;
use crate::pass::Pass;
use crate::sys;
use std::fmt;
use std::os::raw::c_int;
use std::ptr::NonNull;
use std::sync::Arc;

/// The errno value EBUSY, on every architecture of Linux.
const EBUSY: c_int = 16;

/// What a cursor covers. The default: all slots, all pending.
#[derive(Clone, Copy, Debug, Default)]
pub struct CursorOptions {
    /// What it begins with, and which slots it has.
    pub flags: CursorFlags,
    /// vCPUs of the VM now: fewer that were added are EBUSY; 0: not given.
    pub vcpus: u32,
    /// For [`CursorFlags::ONE_SLOT`].
    pub slot: u32,
    /// Join extents over clean gaps up to this; 0: never.
    pub coalesce_bytes: u64,
    /// Of one extent, rounded down to pages; 0: no limit.
    pub max_extent_bytes: u64,
}

impl CursorOptions {
    pub(crate) fn raw(&self) -> sys::dl_cursor_options {
        sys::dl_cursor_options {
            flags: self.flags.bits(),
            vcpus: self.vcpus,
            slot: self.slot,
            coalesce_bytes: self.coalesce_bytes,
            max_extent_bytes: self.max_extent_bytes,
            ..sys::dl_cursor_options::sized()
        }
    }
}

/// One consumer: what changed since it last committed. Dropping it ends logging that no other
/// cursor wants.
pub struct Cursor {
    raw: NonNull<sys::dl_cursor>,
    log: Arc<Shared>,
}

// SAFETY: "Any call, any thread, also on the same handle" (dirtylog.h). The last call is made by
// Drop, which has the handle for itself.
unsafe impl Send for Cursor {}
unsafe impl Sync for Cursor {}

impl Cursor {
    pub(crate) fn new(raw: NonNull<sys::dl_cursor>, log: Arc<Shared>) -> Self {
        Cursor { raw, log }
    }

    pub(crate) fn raw(&self) -> *mut sys::dl_cursor {
        self.raw.as_ptr()
    }

    pub(crate) fn log(&self) -> &Arc<Shared> {
        &self.log
    }

    pub(crate) fn check(&self, r: c_int) -> Result<u32> {
        self.log.check(r)
    }

    /// Begins a pass: collects what was dirtied, and protects it again.
    ///
    /// EBUSY is impossible: a pass borrows the cursor, and one that was leaked (by
    /// [`std::mem::forget`]) is ended here, uncommitted.
    pub fn harvest(&mut self, flags: HarvestFlags) -> Result<Pass<'_>> {
        let mut pending_bytes = 0;
        // SAFETY: Here and below, the handle is alive as long as self is, and what is passed beside
        // it during the call.
        let mut r = unsafe { sys::dl_harvest(self.raw(), flags.bits(), &mut pending_bytes) };
        if r == -EBUSY {
            // SAFETY: As above.
            r = unsafe {
                sys::dl_cursor_end(self.raw(), 0);
                sys::dl_harvest(self.raw(), flags.bits(), &mut pending_bytes)
            };
        }
        self.check(r)?;
        Ok(Pass::new(self, pending_bytes))
    }

    /// Ors a slot's pending pages into `words`, a bit a page, and commits them: in a pass or
    /// outside. Returns how many bytes of memory they are.
    ///
    /// After an error, what is in `words` is the caller's, and the rest is pending: call again.
    pub fn take(&self, slot: u32, flags: TakeFlags, words: &mut [u64]) -> Result<u64> {
        let mut taken_bytes = 0;
        // SAFETY: As in harvest().
        let r = unsafe {
            sys::dl_cursor_take(
                self.raw(),
                slot,
                flags.bits(),
                words.as_mut_ptr(),
                words.len() as u64,
                &mut taken_bytes,
            )
        };
        self.check(r).map(|_| taken_bytes)
    }

    /// This cursor's counters.
    pub fn stats(&self) -> Result<sys::dl_cursor_stats> {
        let mut stats = sys::dl_cursor_stats::sized();
        // SAFETY: As in harvest().
        let r = unsafe { sys::dl_cursor_stats(self.raw(), &mut stats) };
        self.check(r).map(|_| stats)
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        // SAFETY: This is the last call on the handle.
        unsafe { sys::dl_cursor_free(self.raw()) }
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").finish_non_exhaustive()
    }
}
