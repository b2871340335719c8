// SPDX-License-Identifier: MIT
//! On the model kernel: the proof of a copy, and what the types of this crate add.

mod common;

#[path = "common/model.rs"]
mod model;

use common::*;
use dirtylog::{
    Bitmap, BitmapFlags, Bound, CursorFlags, CursorOptions, Extent, Goal, GoalFlags, HarvestFlags,
    IoVec, Log, Mode, Options, Plan, ReapFlags, Slot, TakeFlags, Verdict, WatchFlags,
};
use model::*;
use std::collections::HashSet;
use std::os::unix::io::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const MEMORY_BYTES: usize = 4 << 20;
const PAGES: usize = MEMORY_BYTES / PAGE;

const CLEAN: CursorOptions = CursorOptions {
    flags: CursorFlags::CLEAN,
    vcpus: 1,
    slot: 0,
    coalesce_bytes: 0,
    max_extent_bytes: 0,
};

fn guest() -> Guest {
    Guest::new(0, Options::default(), MEMORY_BYTES).unwrap()
}

fn migrate_live(has: u32, mode: Mode, lose_page: bool) -> Outcome {
    let small = Options {
        mode,
        ring_entries: 512,
        ..Options::default()
    };
    let guest = Guest::new(has, small, MEMORY_BYTES).unwrap();
    assert_eq!(guest.log.config().unwrap().mode, mode as u32);
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let mut count = 0u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                let page = count.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                guest
                    .store(page as usize % PAGES * PAGE + 8, count)
                    .unwrap();
                if count % 200 == 0 {
                    rounds.fetch_add(1, Ordering::Relaxed);
                    thread::yield_now();
                }
            }
            guest.leave();
        });
        let reaper = threads.spawn(|| reap(&guest.log, &stop).unwrap());
        let _end = OnDrop(&stop);
        let progress = || rounds.load(Ordering::Relaxed);
        let pause = || {
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            reaper.join().unwrap();
        };
        migrate(&guest.log, &guest.memory, progress, pause, lose_page).unwrap()
    })
}

#[test]
fn a_copy_made_while_the_guest_writes_is_equal() {
    prove(|lose_page| migrate_live(0, Mode::Ring, lose_page));
}

#[test]
fn so_is_one_made_by_bitmaps() {
    prove(|lose_page| migrate_live(HAS_NOTHING, Mode::Bitmap, lose_page));
}

#[test]
fn handles_may_go_to_other_threads() {
    fn both<T: Send + Sync>() {}
    both::<Log>();
    both::<dirtylog::Vcpu>();
    both::<dirtylog::Cursor>();
    both::<dirtylog::Pass<'static>>();
    both::<Extent<'static>>();
    both::<dirtylog::Error>();
}

#[test]
fn threads_that_read_a_pass_get_each_page_once() {
    let guest = guest();
    let cut = CursorOptions {
        max_extent_bytes: PAGE as u64,
        ..CursorOptions::default()
    };
    let mut cursor = guest.log.cursor(&cut).unwrap();
    let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
    let parts = thread::scope(|threads| {
        let read = || {
            pass.extents()
                .map(|extent| extent.unwrap().gpa())
                .collect::<Vec<_>>()
        };
        let readers = [threads.spawn(read), threads.spawn(read)];
        readers.map(|reader| reader.join().unwrap())
    });
    let all = parts.concat();
    assert_eq!(all.len(), PAGES);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), PAGES);
    pass.commit().unwrap();
    assert_eq!(
        cursor
            .harvest(HarvestFlags::PAUSED)
            .unwrap()
            .pending_bytes(),
        0
    );
}

