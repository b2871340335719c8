// SPDX-License-Identifier: MIT
//! The log of one VM.

use crate::cursor::{Cursor, CursorOptions};
use crate::error::{text, Error, Result, Why};
use crate::flags::{Backup, BitmapFlags, Mode, ReapFlags, RemoveFlags, WatchFlags};
use crate::slot::Slot;
use crate::sys;
use crate::vcpu::Vcpu;
use std::fmt;
use std::os::raw::c_int;
use std::os::unix::io::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};
use std::time::Duration;

/// The version of the linked C library, as `major << 16 | minor << 8 | patch`.
///
/// ```
/// assert_eq!(dirtylog::library_version(), 2 << 8); // 0.2.0, as this crate
/// ```
pub fn library_version() -> u32 {
    // SAFETY: It takes nothing and reads a constant.
    unsafe { sys::dl_library_version() }
}

/// A foreign dirty log: vhost's, vhost-user's, VFIO's, iommufd's or libvfio-user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    /// How the words are read.
    pub flags: BitmapFlags,
    /// The address space of `gpa`.
    pub as_id: u32,
    /// Of bit 0, a multiple of `page_bytes`.
    pub gpa: u64,
    /// Of memory that the bitmap covers.
    pub bytes: u64,
    /// Per bit: a power of two from 512 to 1 GiB.
    pub page_bytes: u64,
}

impl Bitmap {
    fn raw(&self) -> sys::dl_bitmap {
        sys::dl_bitmap {
            flags: self.flags.bits(),
            as_id: self.as_id,
            gpa: self.gpa,
            bytes: self.bytes,
            page_bytes: self.page_bytes,
            ..sys::dl_bitmap::sized()
        }
    }
}

/// A table of system calls in place of the system's: a model kernel's, for tests.
#[derive(Clone, Copy, Debug)]
pub struct Os(*const sys::dl_os);

impl Os {
    /// Takes a `struct dl_os *` of `dirtylog/os.h`.
    ///
    /// # Safety
    ///
    /// The table is complete, its functions are what that header wants, on any thread, and it
    /// outlives every handle of every log that is opened with it.
    pub unsafe fn from_raw(table: *const sys::dl_os) -> Self {
        Os(table)
    }
}

/// How a log is opened. The default leaves everything to the library.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How the kernel is asked.
    pub mode: Mode,
    /// What is done about writers inside the kernel.
    pub backup: Backup,
    /// Entries per vCPU, a power of two; 0: a good size.
    pub ring_entries: u32,
    /// The longest interval between looks at idle rings; zero: 100 ms.
    pub idle: Duration,
    /// A model kernel; None: the system.
    pub os: Option<Os>,
}

impl Options {
    fn raw(&self) -> sys::dl_options {
        sys::dl_options {
            mode: self.mode as u32,
            backup: self.backup as u32,
            ring_entries: self.ring_entries,
            idle_ns: u64::try_from(self.idle.as_nanos()).unwrap_or(u64::MAX),
            os: self.os.map_or(ptr::null(), |os| os.0),
            ..sys::dl_options::sized()
        }
    }
}

/// What [`Log::open`] would choose on a descriptor of /dev/kvm or of a VM, and the reason in words.
/// Changes nothing.
pub fn probe(fd: impl AsFd, options: &Options) -> Result<(sys::dl_config, String)> {
    probe_raw(fd.as_fd().as_raw_fd(), options)
}

fn probe_raw(fd: c_int, options: &Options) -> Result<(sys::dl_config, String)> {
    let mut config = sys::dl_config::sized();
    let mut why = Why::new();
    let bytes = why.bytes();
    // SAFETY: All pointers are valid during the call.
    let r = unsafe { sys::dl_probe(fd, &options.raw(), &mut config, why.pointer(), bytes) };
    if r < 0 {
        return Err(Error::new(-r, why.text()));
    }
    Ok((config, why.text()))
}

/// What the handles of one log have in common: the log, for the words of their errors, until it is
/// closed.
pub(crate) struct Shared {
    log: RwLock<Option<NonNull<sys::dl_log>>>,
}

