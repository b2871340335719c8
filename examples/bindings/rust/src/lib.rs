// SPDX-License-Identifier: MIT
//! Which guest pages changed since I last asked? libdirtylog for Rust.
//!
//! [`sys`] is the C interface as it is; everything else is a safe layer over it, without
//! dependencies. `dirtylog.h` says what each call does, which errors it has and which system calls
//! it makes; the comments here say what the types add.
//!
//! * [`Log`], [`Vcpu`] and [`Cursor`] are [`Send`] and [`Sync`]: the C library locks inside, and
//!   counts its handles. They may be dropped in any order, on any thread. Once the log is dropped,
//!   calls on the others fail with ECANCELED, but a vCPU can still be drained.
//! * A [`Pass`] borrows its cursor mutably, so a second pass cannot begin, and ends when it is
//!   dropped. Several threads may read it. What was read and not acknowledged is then pending
//!   again; only [`Pass::commit`] commits everything.
//! * An [`Extent`] borrows the pass. Its memory is written by the guest at any moment, so there is
//!   no `&[u8]` of it: [`Extent::copy_to`] copies it, [`Extent::pointer`] is for writev(2).
//! * [`Log::set_slot`] is unsafe, since it gives memory to a guest, which then writes to it. It is
//!   the one promise that the compiler cannot check; [`Log::remove_slot`] ends it.
//!
//! A pass of a live migration:
//!
//! ```
//! use dirtylog::{Cursor, Extent, HarvestFlags, Result};
//!
//! /// Sends what changed. Returns how much was pending: 0 at the end of the last passes.
//! fn pass(
//!     cursor: &mut Cursor,
//!     flags: HarvestFlags,
//!     send: &mut dyn FnMut(&[Extent<'_>]),
//!     flush: &mut dyn FnMut(),
//! ) -> Result<u64> {
//!     let pass = cursor.harvest(flags)?; // collects, and protects again
//!     let mut extents = Vec::with_capacity(64);
//!     while pass.read_into(&mut extents)? > 0 {
//!         send(&extents);
//!         pass.ack(&extents)?;
//!     }
//!     flush(); // between two passes, all channels
//!     Ok(pass.pending_bytes())
//! } // what was not acknowledged is pending again
//! ```
//!
//! An extent cannot outlive its pass:
//!
//! ```compile_fail,E0505
//! # use dirtylog::{Cursor, HarvestFlags, Result};
//! fn too_late(cursor: &mut Cursor) -> Result<u64> {
//!     let pass = cursor.harvest(HarvestFlags::NONE)?;
//!     let extent = pass.extents().next().unwrap()?;
//!     pass.commit()?;
//!     Ok(extent.bytes())
//! }
//! ```
//!
//! Nor can a second pass begin while one is open:
//!
//! ```compile_fail,E0499
//! # use dirtylog::{Cursor, HarvestFlags, Result};
//! fn twice(cursor: &mut Cursor) -> Result<()> {
//!     let one = cursor.harvest(HarvestFlags::NONE)?;
//!     let two = cursor.harvest(HarvestFlags::NONE)?;
//!     one.commit()?;
//!     two.commit()
//! }
//! ```

#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod cursor;
mod error;
mod flags;
mod log;
mod pass;
mod plan;
mod slot;
pub mod sys;
mod vcpu;

pub use cursor::{Cursor, CursorOptions};
pub use error::{Error, Result};
pub use flags::{
    has, Backup, BitmapFlags, CursorFlags, ExtentFlags, GoalFlags, HarvestFlags, Has, Mode,
    ReapFlags, RemoveFlags, SlotFlags, TakeFlags, WatchFlags,
};
pub use log::{library_version, probe, Bitmap, Log, Options, Os};
pub use pass::{Extent, Extents, Pass};
pub use plan::{Advice, Bound, Goal, Plan, Verdict};
pub use slot::Slot;
pub use sys::{
    dl_config as Config, dl_cursor_stats as CursorStats, dl_stats as Stats, iovec as IoVec,
};
pub use vcpu::Vcpu;