#[test]
fn what_is_not_acknowledged_is_pending_again() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    for page in [3, 4, 5, 9] {
        guest.store(page * PAGE, 1).unwrap();
    }
    guest.leave();
    {
        let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
        let extents: Vec<_> = pass.extents().map(Result::unwrap).collect();
        assert_eq!(extents.len(), 2);
        assert_eq!(pass.stats().unwrap().unacked_bytes, 4 * PAGE as u64);
        let middle = extents[0].part(PAGE as u64, PAGE as u64).unwrap();
        assert_eq!((middle.gpa(), middle.offset_bytes()), (0x4000, 0x4000));
        assert!(extents[0].part(PAGE as u64, 3 * PAGE as u64).is_none());
        assert!(extents[0].part(8, PAGE as u64).is_none());
        pass.ack(&[middle, extents[1]]).unwrap();
        let twice = pass.ack(&[middle]).unwrap_err();
        assert_eq!(twice.errno(), EINVAL);
        assert!(twice.why().contains("acknowledged already"), "{twice}");
    }
    let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
    let gpas: Vec<_> = pass.extents().map(|extent| extent.unwrap().gpa()).collect();
    assert_eq!(gpas, [0x3000, 0x5000]);
}

#[test]
fn a_commit_refuses_what_an_iterator_kept() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    guest.store(PAGE, 1).unwrap();
    guest.store(5 * PAGE, 1).unwrap();
    guest.leave();
    let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
    let first = pass.extents().next().unwrap().unwrap();
    assert_eq!(first.gpa(), 0x1000);
    let error = pass.commit().unwrap_err();
    assert_eq!(error.errno(), EBUSY);
    assert!(error.why().contains("nothing is committed"), "{error}");
    let again = cursor.harvest(HarvestFlags::PAUSED).unwrap();
    assert_eq!(again.pending_bytes(), 2 * PAGE as u64);
    assert_eq!(again.extents().count(), 2);
    again.commit().unwrap();
    assert_eq!(
        cursor
            .harvest(HarvestFlags::PAUSED)
            .unwrap()
            .pending_bytes(),
        0
    );
}

#[test]
fn a_pass_that_was_leaked_is_ended_by_the_next() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    guest.log.mark_gpa(0, 0, 1).unwrap();
    let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
    assert_eq!(pass.extents().count(), 1);
    std::mem::forget(pass);
    assert_eq!(
        cursor.harvest(HarvestFlags::NONE).unwrap().pending_bytes(),
        PAGE as u64
    );
}

#[test]
fn a_limited_vcpu_is_kicked_and_pauses() {
    let options = Options {
        mode: Mode::Ring,
        ..Options::default()
    };
    let guest = Guest::new(0, options, MEMORY_BYTES).unwrap();
    let _cursor = guest.log.cursor(&CLEAN).unwrap();
    assert_eq!(guest.vcpu.pause_due().unwrap(), Duration::ZERO);
    guest.vcpu.limit(PAGE as u64).unwrap();
    for page in 0..100 {
        guest.store(page * PAGE, 1).unwrap();
    }
    guest.log.reap(ReapFlags::NOW).0.unwrap();
    let mut cookies = [0; 4];
    assert_eq!(guest.log.kicks(&mut cookies).unwrap(), 1);
    assert!(guest.vcpu.pause_due().unwrap() > Duration::ZERO);
    assert_eq!(guest.log.stats().unwrap().limited_vcpus, 1);
    guest.vcpu.limit(0).unwrap();
    assert_eq!(guest.vcpu.pause_due().unwrap(), Duration::ZERO);
}

#[test]
fn a_plan_advises() {
    let guest = guest();
    let options = CursorOptions {
        flags: CursorFlags::SKIP_REWRITTEN,
        ..CLEAN
    };
    let mut cursor = guest.log.cursor(&options).unwrap();
    let goal = Goal {
        downtime: Duration::from_secs(1),
        total: Duration::from_secs(60),
        ..Goal::default()
    };
    let plan = Plan::new(&cursor, &goal).unwrap();
    assert!(Plan::new(&cursor, &goal)
        .unwrap_err()
        .why()
        .contains("a plan"));
    plan.sent(PAGE as u64, Duration::from_millis(1)).unwrap();
    let advice = plan.next(0).unwrap();
    assert_eq!(advice.verdict(), Verdict::Continue);
    assert_eq!(advice.bound_by(), Bound::None);
    assert_eq!(advice.raw().pending_bytes, MEMORY_BYTES as u64);
    assert!(advice.again() > Duration::ZERO);
    cursor.harvest(HarvestFlags::ALL).unwrap();
    let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
    while pass.read_into(&mut Vec::with_capacity(8)).unwrap() > 0 {}
    pass.commit().unwrap();
    assert_eq!(plan.next(0).unwrap().verdict(), Verdict::Switchover);
    drop(plan);
    let advise = Goal {
        flags: GoalFlags::ADVISE,
        ..goal
    };
    assert!(Plan::new(&cursor, &advise).is_ok());
}

