/* SPDX-License-Identifier: MIT */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

/*
 * The model kernel: KVM's dirty logging in user space, behind struct dl_os. It follows KVM in
 * its locks, orderings, TLB flushes and errno values, and the differential tests compare it with
 * the real kernel. The other imitations in tests/ keep a small part of that: unit/fake_os.h lets a
 * test choose each result, unit/fake_rings.h and fuzz/ring_kernel.c have rings and one thread,
 * bench/kernel.h costs next to nothing, and tuning/world.h runs in virtual time.
 *
 *	struct model *model = model_new(NULL);
 *	int vm = model_vm_create(model);
 *	struct dl_options options = { .size = sizeof(options), .os = model_os(model) };
 *	... dl_log_open(vm, &options, ...) ...
 *	int vcpu = model_vcpu_create(model, vm);
 *	... dl_slot_set(), dl_vcpu_add(log, vcpu, 0, 0, ...), dl_cursor_new() ...
 *	while (model_vcpu_write(model, vcpu, 0, gpa, &value, 8) == KVM_EXIT_DIRTY_RING_FULL)
 *		... dl_vcpu_drain() ...
 *
 * File descriptors are fake (1 << 24 and up) and live until model_free(). Every function may be
 * called from any thread; vCPU threads run concurrently with ioctls as in the kernel. A slot's
 * userspace_addr is the guest's memory, and the model stores there. Reading it while the guest runs
 * is a data race; model_copy() reads it in a way that ThreadSanitizer accepts.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/os.h>

#include "names.h"

struct model;

/* Capabilities of the modelled kernel. The low six have the values of DL_HAS_*. */
enum {
	MODEL_HAS_RING_TSO = 1,	      /* KVM_CAP_DIRTY_LOG_RING */
	MODEL_HAS_RING_ACQ_REL = 2,   /* KVM_CAP_DIRTY_LOG_RING_ACQ_REL */
	MODEL_HAS_BACKUP = 4,	      /* KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP */
	MODEL_HAS_MANUAL_PROTECT = 8, /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	MODEL_HAS_INITIALLY_SET = 16, /* its KVM_DIRTY_LOG_INITIALLY_SET */
	MODEL_HAS_WATCH = 32,	      /* userfaultfd's WP_ASYNC, and PAGEMAP_SCAN */
	MODEL_HAS_NOTHING = 1 << 30,  /* none of them */
};

/* The order of steps in which a guest stores to a protected page. */
enum model_write_order {
	/* x86: entry and mapping together, then the store is retried (it may fault again). */
	MODEL_LOG_THEN_STORE = 0,
	/* arm64: the page becomes writable for every vCPU before the entry is written. */
	MODEL_MAP_THEN_LOG,
	/*
	 * An emulated instruction: memory is written, then logged, protected or not; every store
	 * makes an entry. Protection does not change.
	 */
	MODEL_STORE_THEN_LOG,
};

struct model_event;

/* A store to one page. */
struct model_stored {
	int vcpu_fd; /* -1: the kernel, while no vCPU is loaded */
	uint64_t hva;
	size_t bytes;
};

