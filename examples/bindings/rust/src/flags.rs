// SPDX-License-Identifier: MIT
//! Choices and flags.

use crate::sys;

/// Declares a set of flags as a type of its own, so that no call takes another call's.
macro_rules! flags {
    ($($(#[$doc:meta])* $type:ident { $($(#[$flag_doc:meta])* $flag:ident = $value:expr;)* })*) => {
        $($(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $type(u32);

        impl $type {
            /// No flag.
            pub const NONE: Self = $type(0);
            $($(#[$flag_doc])*
            pub const $flag: Self = $type($value);)*

            /// The value that the C library takes or gives.
            pub fn bits(self) -> u32 {
                self.0
            }

            /// The flags of such a value, unknown ones included.
            pub fn from_bits(bits: u32) -> Self {
                $type(bits)
            }

            /// Whether all of the other's flags are in this one.
            pub fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl std::ops::BitOr for $type {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                $type(self.0 | other.0)
            }
        })*
    };
}

flags! {
    /// What the kernel offers; see [`has`].
    Has {
        /// KVM_CAP_DIRTY_LOG_RING
        RING_TSO = sys::DL_HAS_RING_TSO;
        /// KVM_CAP_DIRTY_LOG_RING_ACQ_REL
        RING_ACQ_REL = sys::DL_HAS_RING_ACQ_REL;
        /// KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
        BACKUP = sys::DL_HAS_BACKUP;
        /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
        MANUAL_PROTECT = sys::DL_HAS_MANUAL_PROTECT;
        /// Its KVM_DIRTY_LOG_INITIALLY_SET
        INITIALLY_SET = sys::DL_HAS_INITIALLY_SET;
        /// userfaultfd WP_ASYNC and PAGEMAP_SCAN: Linux 6.7.
        WATCH = sys::DL_HAS_WATCH;
    }

    /// Of a [`Slot`](crate::Slot). PAUSED, CLEAN and EXISTS act once and are no state.
    SlotFlags {
        /// No vCPU is in KVM_RUN: CLEAN holds where a new bitmap begins all set, too.
        PAUSED = sys::DL_SLOT_PAUSED;
        /// New or newly WANTED: every receiver already has its contents.
        CLEAN = sys::DL_SLOT_CLEAN;
        /// The caller created it in KVM, unlogged. Excludes CLEAN.
        EXISTS = sys::DL_SLOT_EXISTS;
        /// KVM cannot log it: guest_memfd, device memory.
        NO_LOG = sys::DL_SLOT_NO_LOG;
        /// Cursors with [`CursorFlags::WANTED`] log it; may change at any time.
        WANTED = sys::DL_SLOT_WANTED;
    }

    /// Of [`Log::remove_slot`](crate::Log::remove_slot).
    RemoveFlags {
        /// No vCPU is in KVM_RUN: the words get what is dirty. Without it, all of the slot.
        PAUSED = sys::DL_REMOVE_PAUSED;
    }

    /// Of [`Log::watch_slot`](crate::Log::watch_slot).
    WatchFlags {
        /// Count what was never marked, and show it to [`CursorFlags::MISSED`].
        AUDIT = sys::DL_WATCH_AUDIT;
    }

    /// Of [`Cursor::harvest`](crate::Cursor::harvest).
    HarvestFlags {
        /// No vCPU is in KVM_RUN, and I/O and device state are complete too.
        PAUSED = sys::DL_HARVEST_PAUSED;
        /// First make everything pending: a full copy.
        ALL = sys::DL_HARVEST_ALL;
    }

    /// Of [`Log::reap`](crate::Log::reap).
    ReapFlags {
        /// Every ring, not only those about to fill.
        NOW = sys::DL_REAP_NOW;
    }

    /// Of [`CursorOptions`](crate::CursorOptions).
    CursorFlags {
        /// Start with nothing pending. Without it, with everything.
        CLEAN = sys::DL_CURSOR_CLEAN;
        /// Only slots that are [`SlotFlags::WANTED`].
        WANTED = sys::DL_CURSOR_WANTED;
        /// Only the slot of that number, whenever it exists: a display.
        ONE_SLOT = sys::DL_CURSOR_ONE_SLOT;
        /// An audit: only what a watch found and no mark named.
        MISSED = sys::DL_CURSOR_MISSED;
        /// The first pass leaves what is written again to the next.
        SKIP_REWRITTEN = sys::DL_CURSOR_SKIP_REWRITTEN;
    }

    /// Of [`Cursor::take`](crate::Cursor::take).
    TakeFlags {
        /// With HARVEST: as [`HarvestFlags::PAUSED`].
        PAUSED = sys::DL_TAKE_PAUSED;
        /// Harvest first: KVM_GET_DIRTY_LOG, on every kernel.
        HARVEST = sys::DL_TAKE_HARVEST;
        /// Leave it writable: [`Log::clear_slot`](crate::Log::clear_slot) before reading contents.
        NO_CLEAR = sys::DL_TAKE_NO_CLEAR;
        /// Little-endian words, as KVM's. Without it, the host's order.
        LE = sys::DL_TAKE_LE;
    }

    /// Of a [`Bitmap`](crate::Bitmap).
    BitmapFlags {
        /// The writer is live: bits that cursors get are taken from the words.
        TAKE = sys::DL_BITMAP_TAKE;
        /// Little-endian words, as vhost-user's. Without it, the host's order.
        LE = sys::DL_BITMAP_LE;
    }

    /// Of a [`Goal`](crate::Goal).
    GoalFlags {
        /// Set no limits, only advise.
        ADVISE = sys::DL_GOAL_ADVISE;
    }

    /// Of an [`Extent`](crate::Extent).
    ExtentFlags {
        /// It contains clean pages, since the cursor joins extents over gaps.
        PADDED = sys::DL_EXTENT_PADDED;
    }
}

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// The best that is safe here: ring, else bitmap.
    #[default]
    Auto = sys::DL_MODE_AUTO,
    /// Rings, or fail.
    Ring = sys::DL_MODE_RING,
    /// No rings; better where logging stays on and passes are rare.
    Bitmap = sys::DL_MODE_BITMAP,
}

/// What is done about writers inside the kernel that are no vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Backup {
    /// Use the backup bitmap wherever the kernel has it.
    #[default]
    Auto = sys::DL_BACKUP_AUTO,
    /// No such writer exists; vCPU writes are never lost by it.
    Off = sys::DL_BACKUP_OFF,
    /// One exists (an ITS): no rings without the bitmap.
    Required = sys::DL_BACKUP_REQUIRED,
}

/// The flags of `Config.has`.
pub fn has(config: &sys::dl_config) -> Has {
    Has::from_bits(config.has)
}