#[test]
fn marks_of_every_kind_are_seen() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    let at = |page: usize| guest.memory.pointer().wrapping_add(page * PAGE);
    guest.log.mark_gpa(0, 1 << 12, 1).unwrap();
    guest.log.mark_slot(0, 3 << 12, 4096).unwrap();
    guest.log.mark_hva(at(5).wrapping_add(9), 1).unwrap();
    let iov = [
        IoVec {
            iov_base: at(7).cast(),
            iov_len: 100,
        },
        IoVec {
            iov_base: at(9).cast(),
            iov_len: 100,
        },
    ];
    guest.log.mark_iov(&iov, 50, 60).unwrap();
    let outside = guest.log.mark_gpa(0, MEMORY_BYTES as u64, 1).unwrap_err();
    assert_eq!((outside.errno(), outside.why().is_empty()), (ENOENT, false));
    assert_eq!(std::io::Error::from(outside).raw_os_error(), Some(ENOENT));
    let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
    let gpas: Vec<_> = pass
        .extents()
        .map(|extent| extent.unwrap().gpa() >> 12)
        .collect();
    assert_eq!(gpas, [1, 3, 5, 7, 9]);
}

#[test]
fn marks_of_a_foreign_log_are_seen() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    let foreign = Bitmap {
        flags: BitmapFlags::TAKE | BitmapFlags::LE,
        gpa: 2 << 12,
        bytes: 128 * 2048,
        page_bytes: 2048,
        ..Bitmap::default()
    };
    let words = [AtomicU64::new(1 | 1 << 9), AtomicU64::new(0)];
    let marked = guest.log.mark_bitmap(&foreign, &words).unwrap();
    assert_eq!(
        (marked, words[0].load(Ordering::Relaxed)),
        (2 * PAGE as u64, 0)
    );
    let refused = guest.log.mark_bitmap(&foreign, &words[..1]).unwrap_err();
    assert!(refused.why().contains("n_words"));
    let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
    let gpas: Vec<_> = pass
        .extents()
        .map(|extent| extent.unwrap().gpa() >> 12)
        .collect();
    assert_eq!(gpas, [2, 6]);
}

#[test]
fn a_watch_finds_writes_and_an_audit_forgotten_marks() {
    let guest = guest();
    let alias = Memory::map(MEMORY_BYTES, None);
    let watch = |at: *mut u8, flags| {
        // SAFETY: The alias outlives the watch, which ends below.
        unsafe { guest.log.watch_slot(0, at, flags) }
    };
    let own = watch(guest.memory.pointer(), WatchFlags::NONE).unwrap_err();
    assert_eq!(own.errno(), EINVAL);
    assert!(own.why().contains("alias"), "{own}");
    watch(alias.pointer(), WatchFlags::AUDIT).unwrap();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    let missed = CursorOptions {
        flags: CursorFlags::MISSED,
        ..CursorOptions::default()
    };
    let mut audit = guest.log.cursor(&missed).unwrap();
    for page in [3, 7] {
        guest.vm.wrote(alias.pointer().wrapping_add(page * PAGE));
    }
    guest.log.mark_slot(0, 3 << 12, 1).unwrap();
    for (cursor, pages) in [(&mut cursor, vec![3, 7]), (&mut audit, vec![7])] {
        let pass = cursor.harvest(HarvestFlags::NONE).unwrap();
        let found: Vec<_> = pass.extents().map(|e| e.unwrap().gpa() >> 12).collect();
        assert_eq!(found, pages);
    }
    watch(ptr::null_mut(), WatchFlags::NONE).unwrap();
    let stats = guest.log.stats().unwrap();
    assert_eq!(
        (stats.watched_bytes, stats.missed_bytes),
        (2 * PAGE as u64, PAGE as u64)
    );
}

