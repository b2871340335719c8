// SPDX-License-Identifier: MIT
//! Memslots.

use crate::flags::SlotFlags;
use crate::sys;

/// A memslot, as [`Log::set_slot`](crate::Log::set_slot) takes it.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// `as_id << 16 | id`, as in KVM.
    pub slot: u32,
    /// What holds for it.
    pub flags: SlotFlags,
    /// `KVM_MEM_*`, except KVM_MEM_LOG_DIRTY_PAGES, which is the library's.
    pub kvm_flags: u32,
    /// Guest physical address, page aligned.
    pub gpa: u64,
    /// Its memory in this process, page aligned.
    pub memory: *mut u8,
    /// A multiple of the page size, not 0.
    pub bytes: u64,
    /// The caller's; extents have it.
    pub cookie: u64,
}

impl Slot {
    /// A slot without flags and cookie.
    pub fn new(slot: u32, gpa: u64, memory: *mut u8, bytes: u64) -> Self {
        Slot {
            slot,
            flags: SlotFlags::NONE,
            kvm_flags: 0,
            gpa,
            memory,
            bytes,
            cookie: 0,
        }
    }

    pub(crate) fn raw(&self) -> sys::dl_slot {
        sys::dl_slot {
            flags: self.flags.bits(),
            slot: self.slot,
            kvm_flags: self.kvm_flags,
            gpa: self.gpa,
            bytes: self.bytes,
            hva: self.memory as usize as u64,
            cookie: self.cookie,
            ..sys::dl_slot::sized()
        }
    }
}
