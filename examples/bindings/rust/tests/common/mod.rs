// SPDX-License-Identifier: MIT
//! What the tests on /dev/kvm and on the model kernel have in common: memory, and the proof that a
//! copy made by passes is equal.

#![allow(dead_code)] // each test uses its part

use dirtylog::{Cursor, CursorOptions, Extent, HarvestFlags, Log, ReapFlags, Result};
use std::os::raw::{c_int, c_short, c_ulong, c_void};
use std::os::unix::io::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const PAGE: usize = 4096;

pub const EBUSY: i32 = 16;
pub const EINVAL: i32 = 22;
pub const ENOENT: i32 = 2;
pub const ECANCELED: i32 = 125;

extern "C" {
    fn mmap(
        at: *mut c_void,
        bytes: usize,
        prot: c_int,
        flags: c_int,
        fd: c_int,
        offset: i64,
    ) -> *mut c_void;
    fn munmap(at: *mut c_void, bytes: usize) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
}

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

const POLLIN: c_short = 1;

/// Waits until a descriptor is readable, or some time has passed.
pub fn wait_readable(fd: c_int, limit: Duration) -> bool {
    let mut one = PollFd {
        fd,
        events: POLLIN,
        revents: 0,
    };
    // SAFETY: one is valid during the call.
    let r = unsafe { poll(&mut one, 1, limit.as_millis() as c_int) };
    assert!(
        r == 0 || one.revents == POLLIN,
        "poll: {r}, {:#x}",
        one.revents
    );
    r > 0
}

/// Mapped memory, which a guest may write.
pub struct Memory {
    at: *mut u8,
    bytes: usize,
}

// SAFETY: It is reached by raw pointers only.
unsafe impl Send for Memory {}
unsafe impl Sync for Memory {}

impl Memory {
    pub fn map(bytes: usize, shared_fd: Option<c_int>) -> Memory {
        let (flags, fd) = match shared_fd {
            Some(fd) => (1, fd), // MAP_SHARED
            None => (0x22, -1),  // MAP_PRIVATE | MAP_ANONYMOUS
        };
        // SAFETY: A new mapping, to read and to write.
        let at = unsafe { mmap(ptr::null_mut(), bytes, 3, flags, fd, 0) };
        assert_ne!(at as isize, -1, "mmap: {}", std::io::Error::last_os_error());
        Memory {
            at: at.cast(),
            bytes,
        }
    }

    pub fn pointer(&self) -> *mut u8 {
        self.at
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.bytes);
        // SAFETY: Inside the mapping, to which there are no references.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(offset), data.len()) }
    }

    /// Nobody may write meanwhile.
    pub fn contents(&self) -> Vec<u8> {
        // SAFETY: Mapped, and quiet.
        unsafe { std::slice::from_raw_parts(self.at, self.bytes) }.to_vec()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The tests drop the log and the guest before.
        unsafe { munmap(self.at.cast(), self.bytes) };
    }
}

/// What a receiver has, by guest address from 0.
pub struct Receiver {
    pub memory: Vec<u8>,
    /// The address of a page that is not copied: a planted defect.
    pub lose: Option<u64>,
    pub lost_extents: u32,
}

impl Receiver {
    pub fn new(bytes: usize, lose: Option<u64>) -> Self {
        Receiver {
            memory: vec![0; bytes],
            lose,
            lost_extents: 0,
        }
    }

    pub fn receive(&mut self, extent: &Extent<'_>) {
        let from = extent.gpa() as usize;
        let to = from + extent.bytes() as usize;
        if matches!(self.lose, Some(gpa) if extent.gpa() <= gpa && gpa < to as u64) {
            self.lost_extents += 1;
            return;
        }
        extent.copy_to(&mut self.memory[from..to]);
    }
}

/// One pass: copies what changed. Returns what was pending.
pub fn pass(cursor: &mut Cursor, flags: HarvestFlags, receiver: &mut Receiver) -> Result<u64> {
    let pass = cursor.harvest(flags)?;
    let mut extents = Vec::with_capacity(16);
    while pass.read_into(&mut extents)? > 0 {
        extents.iter().for_each(|extent| receiver.receive(extent));
        pass.ack(&extents)?;
    }
    Ok(pass.pending_bytes())
}

/// Serves the log's descriptor until it is told to stop.
pub fn reap(log: &Log, stop: &AtomicBool) -> Result<()> {
    let fd = log.fd()?.as_raw_fd();
    while !stop.load(Ordering::Relaxed) {
        if wait_readable(fd, Duration::from_millis(20)) {
            log.reap(ReapFlags::NONE).0?;
        }
    }
    Ok(())
}

/// Stops threads, also where the test fails: a scope waits for them.
pub struct OnDrop<'a>(pub &'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a migration was.
pub struct Outcome {
    pub equal: bool,
    pub lost_extents: u32,
    /// Passes with anything pending, while the guest ran.
    pub live_passes: u32,
    /// Found dirty while the guest ran, after the first full copy.
    pub live_bytes: u64,
}

/// Copies the memory of a guest that runs meanwhile, from gpa 0: passes, then `pause`, then a write
/// of a device, then paused passes until nothing is pending. Compares.
///
/// With `lose_page`, the extent with the device's write is not copied, and the copy is not equal.
pub fn migrate(
    log: &Log,
    memory: &Memory,
    progress: impl Fn() -> u64,
    pause: impl FnOnce(),
    lose_page: bool,
) -> Result<Outcome> {
    const DEVICE_PAGE: usize = 5;
    let mut cursor = log.cursor(&CursorOptions::default())?;
    let mut receiver = Receiver::new(memory.len(), None);
    let (mut live_passes, mut live_bytes) = (0, 0);
    assert_eq!(
        pass(&mut cursor, HarvestFlags::NONE, &mut receiver)?,
        memory.len() as u64
    );
    while live_passes < 5 {
        let before = progress();
        while progress() == before {
            std::thread::yield_now();
        }
        let pending = pass(&mut cursor, HarvestFlags::NONE, &mut receiver)?;
        live_passes += u32::from(pending > 0);
        live_bytes += pending;
    }
    pause();
    let gpa = (DEVICE_PAGE * PAGE) as u64;
    memory.write(DEVICE_PAGE * PAGE + 100, b"written by a device");
    log.mark_gpa(0, gpa + 100, 19)?;
    receiver.lose = lose_page.then_some(gpa);
    let mut paused_passes = 0;
    while pass(&mut cursor, HarvestFlags::PAUSED, &mut receiver)? > 0 {
        paused_passes += 1;
        assert!(paused_passes < 100, "the paused guest never becomes clean");
    }
    Ok(Outcome {
        equal: receiver.memory == memory.contents(),
        lost_extents: receiver.lost_extents,
        live_passes,
        live_bytes,
    })
}

/// The proof, and that it would notice a defect. `guest` gives a new guest for each migration.
pub fn prove(run: impl Fn(bool) -> Outcome) {
    let good = run(false);
    assert!(good.equal, "the copy differs from the memory");
    assert_eq!(good.lost_extents, 0);
    assert!(good.live_bytes > 0);
    let bad = run(true);
    assert_eq!(bad.lost_extents, 1, "the defect was not planted");
    assert!(
        !bad.equal,
        "the proof does not notice an extent that was not copied"
    );
}
