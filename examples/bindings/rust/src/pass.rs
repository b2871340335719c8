// SPDX-License-Identifier: MIT
//! Passes, and the extents that they hand out.

use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::flags::ExtentFlags;
use crate::sys;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{self, size_of};
use std::ops::Deref;
use std::os::raw::c_int;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// The errno value EBUSY, on every architecture of Linux.
const EBUSY: c_int = 16;

/// Extents that [`Extents`] reads at once.
const BATCH: usize = 64;

/// The smallest page of any host.
const LEAST_PAGE_BYTES: u64 = 4096;

/// An open pass of a cursor. Dropping it ends the pass: what was not acknowledged is pending again.
///
/// It derefs to the cursor, for [`Cursor::take`] and [`Cursor::stats`], and may be shared among
/// threads: each page goes to one of them.
pub struct Pass<'c> {
    cursor: &'c Cursor,
    pending_bytes: u64,
    /// Extents that an iterator has read and not given out yet. See commit().
    read_ahead: AtomicU64,
}

impl<'c> Pass<'c> {
    pub(crate) fn new(cursor: &'c Cursor, pending_bytes: u64) -> Self {
        Pass {
            cursor,
            pending_bytes,
            read_ahead: AtomicU64::new(0),
        }
    }

    /// What the pass could hand out when it began.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Replaces the contents of `extents` by the next ones: as many as it has room for, 64 if it
    /// has none. A vector that is used again is not allocated again. Returns how many; 0: no more.
    ///
    /// Contents may be read after this has returned: they are protected.
    pub fn read_into<'p>(&'p self, extents: &mut Vec<Extent<'p>>) -> Result<usize> {
        extents.clear();
        if extents.capacity() == 0 {
            extents.reserve(BATCH);
        }
        let room = u32::try_from(extents.capacity().min(i32::MAX as usize)).unwrap_or(u32::MAX);
        // SAFETY: The handle is alive; Extent has the layout of dl_extent, and room is there.
        let r =
            unsafe { sys::dl_cursor_read(self.cursor.raw(), extents.as_mut_ptr().cast(), room) };
        let count = self.cursor.check(r)? as usize;
        // SAFETY: The library has written so many.
        unsafe { extents.set_len(count) };
        Ok(count)
    }

    /// Iterates over the extents of the pass, 64 with a call of the library.
    pub fn extents(&self) -> Extents<'_> {
        Extents {
            pass: self,
            batch: Vec::with_capacity(BATCH),
            next: 0,
        }
    }

    /// Commits extents: their contents are sent, forget them. Any thread, any order.
    ///
    /// All are checked before one is committed.
    pub fn ack(&self, extents: &[Extent<'_>]) -> Result<()> {
        let mut all = extents;
        while !all.is_empty() {
            let (some, rest) = all.split_at(all.len().min(i32::MAX as usize));
            // SAFETY: The handle is alive; Extent has the layout of dl_extent.
            let r = unsafe {
                sys::dl_cursor_ack(self.cursor.raw(), some.as_ptr().cast(), some.len() as u32)
            };
            self.cursor.check(r)?;
            all = rest;
        }
        Ok(())
    }

    /// Ends the pass and commits everything that was read.
    ///
    /// EBUSY: an iterator of [`Pass::extents`] was dropped before its end, so there are extents
    /// that the library handed out and nobody was given. Then nothing more is committed: what was
    /// not acknowledged is pending again.
    pub fn commit(self) -> Result<()> {
        let flags = if self.read_ahead.load(Ordering::Relaxed) == 0 {
            sys::DL_END_COMMIT
        } else {
            0
        };
        // SAFETY: The handle is alive.
        let r = unsafe { sys::dl_cursor_end(self.cursor.raw(), flags) };
        let ended = self.cursor.check(r).map(drop);
        if flags == 0 {
            let why = "an iterator ended before its extents: nothing is committed";
            return Err(Error::new(EBUSY, why.to_owned()));
        }
        if ended.is_ok() {
            mem::forget(self); // it has no more to release
        }
        ended
    }
}

