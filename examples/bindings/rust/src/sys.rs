// SPDX-License-Identifier: MIT
//! The C interface, as `dirtylog.h` declares it. The header is its documentation.
//!
//! `tests/layout.rs` compares every struct, constant and name here with the header.

#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_int, c_void};

/// Declares constants with the values of the header's enums.
macro_rules! constants {
    ($($name:ident = $value:expr;)*) => {
        $(#[doc = concat!("`", stringify!($name), "` of the header.")]
        pub const $name: u32 = $value;)*
        /// Every constant of this module, by its name in the header.
        pub const CONSTANTS: &[(&str, u32)] = &[$((stringify!($name), $name)),*];
    };
}

constants! {
    DL_MODE_AUTO = 0;
    DL_MODE_RING = 1;
    DL_MODE_BITMAP = 2;
    DL_BACKUP_AUTO = 0;
    DL_BACKUP_OFF = 1;
    DL_BACKUP_REQUIRED = 2;
    DL_HAS_RING_TSO = 1;
    DL_HAS_RING_ACQ_REL = 2;
    DL_HAS_BACKUP = 4;
    DL_HAS_MANUAL_PROTECT = 8;
    DL_HAS_INITIALLY_SET = 16;
    DL_HAS_WATCH = 32;
    DL_SLOT_PAUSED = 1;
    DL_SLOT_CLEAN = 2;
    DL_SLOT_EXISTS = 4;
    DL_SLOT_NO_LOG = 8;
    DL_SLOT_WANTED = 16;
    DL_REMOVE_PAUSED = 1;
    DL_HARVEST_PAUSED = 1;
    DL_HARVEST_ALL = 2;
    DL_REAP_NOW = 2;
    DL_CURSOR_CLEAN = 2;
    DL_CURSOR_WANTED = 4;
    DL_CURSOR_ONE_SLOT = 8;
    DL_CURSOR_MISSED = 16;
    DL_CURSOR_SKIP_REWRITTEN = 32;
    DL_END_COMMIT = 2;
    DL_TAKE_PAUSED = 1;
    DL_TAKE_HARVEST = 2;
    DL_TAKE_NO_CLEAR = 4;
    DL_TAKE_LE = 8;
    DL_EXTENT_PADDED = 1;
    DL_BITMAP_TAKE = 2;
    DL_BITMAP_LE = 4;
    DL_WATCH_AUDIT = 2;
    DL_GOAL_ADVISE = 2;
    DL_VERDICT_CONTINUE = 0;
    DL_VERDICT_SWITCHOVER = 1;
    DL_VERDICT_THROTTLED = 2;
    DL_VERDICT_LATE = 3;
    DL_VERDICT_DIVERGING = 4;
    DL_BOUND_NONE = 0;
    DL_BOUND_STALL = 1;
    DL_BOUND_DEADLINE = 2;
    DL_BOUND_FLOOR = 3;
    DL_BOUND_PAUSE = 4;
    DL_BOUND_IGNORED = 5;
    DL_VERSION_MAJOR = 0;
    DL_VERSION_MINOR = 2;
    DL_VERSION_PATCH = 0;
}

/// One struct of the header: its name, its size, and the offset of each field.
pub type Layout = (&'static str, usize, Vec<(&'static str, usize)>);

/// Declares structs as the header does, and a function that tells their layout.
macro_rules! structs {
    ($($(#[$doc:meta])* struct $name:ident { $($field:ident: $type:ty,)* })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct $name { $(#[doc = concat!("`", stringify!($field), "` of the header.")]
            pub $field: $type,)* }

        impl $name {
            /// All fields 0, except `size`, which is the struct's.
            pub fn sized() -> Self {
                // SAFETY: Integers and pointers may be 0.
                let mut it: Self = unsafe { std::mem::zeroed() };
                it.set_size();
                it
            }
        })*

        /// The layout of every struct of this module.
        pub fn layouts() -> Vec<Layout> {
            vec![$({
                let it = $name::sized();
                let base = &it as *const $name as usize;
                let fields = vec![$((stringify!($field),
                    &it.$field as *const $type as usize - base)),*];
                (stringify!($name), std::mem::size_of::<$name>(), fields)
            }),*]
        }
    };
}

/// Sets `size`, where a struct has it.
macro_rules! versioned {
    ($($name:ident)*) => {
        $(impl $name {
            fn set_size(&mut self) {
                self.size = std::mem::size_of::<Self>() as u32;
            }
        })*
    };
}

versioned! {
    dl_options dl_config dl_slot dl_bitmap dl_cursor_options dl_cursor_stats dl_stats dl_goal
    dl_advice
}