/* Zero is the default of every field: an x86-like kernel with 4 KiB pages. */
struct model_options {
	uint32_t has;		   /* MODEL_HAS_*; 0: all but MODEL_HAS_BACKUP */
	uint32_t page_bytes;	   /* host page; 0: 4096 */
	uint32_t arch;		   /* dl_os.arch; 0: DL_OS_ARCH_RING_ALONE_SAFE */
	uint32_t ring_min_bytes;   /* 0: the reserved entries, at least a page */
	uint32_t ring_max_bytes;   /* 0: 1 MiB */
	uint32_t reserved_entries; /* above the soft limit; 0: 64 + pml_entries */
	uint32_t pml_entries;	   /* > 0 (512): writes are buffered until the vCPU exits */
	uint32_t ring_first_index; /* where both free-running indices start */
	uint32_t slot_ids;	   /* KVM_CAP_NR_MEMSLOTS; 0: 32764 */
	uint32_t address_spaces;   /* 0: 2 */
	uint32_t write_order;	   /* enum model_write_order */
	/*
	 * > 1: only every n-th store checks for a full ring (and each entry after an exit), so
	 * rings overflow and their cells are overwritten.
	 */
	uint32_t batch_writes;
	/* Before 6.2: each entry checks the ring itself, even if no push requested an exit. */
	bool looks_at_ring_on_entry;
	/* Since 6.17: an unmasked pending signal cuts RESET short and drops its batch. */
	bool has_signal_short_reset;
	/*
	 * arm64 (set arch too): with a ring and no backup bitmap, a fault maps a whole huge page
	 * writable and logs one page of it.
	 */
	bool ring_alone_loses_huge_pages;
	/*
	 * Slots have no memory: userspace_addr is ignored, stores are only counted. For slots of
	 * many TiB; the model's own memory grows with the pages that are touched.
	 */
	bool no_memory;
	/* x86: deleting or moving a slot unmaps the pages of all slots: they are logged again. */
	bool delete_unmaps_all;
	/* arm64: a batch protects every page from its first to its last. */
	bool protects_ranges;
	bool virtual_clock;   /* begins at one second, and only model_advance() moves it */
	bool has_guest_memfd; /* KVM_SET_USER_MEMORY_REGION2 and KVM_MEM_GUEST_MEMFD exist */
	bool real_timers;     /* timers are descriptors of the system, for poll(2) */
	bool thread_clocks;   /* dl_os.thread_clock and thread_ns exist */

	void (*hook)(void *opaque, const struct model_event *event);
	void *hook_opaque;

	/*
	 * Called after every store, on its thread, in the order in which stores to a page are made
	 * visible. It may call nothing of the model: the vCPU's lock is held.
	 */
	void (*stored)(void *opaque, const struct model_stored *stored);
	void *stored_opaque;
};

struct model *model_new(const struct model_options *options); /* NULL: all defaults */
void model_free(struct model *model);			      /* no call may be running */
const struct dl_os *model_os(struct model *model);	      /* lives as long as the model */

int model_system_fd(struct model *model); /* stands in for /dev/kvm */
int model_vm_create(struct model *model); /* a VM's fd, or a negative errno value */
int model_vcpu_create(struct model *model, int vm_fd);

/*
 * The guest stores. Returns 0; KVM_EXIT_DIRTY_RING_FULL if KVM_RUN ended before the store (drain
 * and call again); or -EFAULT if there is no writable memory at gpa. With data NULL the write
 * counts and memory stays as it is. A range over several pages is stored page by page.
 */
int model_vcpu_write(struct model *model, int vcpu_fd, uint32_t as_id, uint64_t gpa,
		     const void *data, size_t bytes);

/*
 * The kernel stores on behalf of a loaded vCPU (steal time, a vCPU ioctl): logged into the ring
 * like an emulated store, without a check for a full ring. Tests overflow rings with this.
 */
int model_vcpu_write_unchecked(struct model *model, int vcpu_fd, uint32_t as_id, uint64_t gpa,
			       const void *data, size_t bytes);

/*
 * The kernel stores while no vCPU is loaded (an ITS save): logged into the slot's bitmap if it has
 * one, otherwise not recorded at all.
 */
int model_kernel_write(struct model *model, int vm_fd, uint32_t as_id, uint64_t gpa,
		       const void *data, size_t bytes);

/*
 * Begin and end KVM_RUN. A write enters the guest by itself. Entering returns 0 or
 * KVM_EXIT_DIRTY_RING_FULL. Exiting ends a run for another reason (KVM_EXIT_IO, ...), flushes the
 * PML buffer and sets kvm_run->exit_reason. After a full exit that stays KVM_EXIT_DIRTY_RING_FULL
 * until the vCPU is in the guest again.
 */