impl Deref for Pass<'_> {
    type Target = Cursor;

    fn deref(&self) -> &Cursor {
        self.cursor
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        // SAFETY: The handle is alive. Without an open pass this does nothing.
        unsafe { sys::dl_cursor_end(self.cursor.raw(), 0) };
    }
}

impl fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass({} bytes)", self.pending_bytes)
    }
}

/// Adjacent dirty pages of one slot, handed out by a pass.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Extent<'p> {
    raw: sys::dl_extent,
    pass: PhantomData<&'p ()>,
}

impl<'p> Extent<'p> {
    /// Guest physical address of the first byte.
    pub fn gpa(&self) -> u64 {
        self.raw.gpa
    }

    /// From the start of the slot.
    pub fn offset_bytes(&self) -> u64 {
        self.raw.offset_bytes
    }

    /// A multiple of the page size.
    pub fn bytes(&self) -> u64 {
        self.raw.bytes
    }

    /// The slot's cookie.
    pub fn cookie(&self) -> u64 {
        self.raw.cookie
    }

    /// `as_id << 16 | id`, when the pass began.
    pub fn slot(&self) -> u32 {
        self.raw.slot
    }

    /// What holds for it.
    pub fn flags(&self) -> ExtentFlags {
        ExtentFlags::from_bits(self.raw.flags)
    }

    /// Where its memory begins, for system calls such as writev(2). The guest writes to it at any
    /// moment: no reference to it may exist.
    pub fn pointer(&self) -> *const u8 {
        self.raw.hva as usize as *const u8
    }

    /// Part of it, to be copied or acknowledged by itself. None: it is not inside, or empty, or not
    /// made of pages.
    pub fn part(&self, offset_bytes: u64, bytes: u64) -> Option<Extent<'p>> {
        let pages = (offset_bytes | bytes) % LEAST_PAGE_BYTES == 0;
        if !pages || bytes == 0 || offset_bytes.checked_add(bytes)? > self.raw.bytes {
            return None;
        }
        let mut part = *self;
        part.raw.gpa += offset_bytes;
        part.raw.hva += offset_bytes;
        part.raw.offset_bytes += offset_bytes;
        part.raw.bytes = bytes;
        Some(part)
    }

    /// Copies its memory. What the guest writes meanwhile may be in the copy or not, word by word;
    /// such a page is in the next pass again.
    ///
    /// # Panics
    ///
    /// If `to` has another length.
    pub fn copy_to(&self, to: &mut [u8]) {
        assert_eq!(
            to.len() as u64,
            self.raw.bytes,
            "the length of an extent's copy"
        );
        let from = self.pointer().cast::<AtomicUsize>();
        let mut words = to.chunks_exact_mut(size_of::<usize>());
        for (i, word) in words.by_ref().enumerate() {
            // SAFETY: Log::set_slot() demands that the memory is mapped as long as a pass can hand
            // it out, and nobody has a reference to it. Address and length are made of pages.
            let value = unsafe { (*from.add(i)).load(Ordering::Relaxed) };
            word.copy_from_slice(&value.to_ne_bytes());
        }
    }
}

impl fmt::Debug for Extent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({:#x}, {} bytes)", self.raw.gpa, self.raw.bytes)
    }
}

/// An iterator over the extents of a pass. After an error the next call goes on.
///
/// One that is dropped before its end keeps what it has read ahead until the next pass, and
/// [`Pass::commit`] then refuses; acknowledge what was sent instead.
pub struct Extents<'p> {
    pass: &'p Pass<'p>,
    batch: Vec<Extent<'p>>,
    next: usize,
}

impl<'p> Iterator for Extents<'p> {
    type Item = Result<Extent<'p>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.batch.len() {
            self.next = 0;
            match self.pass.read_into(&mut self.batch) {
                Ok(0) => return None,
                Ok(count) => self
                    .pass
                    .read_ahead
                    .fetch_add(count as u64, Ordering::Relaxed),
                Err(error) => return Some(Err(error)),
            };
        }
        let extent = self.batch[self.next];
        self.next += 1;
        self.pass.read_ahead.fetch_sub(1, Ordering::Relaxed);
        Some(Ok(extent))
    }
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extents({} read ahead)", self.batch.len() - self.next)
    }
}