// SAFETY: The pointer is used for dl_log_last_error(), which any thread may call, and only while
// the lock says that the log is there.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    /// Turns the result of a call into a count, or an error with the log's words.
    pub(crate) fn check(&self, r: c_int) -> Result<u32> {
        u32::try_from(r).map_err(|_| self.error(-r))
    }

    fn error(&self, errno: i32) -> Error {
        let log = self.log.read().unwrap_or_else(|held| held.into_inner());
        let why = match *log {
            // SAFETY: Log::drop() takes the pointer away, under the lock, before it closes the log.
            Some(log) => {
                text(|to, bytes| unsafe { sys::dl_log_last_error(log.as_ptr(), to, bytes) })
            }
            None => "the log is closed".to_owned(),
        };
        Error::new(errno, why)
    }

    fn forget(&self) {
        *self.log.write().unwrap_or_else(|held| held.into_inner()) = None;
    }
}

/// The dirty log of one VM. Dropping it stops logging, and waits for calls in progress.
///
/// Vcpus and cursors do not borrow it: they may outlive it, and then fail with ECANCELED.
pub struct Log {
    raw: NonNull<sys::dl_log>,
    shared: Arc<Shared>,
}

// SAFETY: "Any call, any thread, also on the same handle" (dirtylog.h). The last call is made by
// Drop, which has the handle for itself.
unsafe impl Send for Log {}
unsafe impl Sync for Log {}

impl Log {
    /// Opens the log of a VM that has no vCPU and no memslot yet; in bitmap mode it may have.
    ///
    /// The descriptor is duplicated. The VM lives until the log and the last [`Vcpu`] are dropped.
    pub fn open(vm: impl AsFd, options: &Options) -> Result<Log> {
        // SAFETY: The descriptor is open during the call.
        unsafe { Log::open_raw(vm.as_fd().as_raw_fd(), options) }
    }

    /// As [`Log::open`], for a descriptor that is only a number to the system: a model kernel's.
    ///
    /// # Safety
    ///
    /// `vm_fd` is open during the call, in the eyes of `options.os`.
    pub unsafe fn open_raw(vm_fd: c_int, options: &Options) -> Result<Log> {
        let mut raw = ptr::null_mut();
        let mut why = Why::new();
        let bytes = why.bytes();
        // SAFETY: All pointers are valid during the call. The table of an Os outlives the log, as
        // Os::from_raw() demands.
        let r = unsafe { sys::dl_log_open(vm_fd, &options.raw(), &mut raw, why.pointer(), bytes) };
        match NonNull::new(raw) {
            Some(raw) if r >= 0 => Ok(Log {
                raw,
                shared: Arc::new(Shared {
                    log: RwLock::new(Some(raw)),
                }),
            }),
            _ => Err(Error::new(-r, why.text())),
        }
    }

    fn check(&self, r: c_int) -> Result<u32> {
        self.shared.check(r)
    }

    /// What is in use.
    pub fn config(&self) -> Result<sys::dl_config> {
        let mut config = sys::dl_config::sized();
        // SAFETY: Here and below, the handle is alive as long as self is, and what is passed beside
        // it during the call.
        let r = unsafe { sys::dl_log_config(self.raw.as_ptr(), &mut config) };
        self.check(r).map(|_| config)
    }

    /// The log's counters, those of all vCPUs included.
    pub fn stats(&self) -> Result<sys::dl_stats> {
        let mut stats = sys::dl_stats::sized();
        // SAFETY: As in config().
        let r = unsafe { sys::dl_log_stats(self.raw.as_ptr(), &mut stats) };
        self.check(r).map(|_| stats)
    }

    /// Mode, reason, the last failure and advice, in words.
    pub fn describe(&self) -> String {
        // SAFETY: As in config().
        text(|to, bytes| unsafe { sys::dl_log_describe(self.raw.as_ptr(), to, bytes) })
    }

    /// The last failure of the log or of one of its handles; empty: nothing has failed. An
    /// [`Error`] has these words already.
    pub fn last_error(&self) -> String {
        // SAFETY: As in config().
        text(|to, bytes| unsafe { sys::dl_log_last_error(self.raw.as_ptr(), to, bytes) })
    }

