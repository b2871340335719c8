// SPDX-License-Identifier: MIT
//! On this machine's /dev/kvm, with a guest that writes all the while.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::*;
use dirtylog::{
    has, probe, CursorFlags, CursorOptions, Goal, GoalFlags, HarvestFlags, Log, Mode, Options,
    Plan, ReapFlags, RemoveFlags, Result, Slot, SlotFlags, TakeFlags,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::raw::{c_int, c_ulong, c_void};
use std::os::unix::io::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

const KVM_CREATE_VM: c_ulong = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: c_ulong = 0xae04;
const KVM_CREATE_VCPU: c_ulong = 0xae41;
const KVM_SET_TSS_ADDR: c_ulong = 0xae47;
const KVM_RUN: c_ulong = 0xae80;
const KVM_SET_REGS: c_ulong = 0x4090_ae82;
const KVM_GET_SREGS: c_ulong = 0x8138_ae83;
const KVM_SET_SREGS: c_ulong = 0x4138_ae84;
const KVM_EXIT_IO: u32 = 2;
const KVM_EXIT_DIRTY_RING_FULL: u32 = 31;

const MEMORY_BYTES: usize = 8 << 20;
const CODE_GPA: usize = PAGE;
/// What the guest writes begins there, and ends with the memory.
const FIRST_GPA: usize = 16 * PAGE;

/// In protected mode, without paging: stores a counter to each page from edx on, and rings a
/// doorbell at the end, for ever.
const CODE: &[u8] = &[
    0x89, 0x1f, //       1: mov %ebx, (%edi)
    0x43, //                inc %ebx
    0x01, 0xef, //          add %ebp, %edi
    0x39, 0xf7, //          cmp %esi, %edi
    0x72, 0xf7, //          jb 1b
    0x89, 0xd7, //          mov %edx, %edi
    0xe6, 0x10, //          out %al, $0x10
    0xeb, 0xf1, //          jmp 1b
];

fn must(r: c_int, what: &str) -> c_int {
    assert!(r >= 0, "{what}: {}", io::Error::last_os_error());
    r
}

fn call(fd: c_int, request: c_ulong, argument: usize) -> c_int {
    // SAFETY: Each caller passes what the request wants.
    must(unsafe { ioctl(fd, request, argument) }, "ioctl")
}

fn call_with<T>(fd: c_int, request: c_ulong, argument: &mut [T]) -> c_int {
    // SAFETY: Each caller passes a buffer of the request's size.
    must(
        unsafe { ioctl(fd, request, argument.as_mut_ptr().cast::<c_void>()) },
        "ioctl",
    )
}

/// A VM of one vCPU whose memory is the slot 0, and its log.
struct Guest {
    // In the order in which they are dropped: the memory last.
    vcpu: dirtylog::Vcpu,
    log: Log,
    run: Memory,
    vcpu_fd: OwnedFd,
    _vm: OwnedFd,
    memory: Memory,
    rounds: AtomicU64,
    stop: AtomicBool,
}

fn kvm() -> File {
    let options = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    options.expect("/dev/kvm")
}

fn owned(fd: c_int) -> OwnedFd {
    // SAFETY: An ioctl has just made it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Guest {
    fn new(mode: Mode) -> Result<Guest> {
        Guest::with(&Options {
            mode,
            ..Options::default()
        })
    }

    fn with(options: &Options) -> Result<Guest> {
        let kvm = kvm();
        let vm = owned(call(kvm.as_raw_fd(), KVM_CREATE_VM, 0));
        let memory = Memory::map(MEMORY_BYTES, None);
        memory.write(CODE_GPA, CODE);
        let log = Log::open(&vm, options)?;
        // SAFETY: The memory is dropped after the VM, and read only while the guest is paused.
        unsafe { log.set_slot(&Slot::new(0, 0, memory.pointer(), MEMORY_BYTES as u64))? };
        call(vm.as_raw_fd(), KVM_SET_TSS_ADDR, 0xfffb_d000);
        let vcpu_fd = owned(call(vm.as_raw_fd(), KVM_CREATE_VCPU, 0));
        let vcpu = log.add_vcpu(&vcpu_fd, 7)?;
        let run_bytes = call(kvm.as_raw_fd(), KVM_GET_VCPU_MMAP_SIZE, 0) as usize;
        let run = Memory::map(run_bytes, Some(vcpu_fd.as_raw_fd()));
        start_in_protected_mode(vcpu_fd.as_raw_fd());
        Ok(Guest {
            vcpu,
            log,
            run,
            vcpu_fd,
            _vm: vm,
            memory,
            rounds: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    fn exit_reason(&self) -> u32 {
        // SAFETY: struct kvm_run has it at 8, and the vCPU is outside.
        unsafe { self.run.pointer().add(8).cast::<u32>().read_volatile() }
    }

    /// The vCPU's thread.
    fn run(&self) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.run_once()?;
        }
        Ok(())
    }

    fn run_once(&self) -> Result<()> {
        // SAFETY: KVM_RUN takes nothing.
        let r = unsafe { ioctl(self.vcpu_fd.as_raw_fd(), KVM_RUN, 0) };
        if r < 0 {
            let error = io::Error::last_os_error();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted, "KVM_RUN: {error}");
            return Ok(());
        }
        match self.exit_reason() {
            KVM_EXIT_IO => self.rounds.fetch_add(1, Ordering::Relaxed),
            KVM_EXIT_DIRTY_RING_FULL => return self.vcpu.drain(),
            other => panic!("exit reason {other}"),
        };
        Ok(())
    }

    /// Runs the guest, in another thread, until work is done.
    fn while_running<T>(&self, work: impl FnOnce(&dyn Fn()) -> T) -> T {
        thread::scope(|threads| {
            let vcpu = threads.spawn(|| self.run().unwrap());
            let reaper = threads.spawn(|| reap(&self.log, &self.stop).unwrap());
            let stopped = AtomicBool::new(false);
            // Either way: a thread that went on would keep the scope waiting.
            let end = OnDrop(&self.stop);
            let result = work(&|| {
                self.stop.store(true, Ordering::Relaxed);
                while !vcpu.is_finished() {
                    thread::yield_now();
                }
                stopped.store(true, Ordering::Relaxed);
            });
            drop(end);
            vcpu.join().unwrap();
            reaper.join().unwrap();
            assert!(stopped.load(Ordering::Relaxed));
            result
        })
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

/// struct kvm_sregs begins with eight segments of 24 bytes (base, limit, selector, type, present,
/// dpl, db, s, l, g, avl); cr0 is after them and two tables of 16 bytes.
fn start_in_protected_mode(vcpu: c_int) {
    const CR0: usize = 8 * 24 + 2 * 16;
    let mut sregs = [0u8; 0x138];
    call_with(vcpu, KVM_GET_SREGS, &mut sregs);
    for (index, kind) in [(0, 11), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3)] {
        let segment = &mut sregs[index * 24..][..24];
        segment.fill(0);
        segment[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        segment[12..14].copy_from_slice(&(8u16 + 8 * u16::from(index > 0)).to_ne_bytes());
        segment[14..21].copy_from_slice(&[kind, 1, 0, 1, 1, 0, 1]);
    }
    sregs[CR0] |= 1;
    call_with(vcpu, KVM_SET_SREGS, &mut sregs);
    // struct kvm_regs: rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags
    let mut regs = [0u64; 18];
    regs[1] = 1;
    regs[3] = FIRST_GPA as u64;
    regs[5] = regs[3];
    regs[4] = MEMORY_BYTES as u64;
    regs[7] = PAGE as u64;
    regs[16] = CODE_GPA as u64;
    regs[17] = 2;
    call_with(vcpu, KVM_SET_REGS, &mut regs);
}

fn migrate_live(mode: Mode, lose_page: bool) -> Outcome {
    let guest = Guest::new(mode).unwrap();
    guest.while_running(|pause| {
        let rounds = || guest.rounds();
        migrate(&guest.log, &guest.memory, rounds, pause, lose_page).unwrap()
    })
}

#[test]
fn a_copy_made_while_the_guest_writes_is_equal() {
    prove(|lose_page| migrate_live(Mode::Auto, lose_page));
}

#[test]
fn so_is_one_made_by_bitmaps() {
    prove(|lose_page| migrate_live(Mode::Bitmap, lose_page));
}

#[test]
fn the_kernel_is_probed() {
    let (config, why) = probe(kvm(), &Options::default()).unwrap();
    assert!(config.page_bytes as usize == PAGE && !why.is_empty());
    let guest = Guest::new(Mode::Auto).unwrap();
    assert_eq!(guest.log.config().unwrap().mode, config.mode);
    assert_eq!(has(&config), has(&guest.log.config().unwrap()));
    let error = probe(File::open("/dev/null").unwrap(), &Options::default()).unwrap_err();
    assert_eq!(error.errno(), 9); // EBADF
    assert!(error.why().contains("neither /dev/kvm nor a VM"), "{error}");
}

#[test]
fn a_vcpu_drains_its_full_ring() {
    if probe(kvm(), &Options::default())
        .unwrap()
        .0
        .ring_max_entries
        == 0
    {
        println!("skip: this kernel has no dirty rings");
        return;
    }
    let small = Options {
        mode: Mode::Ring,
        ring_entries: 1024,
        ..Options::default()
    };
    let guest = Guest::with(&small).unwrap();
    let cursor = guest.log.cursor(&CursorOptions::default()).unwrap();
    let mut words = [0; MEMORY_BYTES / PAGE / 64];
    cursor
        .take(0, TakeFlags::HARVEST | TakeFlags::PAUSED, &mut words)
        .unwrap();
    // A round stores to more pages than the ring has entries.
    while guest.rounds() < 2 {
        guest.run_once().unwrap();
    }
    let stats = guest.log.stats().unwrap();
    // An overflow, which a slow machine can have here, leaves fewer entries than pages.
    assert!(stats.full_exits > 0 && stats.entries > 0);
    assert_eq!(guest.vcpu.stats().unwrap().entries, stats.entries);
    words.fill(0);
    let taken = cursor
        .take(0, TakeFlags::HARVEST | TakeFlags::PAUSED, &mut words)
        .unwrap();
    // A ring that overflowed makes everything pending.
    assert!(taken as usize >= MEMORY_BYTES - FIRST_GPA);
    assert!(words[1..].iter().all(|&word| word == !0));
}

#[test]
fn a_removed_slot_leaves_its_pages_with_the_caller() {
    let guest = Guest::new(Mode::Auto).unwrap();
    let clean = CursorOptions {
        flags: CursorFlags::CLEAN,
        ..CursorOptions::default()
    };
    let mut cursor = guest.log.cursor(&clean).unwrap();
    let other = Memory::map(64 * PAGE, None);
    let mut slot = Slot::new(1, 64 << 20, other.pointer(), other.len() as u64);
    slot.flags = SlotFlags::CLEAN | SlotFlags::PAUSED;
    slot.cookie = 99;
    // SAFETY: The memory is dropped after the slot is removed.
    unsafe { guest.log.set_slot(&slot).unwrap() };
    guest.log.mark_slot(1, 3 * PAGE as u64, 1).unwrap();
    let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
    let extent = pass.extents().next().unwrap().unwrap();
    assert_eq!(
        (extent.slot(), extent.cookie(), extent.gpa()),
        (1, 99, (64 << 20) + 0x3000)
    );
    let mut words = [0];
    guest
        .log
        .remove_slot(1, RemoveFlags::PAUSED, Some(&mut words))
        .unwrap();
    assert_eq!(words, [1 << 3]);
    assert_eq!(
        guest
            .log
            .remove_slot(1, RemoveFlags::NONE, None)
            .unwrap_err()
            .errno(),
        ENOENT
    );
}

#[test]
fn a_limited_vcpu_pauses_and_a_plan_advises() {
    if probe(kvm(), &Options::default())
        .unwrap()
        .0
        .ring_max_entries
        == 0
    {
        println!("skip: this kernel has no dirty rings");
        return;
    }
    let guest = Guest::new(Mode::Ring).unwrap();
    let rewritten = CursorOptions {
        flags: CursorFlags::SKIP_REWRITTEN,
        ..CursorOptions::default()
    };
    let mut cursor = guest.log.cursor(&rewritten).unwrap();
    let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
    while pass.read_into(&mut Vec::with_capacity(8)).unwrap() > 0 {}
    pass.commit().unwrap();
    guest.vcpu.limit(PAGE as u64).unwrap();
    while guest.rounds() < 1 {
        guest.run_once().unwrap();
    }
    guest.log.reap(ReapFlags::NOW).0.unwrap();
    let mut cookies = [0; 2];
    assert_eq!(guest.log.kicks(&mut cookies).unwrap(), 1);
    assert_eq!(cookies[0], 7);
    assert!(guest.vcpu.pause_due().unwrap() > Duration::ZERO);
    let advise = Goal {
        flags: GoalFlags::ADVISE,
        ..Goal::default()
    };
    let plan = Plan::new(&cursor, &advise).unwrap();
    plan.sent(PAGE as u64, Duration::from_millis(1)).unwrap();
    let advice = plan.next(0).unwrap();
    assert!(advice.again() > Duration::ZERO);
    assert!(advice.raw().pending_bytes as usize >= MEMORY_BYTES - FIRST_GPA);
}