#[test]
fn a_take_moves_pages_into_words() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CLEAN).unwrap();
    guest.store(65 * PAGE, 1).unwrap();
    guest.leave();
    let mut words = vec![0; PAGES / 64];
    let flags = TakeFlags::HARVEST | TakeFlags::PAUSED | TakeFlags::NO_CLEAR;
    assert_eq!(cursor.take(0, flags, &mut words).unwrap(), PAGE as u64);
    guest.log.clear_slot(0, 0, MEMORY_BYTES as u64).unwrap();
    assert_eq!(words[1], 2);
    assert_eq!(words.iter().filter(|&&word| word != 0).count(), 1);
    assert_eq!(
        cursor
            .take(0, TakeFlags::NONE, &mut words[..1])
            .unwrap_err()
            .errno(),
        EINVAL
    );
    assert_eq!(
        cursor.harvest(HarvestFlags::NONE).unwrap().pending_bytes(),
        0
    );
}

#[test]
fn errors_name_the_argument() {
    let guest = guest();
    let odd = Slot::new(1, 64 << 20, guest.memory.pointer().wrapping_add(1), 4096);
    // SAFETY: It is refused.
    let error = unsafe { guest.log.set_slot(&odd) }.unwrap_err();
    assert_eq!(error.errno(), EINVAL);
    assert!(error.why().contains("gpa, hva, bytes"), "{error}");
    assert_eq!(guest.log.last_error(), error.why());
    assert!(guest.log.describe().contains(error.why()));
    let bad = Options {
        ring_entries: 3,
        ..Options::default()
    };
    let error = Guest::new(0, bad, MEMORY_BYTES).err().unwrap();
    assert!(
        error.errno() == EINVAL && error.why().contains("power of two"),
        "{error}"
    );
}

#[test]
fn a_failed_harvest_opens_no_pass_and_loses_nothing() {
    for (has, call) in [
        (0, CALL_RESET_DIRTY_RINGS),
        (HAS_NOTHING, CALL_GET_DIRTY_LOG),
    ] {
        let guest = Guest::new(has, Options::default(), MEMORY_BYTES).unwrap();
        let mut cursor = guest.log.cursor(&CLEAN).unwrap();
        guest.store(PAGE, 1).unwrap();
        guest.leave();
        let fault = guest.vm.fail_once(call, 14); // EFAULT
        let error = cursor.harvest(HarvestFlags::PAUSED).unwrap_err();
        assert_eq!((error.errno(), guest.vm.injected(fault)), (14, 1));
        assert!(error.why().contains("could not be re"), "{error}");
        let pass = cursor.harvest(HarvestFlags::PAUSED).unwrap();
        assert!(pass.extents().any(|extent| extent.unwrap().gpa() <= 0x1000));
    }
}

#[test]
fn handles_outlive_their_log() {
    let guest = guest();
    let mut cursor = guest.log.cursor(&CursorOptions::default()).unwrap();
    let Guest {
        vcpu,
        log,
        vm,
        memory,
        ..
    } = guest;
    drop(log);
    let error = cursor.harvest(HarvestFlags::NONE).unwrap_err();
    assert_eq!(
        (error.errno(), error.why()),
        (ECANCELED, "the log is closed")
    );
    vcpu.drain().unwrap();
    drop((cursor, vcpu));
    drop((vm, memory));
}

#[test]
fn the_descriptor_says_when_to_reap() {
    let guest = Guest::new(
        0,
        Options {
            ring_entries: 512,
            ..Options::default()
        },
        MEMORY_BYTES,
    );
    let guest = guest.unwrap();
    let (result, again) = guest.log.reap(ReapFlags::NONE);
    assert_eq!((result, again), (Ok(()), None)); // nothing is logged
    let _cursor = guest.log.cursor(&CLEAN).unwrap();
    let fd = guest.log.fd().unwrap().as_raw_fd();
    guest.store(0, 1).unwrap();
    assert!(wait_readable(fd, Duration::from_secs(20)));
    let (result, again) = guest.log.reap(ReapFlags::NOW);
    assert!(result.is_ok() && again.is_some());
    assert_eq!(guest.log.stats().unwrap().entries, 1);
}