    /// Creates a memslot, moves it, or changes its flags or cookie. A new size or memory: remove it
    /// first.
    ///
    /// # Safety
    ///
    /// The guest writes to the memory at any moment from now on. `slot.memory` is mapped, for
    /// `slot.bytes` bytes, and nothing in this process relies on what is in it (no `&[u8]`, no
    /// value of Rust's) until [`Log::remove_slot`] has returned Ok, or the VM is gone: dropping the
    /// log does not delete its slots. After a removal it stays mapped until every [`Pass`] that was
    /// open then has ended, since an [`Extent`] that was read before can still be copied.
    ///
    /// [`Pass`]: crate::Pass
    /// [`Extent`]: crate::Extent
    pub unsafe fn set_slot(&self, slot: &Slot) -> Result<()> {
        // SAFETY: As in config(); the memory is the caller's promise.
        let r = unsafe { sys::dl_slot_set(self.raw.as_ptr(), &slot.raw()) };
        self.check(r).map(drop)
    }

    /// Deletes a memslot. `words` gets what some cursor had not acknowledged, ored in, a bit a
    /// page; without [`RemoveFlags::PAUSED`], every page.
    pub fn remove_slot(
        &self,
        slot: u32,
        flags: RemoveFlags,
        words: Option<&mut [u64]>,
    ) -> Result<()> {
        let (words, count) = match words {
            Some(words) => (words.as_mut_ptr(), words.len() as u64),
            None => (ptr::null_mut(), 0),
        };
        // SAFETY: As in config().
        let r = unsafe { sys::dl_slot_remove(self.raw.as_ptr(), slot, flags.bits(), words, count) };
        self.check(r).map(drop)
    }

    /// Protects again what [`TakeFlags::NO_CLEAR`](crate::TakeFlags::NO_CLEAR) left writable in a
    /// range of a slot. Contents may be read after it.
    pub fn clear_slot(&self, slot: u32, offset_bytes: u64, bytes: u64) -> Result<()> {
        // SAFETY: As in config().
        let r = unsafe { sys::dl_slot_clear(self.raw.as_ptr(), slot, offset_bytes, bytes) };
        self.check(r).map(drop)
    }

    /// Finds what this process writes through `alias`, its second mapping of the slot's memory,
    /// marked or not. Null ends the watch.
    ///
    /// # Safety
    ///
    /// As many bytes as the slot has are mapped at `alias` until the watch ends, or the slot goes.
    pub unsafe fn watch_slot(&self, slot: u32, alias: *mut u8, flags: WatchFlags) -> Result<()> {
        // SAFETY: As in config(); the mapping is the caller's promise.
        let r = unsafe { sys::dl_slot_watch(self.raw.as_ptr(), slot, alias.cast(), flags.bits()) };
        self.check(r).map(drop)
    }

    /// Adds a vCPU before its first KVM_RUN. The descriptor is used during this call only.
    pub fn add_vcpu(&self, vcpu: impl AsFd, cookie: u64) -> Result<Vcpu> {
        // SAFETY: The descriptor is open during the call.
        unsafe { self.add_vcpu_raw(vcpu.as_fd().as_raw_fd(), cookie) }
    }

    /// As [`Log::add_vcpu`], for a model kernel's descriptor.
    ///
    /// # Safety
    ///
    /// `vcpu_fd` is open during the call, in the eyes of the log's [`Os`].
    pub unsafe fn add_vcpu_raw(&self, vcpu_fd: c_int, cookie: u64) -> Result<Vcpu> {
        let mut vcpu = ptr::null_mut();
        // SAFETY: As in config().
        let r = unsafe { sys::dl_vcpu_add(self.raw.as_ptr(), vcpu_fd, cookie, 0, &mut vcpu) };
        match NonNull::new(vcpu) {
            Some(vcpu) if r >= 0 => Ok(Vcpu::new(vcpu, Arc::clone(&self.shared))),
            _ => Err(self.shared.error(-r)),
        }
    }