int model_vcpu_enter(struct model *model, int vcpu_fd);
void model_vcpu_exit(struct model *model, int vcpu_fd, uint32_t exit_reason);

/*
 * The VMM, or the kernel for it, has stored through a second mapping of guest memory; a scan of a
 * range that is registered with userfaultfd finds the pages. The addresses need not be mapped.
 */
void model_alias_wrote(struct model *model, const void *alias, size_t bytes);

/* The descriptors of userfaultfd and pagemap that are open; whether a number is one's. */
int model_watch_descriptors(struct model *model);
bool model_is_watch_fd(int fd);

/* memcpy() from or to guest memory that may be written at the same time. */
void model_copy(void *to, const void *from, size_t bytes);

/*
 * The state of a page. A page of a slot that logs is safe if MODEL_PAGE_PROTECTED or any RECORDED
 * bit is set, or the page is pending in the library.
 */
enum {
	MODEL_PAGE_PROTECTED = 1, /* the next write by a vCPU is logged (unmapped counts) */
	MODEL_PAGE_STALE_TLB = 2, /* protected but not flushed: a vCPU can still write it */
	MODEL_PAGE_IN_RING = 4,	  /* an entry is dirty in some ring */
	MODEL_PAGE_RELEASED = 8,  /* an entry is released and not yet taken by RESET */
	MODEL_PAGE_IN_BITMAP = 16,
	MODEL_PAGE_IN_PML = 32,
	MODEL_PAGE_RECORDED = MODEL_PAGE_IN_RING | MODEL_PAGE_IN_BITMAP | MODEL_PAGE_IN_PML,
};

/* Fills states[0 .. pages). Returns 0, or -ENOENT. slot is as_id << 16 | id. */
int model_page_states(struct model *model, int vm_fd, uint32_t slot, uint64_t first_page,
		      uint64_t pages, uint8_t *states);
uint64_t model_page_writes(struct model *model, int vm_fd, uint32_t slot, uint64_t page);

struct model_ring {
	uint32_t entries, soft_limit_entries;
	uint32_t dirty_index, reset_index; /* the kernel's own, free-running */
	uint64_t pushed_entries;
	uint64_t overwritten_entries; /* pushed over a cell that was not free */
};

int model_vcpu_ring(struct model *model, int vcpu_fd, struct model_ring *ring);

/*
 * Moves the virtual clock on. A timer tells how long it has left: UINT64_MAX if it is not armed, 0
 * if it has expired, which makes its descriptor readable until it is set again.
 */
void model_advance(struct model *model, uint64_t ns);
uint64_t model_timer_left(struct model *model, int fd);
bool model_is_timer(struct model *model, int fd); /* an open one */

/*
 * With the virtual clock and thread_clocks: the calling thread runs the vCPU from now on, and does
 * so whenever the clock moves, except for ns from now on; 0 ends that. A thread that runs no vCPU
 * never pauses. With the real clock these are the system's CPU clocks of threads.
 */
void model_vcpu_thread(struct model *model, int vcpu_fd);
void model_vcpu_pause(struct model *model, int vcpu_fd, uint64_t ns);

/* Calls other than ioctls, for faults, counters and events. */
enum {
	MODEL_CALL_MMAP = 1,  /* all mmaps */
	MODEL_CALL_MMAP_VCPU, /* those of a vCPU fd */
	MODEL_CALL_MUNMAP,
	MODEL_CALL_SIGMASK,
	MODEL_CALL_TIMER,
	MODEL_CALL_TIMER_SET,
	MODEL_CALL_VCPU_IOCTL, /* any ioctl of a vCPU fd */
	MODEL_CALL_DUP,
	MODEL_CALL_CLOSE, /* always closes, as close(2) does */
	MODEL_CALL_MADVISE,
	MODEL_CALL_MPROTECT,
	MODEL_CALL_USERFAULTFD,
	MODEL_CALL_PAGEMAP,
	MODEL_CALL_THREAD_CLOCK,
	MODEL_CALL_THREAD_NS,
};