impl dl_extent {
    fn set_size(&mut self) {}
}

structs! {
    /// For `dl_log_open()` and `dl_probe()`.
    struct dl_options {
        size: u32,
        flags: u32,
        mode: u32,
        backup: u32,
        ring_entries: u32,
        reserved: u32,
        idle_ns: u64,
        os: *const dl_os,
    }

    /// What the kernel offers; what is, or would be, in use.
    struct dl_config {
        size: u32,
        has: u32,
        mode: u32,
        backup: u32,
        ring_entries: u32,
        ring_max_entries: u32,
        page_bytes: u32,
        reserved: u32,
    }

    /// A memslot.
    struct dl_slot {
        size: u32,
        flags: u32,
        slot: u32,
        kvm_flags: u32,
        gpa: u64,
        bytes: u64,
        hva: u64,
        cookie: u64,
    }

    /// Adjacent dirty pages of one slot.
    struct dl_extent {
        gpa: u64,
        hva: u64,
        offset_bytes: u64,
        bytes: u64,
        cookie: u64,
        ticket: u64,
        slot: u32,
        flags: u32,
        reserved: u64,
    }

    /// For `dl_cursor_new()`.
    struct dl_cursor_options {
        size: u32,
        flags: u32,
        vcpus: u32,
        slot: u32,
        coalesce_bytes: u64,
        max_extent_bytes: u64,
    }

    /// A foreign dirty log, for `dl_mark_bitmap()`.
    struct dl_bitmap {
        size: u32,
        flags: u32,
        as_id: u32,
        reserved: u32,
        gpa: u64,
        bytes: u64,
        page_bytes: u64,
    }

    /// One cursor's counters.
    struct dl_cursor_stats {
        size: u32,
        reserved: u32,
        pending_bytes: u64,
        unacked_bytes: u64,
        read_bytes: u64,
        acked_bytes: u64,
        passes: u64,
    }

    /// A log's or a vCPU's counters.
    struct dl_stats {
        size: u32,
        limited_vcpus: u32,
        entries: u64,
        new_pages: u64,
        duplicates: u64,
        stale_entries: u64,
        resets: u64,
        short_resets: u64,
        overflows: u64,
        repairs: u64,
        full_exits: u64,
        high_water_entries: u64,
        ioctl_ns: u64,
        dirty_bytes_per_s: u64,
        paused_ns: u64,
        watched_bytes: u64,
        missed_bytes: u64,
        late_marks: u64,
        repair_bytes: u64,
        failed_marks: u64,
        written_bytes_per_s: u64,
    }

    /// For `dl_plan_new()`.
    struct dl_goal {
        size: u32,
        flags: u32,
        downtime_ns: u64,
        fixed_ns: u64,
        total_ns: u64,
        longest_pause_ns: u64,
        least_run_ppm: u32,
        reserved: u32,
    }

    /// What `dl_plan_next()` says.
    struct dl_advice {
        size: u32,
        verdict: u32,
        pending_bytes: u64,
        dirty_bytes_per_s: u64,
        written_bytes_per_s: u64,
        wire_bytes_per_s: u64,
        downtime_ns: u64,
        remaining_ns: u64,
        again_ns: u64,
        least_pending_bytes: u64,
        run_ppm: u32,
        limited_vcpus: u32,
        bound_by: u32,
        reserved: u32,
    }
}

/// Declares handles: types that only pointers of exist.
macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])*
        #[repr(C)]
        pub struct $name {
            _opaque: [u8; 0],
        })*
    };
}

handles! {
    /// The dirty log of one VM.
    dl_log;
    /// One vCPU of it.
    dl_vcpu;
    /// One consumer.
    dl_cursor;
    /// Convergence control of one cursor.
    dl_plan;
    /// The table of system calls of `dirtylog/os.h`.
    dl_os;
}

/// One vector of a scattered buffer, as in `<sys/uio.h>`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct iovec {
    /// Where it begins.
    pub iov_base: *mut c_void,
    /// Its bytes.
    pub iov_len: usize,
}