    /// A descriptor that is readable while [`Log::reap`] has work. It is the log's, hence the
    /// borrow: poll it, and do nothing else with it.
    pub fn fd(&self) -> Result<BorrowedFd<'_>> {
        // SAFETY: As in config().
        let r = unsafe { sys::dl_log_fd(self.raw.as_ptr()) };
        self.check(r)?;
        // SAFETY: It stays open until the last handle of the log is released, and self is one.
        Ok(unsafe { BorrowedFd::borrow_raw(r) })
    }

    /// Empties the rings if one is about to fill at its pace.
    ///
    /// Returns when to call again, for a caller that does not poll [`Log::fd`]; None: not before a
    /// cursor exists, or never (bitmap mode). That is set after an error, too; nothing is lost.
    pub fn reap(&self, flags: ReapFlags) -> (Result<()>, Option<Duration>) {
        let mut again_ns = u64::MAX;
        // SAFETY: As in config().
        let r = unsafe { sys::dl_log_reap(self.raw.as_ptr(), flags.bits(), &mut again_ns) };
        let again = match again_ns {
            u64::MAX => None,
            ns => Some(Duration::from_nanos(ns)),
        };
        (self.check(r).map(drop), again)
    }

    /// Takes the cookies of vCPUs that must leave KVM_RUN, or a pause, and ask
    /// [`Vcpu::pause_due`]: as many as there is room for. Call it after
    /// [`reap`](Log::reap) and [`Plan::next`](crate::Plan::next).
    pub fn kicks(&self, cookies: &mut [u64]) -> Result<usize> {
        // SAFETY: As in config().
        let r = unsafe {
            sys::dl_log_kicks(
                self.raw.as_ptr(),
                cookies.as_mut_ptr(),
                cookies.len() as u32,
            )
        };
        self.check(r).map(|n| n as usize)
    }

    /// Adds a consumer, and switches logging on for what it covers and nobody logs yet.
    pub fn cursor(&self, options: &CursorOptions) -> Result<Cursor> {
        let mut cursor = ptr::null_mut();
        // SAFETY: As in config().
        let r = unsafe { sys::dl_cursor_new(self.raw.as_ptr(), &options.raw(), &mut cursor) };
        match NonNull::new(cursor) {
            Some(cursor) if r >= 0 => Ok(Cursor::new(cursor, Arc::clone(&self.shared))),
            _ => Err(self.shared.error(-r)),
        }
    }

    /// Marks guest memory that the VMM or a device wrote or discarded. Write, then mark, then
    /// notify the guest. ENOENT: part of it is in no slot; the rest is marked.
    pub fn mark_gpa(&self, as_id: u32, gpa: u64, bytes: u64) -> Result<()> {
        // SAFETY: As in config().
        let r = unsafe { sys::dl_mark_gpa(self.raw.as_ptr(), as_id, gpa, bytes) };
        self.check(r).map(drop)
    }

    /// As [`Log::mark_gpa`], for a range of one slot.
    pub fn mark_slot(&self, slot: u32, offset_bytes: u64, bytes: u64) -> Result<()> {
        // SAFETY: As in config().
        let r = unsafe { sys::dl_mark_slot(self.raw.as_ptr(), slot, offset_bytes, bytes) };
        self.check(r).map(drop)
    }

    /// As [`Log::mark_gpa`], for host memory, in every slot that maps it. Looks at no byte of it.
    pub fn mark_hva(&self, address: *const u8, bytes: u64) -> Result<()> {
        // SAFETY: As in config(); the address is only compared.
        let r = unsafe { sys::dl_mark_hva(self.raw.as_ptr(), address.cast(), bytes) };
        self.check(r).map(drop)
    }

    /// As [`Log::mark_hva`], for bytes of a scattered buffer: `bytes` is what readv(2) returned,
    /// `offset_bytes` what earlier calls read into the same vectors.
    pub fn mark_iov(&self, iov: &[sys::iovec], offset_bytes: u64, bytes: u64) -> Result<()> {
        let count = u32::try_from(iov.len()).unwrap_or(u32::MAX);
        // SAFETY: As in config(); the vectors' memory is only compared.
        let r = unsafe {
            sys::dl_mark_iov(self.raw.as_ptr(), iov.as_ptr(), count, offset_bytes, bytes)
        };
        self.check(r).map(drop)
    }

    /// Marks the pages that a foreign log names, and returns how many bytes of host pages they are.
    /// `words` may be memory that is shared with the log's writer. ENOENT: a bit's page is in no
    /// slot; the rest is marked.
    pub fn mark_bitmap(&self, bitmap: &Bitmap, words: &[AtomicU64]) -> Result<u64> {
        let mut marked_bytes = 0;
        // SAFETY: As in config(). The library accesses the words atomically, and AtomicU64 allows
        // that behind a shared reference.
        let r = unsafe {
            sys::dl_mark_bitmap(
                self.raw.as_ptr(),
                &bitmap.raw(),
                words.as_ptr() as *mut u64,
                words.len() as u64,
                &mut marked_bytes,
            )
        };
        self.check(r).map(|_| marked_bytes)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.forget();
        // SAFETY: This is the last call on the handle: Shared has forgotten it.
        unsafe { sys::dl_log_close(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({:?})", self.describe())
    }
}