/* The number of calls since model_new(), on all fds, including those that failed. */
uint64_t model_calls(struct model *model, unsigned long request);

/*
 * Makes a call fail. Of the matching calls, the first "skip" ones pass and the next "times" ones
 * fail (0: all). Up to 16 faults at once; the first that matches and is not used up decides.
 */
struct model_fault {
	unsigned long request; /* an ioctl or MODEL_CALL_* */
	uint32_t skip, times;
	int error;	/* EFAULT, ENOMEM, ... (positive) */
	bool after;	/* do the work first, then fail (GET: clears, delivers nothing) */
	bool only_slot; /* match this slot only (region ioctls, GET, CLEAR) ... */
	uint32_t slot;	/* ... or capability (KVM_ENABLE_CAP, KVM_CHECK_EXTENSION) */
};

/* Returns 0 or -ENOSPC; the second form returns the fault's number instead of 0. */
int model_fault(struct model *model, const struct model_fault *fault);
int model_fault_add(struct model *model, const struct model_fault *fault);

/* Makes KVM_RESET_DIRTY_RINGS misbehave; skip and times as above. One fault at a time. */
struct model_reset_fault {
	uint32_t skip, times;
	bool stop;		     /* return after stop_after_entries (0: no progress) */
	uint32_t stop_after_entries; /* over all rings of the VM */
	bool drop_batch;	     /* the batch collected then (or last) is not protected */
	bool late_flush; /* return without the TLB flush; the next flush makes up for it */
};

void model_reset_fault(struct model *model, const struct model_reset_fault *fault);
void model_faults_clear(struct model *model);

/*
 * The calls that have failed, and the resets that ended early, lost a batch or flushed late, since
 * model_new(): a test of faults asserts that there were some. Then those of one fault, and of the
 * resets, since it was set.
 */
uint64_t model_faults_injected(struct model *model);
uint64_t model_fault_injected(struct model *model, int fault);
uint64_t model_reset_faults_injected(struct model *model);

void model_flush_tlb(struct model *model, int vm_fd);

/*
 * Points at which the hook is called, on the thread that does the work. The hook may call any
 * function of the model, with two exceptions: at points marked [S] no ioctl of the same VM, whose
 * slots_lock is held (writes of vCPUs are allowed); at points marked [W] no memslot change and no
 * write of the same vCPU.
 */
enum model_point {
	MODEL_BEFORE_CALL,	 /* an ioctl, mmap, munmap or signal mask call begins */
	MODEL_AFTER_CALL,	 /* the call ends with result */
	MODEL_RESET_INVALIDATED, /* [S] an entry is taken (flags 0), its page not yet protected */
	MODEL_RESET_PROTECTED,	 /* [S] a batch of pages is protected, TLBs not flushed */
	MODEL_RESET_UNLOCKED,	 /* RESET has dropped slots_lock, only the flush is left */
	MODEL_BITMAP_PROTECTED,	 /* [S] GET or CLEAR took bits and protected, no flush yet */
	MODEL_GUEST_MAPPED,	 /* [W] MODEL_MAP_THEN_LOG: writable, no entry yet */
	MODEL_GUEST_LOGGED,	 /* [W] the entry is written, the store is not made */
	MODEL_GUEST_STORED,	 /* [W] MODEL_STORE_THEN_LOG: stored, no entry yet */
};

struct model_event {
	enum model_point point;
	int fd;		       /* of the call, or of the vCPU that writes or is reset */
	unsigned long request; /* the call's, or 0 */
	void *arg;	       /* the call's */
	int result;	       /* MODEL_AFTER_CALL: 0, a count, or a negative errno value */
	uint32_t slot;	       /* slot of the page concerned, if any ... */
	uint64_t page;	       /* ... and the page in it */
};

/* Call this while no other thread uses the model. NULL removes the hook. */
void model_hook(struct model *model, void (*hook)(void *opaque, const struct model_event *event),
		void *opaque);

#endif