#[allow(missing_docs)] // the header has them
#[link(name = "dirtylog")]
extern "C" {
    pub fn dl_library_version() -> u32;
    pub fn dl_probe(
        fd: c_int,
        options: *const dl_options,
        would_be: *mut dl_config,
        why: *mut c_char,
        why_bytes: usize,
    ) -> c_int;
    pub fn dl_log_open(
        vm_fd: c_int,
        options: *const dl_options,
        log: *mut *mut dl_log,
        why: *mut c_char,
        why_bytes: usize,
    ) -> c_int;
    pub fn dl_log_close(log: *mut dl_log);
    pub fn dl_log_config(log: *const dl_log, is: *mut dl_config) -> c_int;
    pub fn dl_log_stats(log: *const dl_log, stats: *mut dl_stats) -> c_int;
    pub fn dl_log_describe(log: *const dl_log, text: *mut c_char, text_bytes: usize) -> c_int;
    pub fn dl_log_last_error(log: *const dl_log, text: *mut c_char, text_bytes: usize) -> c_int;
    pub fn dl_slot_set(log: *mut dl_log, slot: *const dl_slot) -> c_int;
    pub fn dl_slot_remove(
        log: *mut dl_log,
        slot: u32,
        flags: u32,
        words: *mut u64,
        n_words: u64,
    ) -> c_int;
    pub fn dl_slot_watch(log: *mut dl_log, slot: u32, alias: *mut c_void, flags: u32) -> c_int;
    pub fn dl_slot_clear(log: *mut dl_log, slot: u32, offset_bytes: u64, bytes: u64) -> c_int;
    pub fn dl_vcpu_add(
        log: *mut dl_log,
        vcpu_fd: c_int,
        cookie: u64,
        flags: u32,
        vcpu: *mut *mut dl_vcpu,
    ) -> c_int;
    pub fn dl_vcpu_drain(vcpu: *mut dl_vcpu, flags: u32) -> c_int;
    pub fn dl_vcpu_stats(vcpu: *const dl_vcpu, stats: *mut dl_stats) -> c_int;
    pub fn dl_vcpu_limit(vcpu: *mut dl_vcpu, bytes_per_s: u64) -> c_int;
    pub fn dl_vcpu_pause_due(vcpu: *mut dl_vcpu, pause_ns: *mut u64) -> c_int;
    pub fn dl_vcpu_remove(vcpu: *mut dl_vcpu);
    pub fn dl_log_fd(log: *mut dl_log) -> c_int;
    pub fn dl_log_reap(log: *mut dl_log, flags: u32, again_ns: *mut u64) -> c_int;
    pub fn dl_log_kicks(log: *mut dl_log, cookies: *mut u64, max_cookies: u32) -> c_int;
    pub fn dl_cursor_new(
        log: *mut dl_log,
        options: *const dl_cursor_options,
        cursor: *mut *mut dl_cursor,
    ) -> c_int;
    pub fn dl_harvest(cursor: *mut dl_cursor, flags: u32, pending_bytes: *mut u64) -> c_int;
    pub fn dl_cursor_read(
        cursor: *mut dl_cursor,
        extents: *mut dl_extent,
        max_extents: u32,
    ) -> c_int;
    pub fn dl_cursor_ack(
        cursor: *mut dl_cursor,
        extents: *const dl_extent,
        n_extents: u32,
    ) -> c_int;
    pub fn dl_cursor_end(cursor: *mut dl_cursor, flags: u32) -> c_int;
    pub fn dl_cursor_take(
        cursor: *mut dl_cursor,
        slot: u32,
        flags: u32,
        words: *mut u64,
        n_words: u64,
        taken_bytes: *mut u64,
    ) -> c_int;
    pub fn dl_cursor_stats(cursor: *const dl_cursor, stats: *mut dl_cursor_stats) -> c_int;
    pub fn dl_cursor_free(cursor: *mut dl_cursor);
    pub fn dl_mark_gpa(log: *mut dl_log, as_id: u32, gpa: u64, bytes: u64) -> c_int;
    pub fn dl_mark_slot(log: *mut dl_log, slot: u32, offset_bytes: u64, bytes: u64) -> c_int;
    pub fn dl_mark_hva(log: *mut dl_log, address: *const c_void, bytes: u64) -> c_int;
    pub fn dl_mark_iov(
        log: *mut dl_log,
        iov: *const iovec,
        n_iov: u32,
        offset_bytes: u64,
        bytes: u64,
    ) -> c_int;
    pub fn dl_mark_bitmap(
        log: *mut dl_log,
        bitmap: *const dl_bitmap,
        words: *mut u64,
        n_words: u64,
        marked_bytes: *mut u64,
    ) -> c_int;
    pub fn dl_plan_new(
        cursor: *mut dl_cursor,
        goal: *const dl_goal,
        plan: *mut *mut dl_plan,
    ) -> c_int;
    pub fn dl_plan_sent(plan: *mut dl_plan, bytes: u64, busy_ns: u64) -> c_int;
    pub fn dl_plan_next(plan: *mut dl_plan, unsent_bytes: u64, advice: *mut dl_advice) -> c_int;
    pub fn dl_plan_free(plan: *mut dl_plan);
}
