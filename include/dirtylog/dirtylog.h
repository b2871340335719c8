/* SPDX-License-Identifier: MIT */
#ifndef DIRTYLOG_DIRTYLOG_H
#define DIRTYLOG_DIRTYLOG_H

/*
 * libdirtylog: which guest pages changed since I last asked?
 *
 * Model:    slots and vCPUs are sources, cursors are consumers; a cursor switches logging on.
 * Setup:    dl_log_open; dl_slot_set for each memslot; dl_vcpu_add before a vCPU first runs.
 * Consumer: dl_cursor_new; passes of dl_harvest, read, ack, end, the last one _PAUSED; free.
 * vCPU:     dl_vcpu_drain on KVM_EXIT_DIRTY_RING_FULL; dl_vcpu_pause_due if limits are used.
 * Device:   write guest memory, then dl_mark_*, then notify the guest.
 * Reaper:   poll dl_log_fd in any event loop; when readable: dl_log_reap, dl_log_kicks.
 * Plan:     dl_plan_new; dl_plan_sent and dl_plan_next while a migration runs; free.
 *
 * WORDS. A slot is a KVM memslot, named as KVM names it: as_id << 16 | id. A page is a host page
 * (4, 16 or 64 KiB: dl_config.page_bytes). Pending: known dirty and not handed out to a cursor. An
 * extent: adjacent dirty pages of one slot. A pass: from dl_harvest() to dl_cursor_end().
 *
 * THE PROMISE. A cursor sees every write that is made after dl_cursor_new() returned: a page that
 * is written after its contents were read is handed out again. The library may hand out a page that
 * did not change; it never withholds one that did. No library could notice that one of these
 * conditions is not met:
 *   - every slot that the guest can write and KVM can log is registered by dl_slot_set(), and
 *     every vCPU by dl_vcpu_add(), before it first runs (KVM's private slots do not count);
 *   - registered slots are created, changed and deleted by the library only (DL_SLOT_EXISTS adopts
 *     a new one), and the library is the VM's only user of KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
 *     KVM_RESET_DIRTY_RINGS, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 and KVM_MEM_LOG_DIRTY_PAGES;
 *   - contents are read after dl_cursor_read(), dl_cursor_take() or dl_slot_clear() has returned;
 *   - memory that anybody but a vCPU writes or discards (the VMM, a device model, vhost, a balloon)
 *     is written, then marked, then the guest is notified; what is written through the alias of
 *     dl_slot_watch(), while no thread unmaps it or ends its watch, needs no mark;
 *   - a cursor that covers some slots only (WANTED, ONE_SLOT) covers all that map their memory, or
 *     nobody writes through the others;
 *   - all channels to a receiver are flushed between two passes of a cursor, and before a take of
 *     pages that may be on their way; a receiver maps memory that several slots share as the source
 *     does;
 *   - the last pass is _PAUSED: no vCPU is in KVM_RUN, devices are quiet, in-kernel state (an ITS)
 *     is saved; it is repeated, with a flush between, until dl_harvest() says that 0 bytes are
 *     pending;
 *   - DL_BACKUP_OFF is used only where no in-kernel writer exists;
 *   - no thread is parked, cancelled or unwound inside a call.
 * A stop, freezer, ptrace or io_uring task work inside KVM_RESET_DIRTY_RINGS can make the kernel
 * drop entries; the library notices where it can, and makes everything pending.
 *
 * ERRORS. 0 or a count is success, a negative errno value is failure; errno is untouched. Bad input
 * changes nothing. After any other error nothing is lost, and the call can be made again.
 *   -EINVAL      an argument is wrong: dl_log_last_error() names it, unless the handle is NULL
 *   -E2BIG       a struct's tail that this release does not know is not zero, or a ring too large
 *   -EBADF       not a file descriptor of the right KVM kind
 *   -EOPNOTSUPP  the kernel or the mode lacks it
 *   -EBUSY       wrong state or order
 *   -ENOENT, -EEXIST  no such slot or memory; the slot, vCPU or address range is taken
 *   -ENOMEM      no memory
 *   -ECANCELED   the log is closed
 *   -EIO         the caller is a child of fork(2), or an interrupted call cannot be repeated
 *   any other    the kernel's, from the ioctl that the function's comment names
 * Never -EINTR or -EAGAIN. Out handles are NULL after a failure.
 *
 * THREADS. Any call, any thread, also on the same handle; close, free and remove are a handle's
 * last call and take NULL. "May block": waits for another thread's call on the same log, or for an
 * RCU grace period. No call sleeps on its own. None may be made from a signal handler. The library
 * starts no thread, installs no handler and prints nothing. A call that may block also makes
 * rt_sigprocmask(2), and futex(2) where it has to wait; one that makes or frees memory, what
 * malloc(3) and free(3) do. doc/embedding.md: the whole table of system calls; signals, fork.
 *
 * STRUCTS. The caller sets size; 0 is the safe value of every other field. A struct that is passed
 * in and is larger than this release knows is accepted while its tail is zero; the tail of one that
 * is filled is zeroed. Enums gain values: an unknown one passed in is -EINVAL, one read is to be
 * ignored. pending_bytes, taken_bytes, marked_bytes, again_ns and why may be NULL.
 *
 * Everything here is new or changed in 0.2.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define DL_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DL_MUST_CHECK
#endif

#define DL_VERSION_MAJOR 0
#define DL_VERSION_MINOR 2
#define DL_VERSION_PATCH 0
#define DL_VERSION	 (DL_VERSION_MAJOR << 16 | DL_VERSION_MINOR << 8 | DL_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility push(default)
#endif

/* ---- Handles: opaque, counted inside, released in any order, on any thread ---- */

struct dl_log;	  /* the dirty log of one VM */
struct dl_vcpu;	  /* one vCPU of it: a source */
struct dl_cursor; /* one consumer: what changed since it last committed */
struct dl_plan;	  /* convergence control of one cursor */
struct dl_os;	  /* dirtylog/os.h: the table of system calls */
struct iovec;	  /* <sys/uio.h> */

/* ---- Choices ---- */

enum dl_mode {
	DL_MODE_AUTO = 0,   /* the best that is safe here: ring, else bitmap */
	DL_MODE_RING = 1,   /* rings, or fail */
	DL_MODE_BITMAP = 2, /* no rings; better where logging stays on and passes are rare */
};

enum dl_backup {
	DL_BACKUP_AUTO = 0, /* use the backup bitmap wherever the kernel has it */
	DL_BACKUP_OFF = 1,  /* no in-kernel writer exists. No rings where they need the backup */
	DL_BACKUP_REQUIRED = 2, /* an in-kernel writer (an ITS) exists: no rings without it */
};

/* dl_config.has */
enum dl_has {
	DL_HAS_RING_TSO = 1,	   /* KVM_CAP_DIRTY_LOG_RING */
	DL_HAS_RING_ACQ_REL = 2,   /* KVM_CAP_DIRTY_LOG_RING_ACQ_REL */
	DL_HAS_BACKUP = 4,	   /* KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP */
	DL_HAS_MANUAL_PROTECT = 8, /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	DL_HAS_INITIALLY_SET = 16, /* its KVM_DIRTY_LOG_INITIALLY_SET */
	DL_HAS_WATCH = 32,	   /* userfaultfd WP_ASYNC and PAGEMAP_SCAN: Linux 6.7 */
};

/* dl_advice.verdict; treat an unknown one as CONTINUE */
enum dl_verdict {
	DL_VERDICT_CONTINUE = 0,   /* send what is pending, ask again */
	DL_VERDICT_SWITCHOVER = 1, /* what is pending fits the downtime: pause now */
	DL_VERDICT_THROTTLED = 2,  /* as CONTINUE, with vCPUs limited */
	DL_VERDICT_LATE = 3,	   /* as THROTTLED, past the budget */
	DL_VERDICT_DIVERGING = 4,  /* does not converge at the floor: give up or go post-copy */
};

/* dl_advice.bound_by */
enum dl_bound {
	DL_BOUND_NONE = 0,
	DL_BOUND_STALL = 1,    /* the backlog does not shrink by itself */
	DL_BOUND_DEADLINE = 2, /* the budget */
	DL_BOUND_FLOOR = 3,    /* least_run_ppm */
	DL_BOUND_PAUSE = 4,    /* longest_pause_ns */
	DL_BOUND_IGNORED = 5,  /* a vCPU that is to pause does not ask dl_vcpu_pause_due() */
};

/* ---- Flags; value 1 is _PAUSED everywhere: no vCPU is in KVM_RUN during the call ---- */

/* dl_slot.flags; PAUSED, CLEAN and EXISTS act once and are no state */
enum dl_slot_flag {
	DL_SLOT_PAUSED = 1,  /* CLEAN holds under INITIALLY_SET too */
	DL_SLOT_CLEAN = 2,   /* new or newly WANTED: every receiver already has its contents */
	DL_SLOT_EXISTS = 4,  /* new: the caller created it in KVM, unlogged; excludes CLEAN */
	DL_SLOT_NO_LOG = 8,  /* KVM cannot log it: guest_memfd, device memory */
	DL_SLOT_WANTED = 16, /* DL_CURSOR_WANTED cursors log it; may change at any time */
};

/* dl_slot_remove() */
enum dl_remove_flag {
	DL_REMOVE_PAUSED = 1, /* words get what is dirty; 0: all of it counts as dirty */
};

/* dl_harvest() */
enum dl_harvest_flag {
	DL_HARVEST_PAUSED = 1, /* I/O and device state are complete too: nothing is left behind */
	DL_HARVEST_ALL = 2,    /* first make everything pending: a full copy */
};

/* dl_log_reap() */
enum dl_reap_flag {
	DL_REAP_NOW = 2, /* every ring, not only those about to fill */
};

/* dl_cursor_options.flags */
enum dl_cursor_flag {
	DL_CURSOR_CLEAN = 2,	/* start with nothing pending; 0: with everything */
	DL_CURSOR_WANTED = 4,	/* only DL_SLOT_WANTED slots; 0: all, and all new ones */
	DL_CURSOR_ONE_SLOT = 8, /* only that slot, whenever it exists: a display; excludes WANTED */
	DL_CURSOR_MISSED = 16,	/* an audit: only what a watch found and no mark named */
	DL_CURSOR_SKIP_REWRITTEN = 32, /* the first pass leaves what is written again to the next */
};

/* dl_cursor_end() */
enum dl_end_flag {
	DL_END_COMMIT = 2, /* acknowledge all that was read; 0: the rest is pending again */
};

/* dl_cursor_take() */
enum dl_take_flag {
	DL_TAKE_PAUSED = 1,   /* with HARVEST: as DL_HARVEST_PAUSED */
	DL_TAKE_HARVEST = 2,  /* harvest first: KVM_GET_DIRTY_LOG, on every kernel */
	DL_TAKE_NO_CLEAR = 4, /* leave it writable: dl_slot_clear() before reading contents */
	DL_TAKE_LE = 8,	      /* little-endian words, as KVM's; 0: host order */
};

/* dl_extent.flags */
enum dl_extent_flag {
	DL_EXTENT_PADDED = 1, /* contains clean pages: coalesce_bytes */
};

/* dl_slot_watch() */
enum dl_watch_flag {
	DL_WATCH_AUDIT = 2, /* count what was never marked; show it to DL_CURSOR_MISSED */
};

/* dl_bitmap.flags */
enum dl_bitmap_flag {
	DL_BITMAP_TAKE = 2, /* the writer is live: words are shared with it, bits are taken */
	DL_BITMAP_LE = 4,   /* little-endian words, as vhost-user's; 0: host order */
};

/* dl_goal.flags */
enum dl_goal_flag {
	DL_GOAL_ADVISE = 2, /* set no limits, only advise */
};

/* ---- Structs: versioned by size, except dl_extent, whose stride is frozen ---- */

/* dl_log_open(), dl_probe() */
struct dl_options {
	uint32_t size;		/* sizeof(struct dl_options) */
	uint32_t flags;		/* 0 */
	uint32_t mode;		/* enum dl_mode */
	uint32_t backup;	/* enum dl_backup */
	uint32_t ring_entries;	/* per vCPU, a power of two; 0: a good size */
	uint32_t reserved;	/* 0 */
	uint64_t idle_ns;	/* longest interval between looks at idle rings; 0: 100 ms */
	const struct dl_os *os; /* NULL: the system's; outlives every handle of the log */
};

/* what the kernel offers; what is, or would be, in use */
struct dl_config {
	uint32_t size;		   /* sizeof(struct dl_config) */
	uint32_t has;		   /* enum dl_has */
	uint32_t mode;		   /* DL_MODE_RING or DL_MODE_BITMAP */
	uint32_t backup;	   /* 1: the backup bitmap is in use beside the rings */
	uint32_t ring_entries;	   /* per vCPU; 0 in bitmap mode */
	uint32_t ring_max_entries; /* the kernel's limit; 0: no rings */
	uint32_t page_bytes;	   /* host page: the unit of the log */
	uint32_t reserved;	   /* 0 */
};

/* a memslot */
struct dl_slot {
	uint32_t size;	    /* sizeof(struct dl_slot) */
	uint32_t flags;	    /* enum dl_slot_flag */
	uint32_t slot;	    /* as_id << 16 | id, as in KVM */
	uint32_t kvm_flags; /* KVM_MEM_*, except KVM_MEM_LOG_DIRTY_PAGES: the library's */
	uint64_t gpa;	    /* guest physical address, page aligned */
	uint64_t bytes;	    /* a multiple of the page size, not 0 */
	uint64_t hva;	    /* host virtual address, page aligned, zero-extended */
	uint64_t cookie;    /* the caller's: an offset in a file, a pointer, an index */
};

/* adjacent dirty pages of one slot; 64 bytes for good */
struct dl_extent {
	uint64_t gpa;	       /* guest physical address of the first byte */
	uint64_t hva;	       /* host virtual address of the first byte */
	uint64_t offset_bytes; /* from the start of the slot */
	uint64_t bytes;	       /* a multiple of the page size */
	uint64_t cookie;       /* dl_slot.cookie: whose memory it is */
	uint64_t ticket;       /* the library's, for dl_cursor_ack(): leave it as it is */
	uint32_t slot;	       /* as_id << 16 | id when the pass began */
	uint32_t flags;	       /* enum dl_extent_flag */
	uint64_t reserved;     /* 0 */
};

struct dl_cursor_options {
	uint32_t size;		   /* sizeof(struct dl_cursor_options) */
	uint32_t flags;		   /* enum dl_cursor_flag */
	uint32_t vcpus;		   /* of the VM now: fewer rings are -EBUSY; 0: unchecked */
	uint32_t slot;		   /* as_id << 16 | id, for DL_CURSOR_ONE_SLOT */
	uint64_t coalesce_bytes;   /* join extents over clean gaps up to this; 0: never */
	uint64_t max_extent_bytes; /* of one extent, rounded down to pages; 0: no limit */
};

struct dl_cursor_stats {
	uint32_t size;		/* sizeof(struct dl_cursor_stats) */
	uint32_t reserved;	/* 0 */
	uint64_t pending_bytes; /* known dirty, not handed out */
	uint64_t unacked_bytes; /* handed out or read ahead, not acknowledged */
	uint64_t read_bytes;	/* handed out since dl_cursor_new(), takes included */
	uint64_t acked_bytes;	/* acknowledged since dl_cursor_new(), takes included */
	uint64_t passes;	/* begun since dl_cursor_new() */
};

/* since open (a log) or add (a vCPU) */
struct dl_stats {
	uint32_t size;		     /* sizeof(struct dl_stats) */
	uint32_t limited_vcpus;	     /* now held back by a limit */
	uint64_t entries;	     /* ring entries harvested */
	uint64_t new_pages;	     /* found dirty, and new: see dl_plan_new() */
	uint64_t duplicates;	     /* ring entries of pages already dirty */
	uint64_t stale_entries;	     /* ring entries of slots that are gone */
	uint64_t resets;	     /* KVM_RESET_DIRTY_RINGS calls */
	uint64_t short_resets;	     /* resets that left released entries behind */
	uint64_t overflows;	     /* rings found overflowed or out of step */
	uint64_t repairs;	     /* harvests that made everything pending for it */
	uint64_t full_exits;	     /* drains that answered a full ring */
	uint64_t high_water_entries; /* most entries found in one ring at once */
	uint64_t ioctl_ns;	     /* in RESET, GET, CLEAR and slot ioctls */
	uint64_t dirty_bytes_per_s;  /* newly dirtied per second of running, over the last second */
	uint64_t paused_ns;	     /* pauses that limits asked for */
	uint64_t watched_bytes;	     /* found by watches; 0 for a vCPU */
	uint64_t missed_bytes;	     /* of these, never marked; 0 for a vCPU */
	uint64_t late_marks;	     /* pages marked while a paused pass was open */
	uint64_t repair_bytes;	     /* made pending by repairs */
	uint64_t failed_marks;	     /* dl_mark_*() calls that were -ENOENT; 0 for a vCPU */
	uint64_t written_bytes_per_s; /* as dirty_bytes_per_s, pages already dirty included */
};

struct dl_goal {
	uint32_t size;		   /* sizeof(struct dl_goal) */
	uint32_t flags;		   /* enum dl_goal_flag */
	uint64_t downtime_ns;	   /* longest pause of the guest at the switch; 0: 300 ms */
	uint64_t fixed_ns;	   /* part of it, not all: device state, the switch */
	uint64_t total_ns;	   /* budget from now to the end of the switch; 0: none */
	uint64_t longest_pause_ns; /* of one vCPU at a time; 0: downtime_ns */
	uint32_t least_run_ppm;	   /* floor of a vCPU's running time; 0: 10,000, 1% */
	uint32_t reserved;	   /* 0 */
};

struct dl_advice {
	uint32_t size;		      /* sizeof(struct dl_advice) */
	uint32_t verdict;	      /* enum dl_verdict */
	uint64_t pending_bytes;	      /* of the cursor, with what is unacked and unsent */
	uint64_t dirty_bytes_per_s;   /* newly dirtied by the guest, over some two seconds */
	uint64_t written_bytes_per_s; /* the same, pages already dirty included */
	uint64_t wire_bytes_per_s;    /* of guest memory that the wire takes while it is busy */
	uint64_t downtime_ns;	      /* estimate, if the guest were paused now */
	uint64_t remaining_ns;	      /* estimate, until the switch; UINT64_MAX: never */
	uint64_t again_ns;	      /* ask again after this; limits lapse at ten times it */
	uint64_t least_pending_bytes; /* the best so far */
	uint32_t run_ppm;	      /* wanted of every vCPU, where the log limits none */
	uint32_t limited_vcpus;	      /* now held back by this plan */
	uint32_t bound_by;	      /* enum dl_bound: what keeps it from the goal */
	uint32_t reserved;	      /* 0 */
};

/* a foreign dirty log: vhost, vhost-user, VFIO, iommufd, libvfio-user */
struct dl_bitmap {
	uint32_t size;	     /* sizeof(struct dl_bitmap) */
	uint32_t flags;	     /* enum dl_bitmap_flag */
	uint32_t as_id;	     /* address space of gpa */
	uint32_t reserved;   /* 0 */
	uint64_t gpa;	     /* of bit 0, a multiple of page_bytes */
	uint64_t bytes;	     /* of memory that the bitmap covers */
	uint64_t page_bytes; /* per bit: a power of two from 512 to 1 GiB, not only the host's */
};

/* ---- Library ---- */

/* Returns the version of the linked library, encoded as DL_VERSION. No system call. */
uint32_t dl_library_version(void);

/*
 * Reports what dl_log_open() would choose on fd, /dev/kvm or a VM, and changes nothing.
 *   options   as for dl_log_open(); may be NULL
 *   would_be  filled; its size is set by the caller. May be NULL.
 *   why       receives a sentence of at most why_bytes bytes with the NUL, on failure too
 * A choice that only opening can refuse (a vCPU or slot that exists already) is not foreseen.
 * -EINVAL: options or would_be. -E2BIG: options. -EBADF: fd is neither. -EOPNOTSUPP: DL_MODE_RING,
 * and rings are not there, or not with the backup. -EIO: the VM of another process. Never blocks.
 * System calls: KVM_CHECK_EXTENSION; for DL_HAS_WATCH open(2) of /proc/self/pagemap, PAGEMAP_SCAN,
 * and where that exists userfaultfd(2), UFFDIO_API, close(2).
 */
DL_MUST_CHECK int dl_probe(int fd, const struct dl_options *options, struct dl_config *would_be,
			   char *why, size_t why_bytes);

/* ---- Log: one per VM ---- */

/*
 * Opens the log of a VM that has no vCPU yet, and no memslot if the backup bitmap is to be used. In
 * bitmap mode it may have both.
 *   vm_fd    is duplicated: the VM lives until dl_log_close() and the last dl_vcpu_remove()
 *   options  may be NULL: everything automatic
 * Errors as dl_probe(), and -EBUSY: DL_MODE_RING and a vCPU exists (AUTO takes bitmaps), a memslot
 * exists and the backup bitmap is wanted, or rings are on already (another log; a closed one: they
 * cannot be switched off). -EINVAL: DL_MODE_RING, and the kernel refused fewer than 1024 entries:
 * its smallest ring is larger (Intel PML), or a vCPU exists. -ENOMEM, -EMFILE. A failure may leave
 * rings on. May block (liburcu).
 * System calls: F_DUPFD_CLOEXEC, KVM_CHECK_EXTENSION, KVM_GET_API_VERSION, KVM_ENABLE_CAP (rings,
 * backup bitmap, manual protect off), KVM_RESET_DIRTY_RINGS to learn whether rings are on, and
 * rt_sigprocmask around it; those of dl_probe() for DL_HAS_WATCH.
 */
DL_MUST_CHECK int dl_log_open(int vm_fd, const struct dl_options *options, struct dl_log **log,
			      char *why, size_t why_bytes);

/*
 * Stops logging and waits for calls in progress. Calls on other handles then return -ECANCELED, but
 * dl_vcpu_drain() does what the vCPU needs, dl_vcpu_pause_due() reports no pause, and
 * dl_cursor_end() and dl_plan_sent() return 0. The handles are still to be freed. Errors are
 * ignored. May block.
 * System calls: as dl_cursor_free(); UFFDIO_UNREGISTER of watched slots; munmap and close(2) with
 * the last handle.
 */
void dl_log_close(struct dl_log *log);

/* Reports what is in use. Never blocks; no system call. */
DL_MUST_CHECK int dl_log_config(const struct dl_log *log, struct dl_config *is);

/* Reports the log's counters, those of all vCPUs included. Never blocks; no system call. */
DL_MUST_CHECK int dl_log_stats(const struct dl_log *log, struct dl_stats *stats);

/*
 * Writes mode, reason, the last failure and advice in words, NUL-terminated. Returns the length of
 * the whole text as snprintf(3) does. Never blocks; no system call.
 */
DL_MUST_CHECK int dl_log_describe(const struct dl_log *log, char *text, size_t text_bytes);

/*
 * Writes the last failure of the log or of one of its handles, on any thread, in words. Returns its
 * length as snprintf(3) does; 0: nothing has failed. Never blocks; no system call.
 */
DL_MUST_CHECK int dl_log_last_error(const struct dl_log *log, char *text, size_t text_bytes);

/* ---- Memslots: the library makes their KVM_SET_USER_MEMORY_REGION ---- */

/*
 * Creates a memslot, moves it, or changes its flags or cookie; an unchanged one: no ioctl.
 *   slot  copied. A new size, hva, KVM_MEM_READONLY or NO_LOG is -EINVAL: remove the slot first.
 * A new or moved slot is wholly pending from every cursor's next pass on, unless CLEAN (ignored for
 * a move, and while any cursor's pass is open). When this returns, no dl_cursor_read() returns
 * extents of a moved slot's old place. Memory that KVM cannot log need not be registered.
 * -EINVAL, -E2BIG; -EEXIST: the range overlaps another slot of the address space; -ENOMEM;
 * otherwise the kernel's. A refused change is never visible. May block, on readers too.
 * System calls: KVM_SET_USER_MEMORY_REGION, mmap, munmap, membarrier(2); KVM_CLEAR_DIRTY_LOG for
 * CLEAN with PAUSED under INITIALLY_SET.
 */
DL_MUST_CHECK int dl_slot_set(struct dl_log *log, const struct dl_slot *slot);

/*
 * Deletes a memslot. Its pages leave every cursor; when this returns, no dl_cursor_read() returns
 * them, and the memory may be freed.
 *   flags  0 or DL_REMOVE_PAUSED
 *   words  bit i of words[i / 64] is page i: what some cursor had not acknowledged is ored in, or
 *          without PAUSED every page, as writes just before the delete are recorded nowhere. NULL:
 *          dropped. Untouched if no cursor covers the slot.
 * -ENOENT; -EINVAL: flags, fewer than ceil(pages / 64) n_words, n_words without words; -ENOMEM;
 * otherwise the kernel's, and the slot is still there. May block, on readers too.
 * System calls: KVM_SET_USER_MEMORY_REGION, KVM_RESET_DIRTY_RINGS, KVM_GET_DIRTY_LOG, munmap,
 * membarrier(2); for a watched slot PAGEMAP_SCAN, UFFDIO_UNREGISTER, close(2).
 */
DL_MUST_CHECK int dl_slot_remove(struct dl_log *log, uint32_t slot, uint32_t flags, uint64_t *words,
				 uint64_t n_words);

/*
 * Re-protects what DL_TAKE_NO_CLEAR left writable in a range of a slot, and perhaps beyond it. Once
 * this has returned 0, contents may be read, or the pages be dropped. Does nothing where nothing is
 * owed. After an error: call again, or mark the range.
 * -ENOENT; -EINVAL: the range is not inside the slot; otherwise KVM_CLEAR_DIRTY_LOG's. May block.
 * System calls: KVM_CLEAR_DIRTY_LOG, for each chunk of 32,768 pages with owed ones.
 */
DL_MUST_CHECK int dl_slot_clear(struct dl_log *log, uint32_t slot, uint64_t offset_bytes,
				uint64_t bytes);

/*
 * Finds what the VMM, or the kernel for it, writes through alias, its second mapping of the slot's
 * memory: each harvest of a cursor that covers the slot makes that pending, marked or not.
 *   alias  page aligned, shared, mapped as long as it is watched. NULL ends it: what was written
 *          before the call is pending, and writes are marked from then on; the kernel forgets those
 *          during the call.
 *   flags  0 or DL_WATCH_AUDIT, which may change while alias stays: doc/watch.md
 * -ENOENT; -EINVAL: flags, alias (a slot's own memory too), a NO_LOG slot; -EEXIST: another slot's
 * watch has part of it; -EBUSY: the slot has another alias, or a userfaultfd (post-copy) has this;
 * -EOPNOTSUPP: no DL_HAS_WATCH, or memory of hugetlb; -ENOMEM; otherwise the kernel's. May block.
 * System calls: userfaultfd(2), open(2) of /proc/self/pagemap, UFFDIO_API, _REGISTER, _UNREGISTER,
 * PAGEMAP_SCAN, mmap, munmap, close(2), membarrier(2).
 */
DL_MUST_CHECK int dl_slot_watch(struct dl_log *log, uint32_t slot, void *alias, uint32_t flags);

/* ---- vCPUs ---- */

/*
 * Adds a vCPU before its first KVM_RUN: maps its ring. In bitmap mode it may come at any time.
 *   vcpu_fd  used only during this call
 *   cookie   the caller's name of the vCPU
 *   flags    0
 * A vCPU that was removed and is added again continues with its ring.
 * -EBADF: not a vCPU, or of another VM where that can be noticed (its rings are smaller or absent);
 * -EEXIST: it is there (ring mode only); -ENOMEM; -EIO: another process's; otherwise mmap's or
 * KVM_RESET_DIRTY_RINGS's. May block.
 * System calls: mmap, munmap, madvise, one ioctl without effect, KVM_RESET_DIRTY_RINGS.
 */
DL_MUST_CHECK int dl_vcpu_add(struct dl_log *log, int vcpu_fd, uint64_t cookie, uint32_t flags,
			      struct dl_vcpu **vcpu);

/*
 * Empties the ring after KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL, before it is entered again;
 * also at other times while this vCPU is not in KVM_RUN. Works in every state, after close too;
 * with no cursor nothing is recorded. flags: 0. Takes this ring's lock, that around the reset and,
 * for a moment, the timer's; never the log's. After an overflow the same exit may come several
 * times: call this each time.
 * kvm_run.exit_reason reads KVM_EXIT_INTR afterwards where a full exit found little in the ring.
 * Errors: KVM_RESET_DIRTY_RINGS's. Allocates nothing. May block for another thread's reset.
 * System calls: KVM_RESET_DIRTY_RINGS, rt_sigprocmask around it, timerfd_settime(2).
 */
DL_MUST_CHECK int dl_vcpu_drain(struct dl_vcpu *vcpu, uint32_t flags);

/*
 * Limits how fast the vCPU dirties new memory; 0 lifts the limit. It holds beside a plan's. It is
 * kept over any second if the vCPU pauses as it is told and the rings are reaped every 5 ms, as
 * dl_log_reap() and its descriptor ask while there is a limit: within a tenth, or within what the
 * vCPU writes in some 2.5 ms if that is more. No pause is longer than a second: a limit cannot hold
 * below what the vCPU writes in some 5 ms of each second.
 * dl_log_kicks() then names the vCPU if it is in a pause that a higher limit, or none, ends.
 * -EOPNOTSUPP: bitmap mode; -ECANCELED. May block for a moment.
 * System calls: timerfd_settime(2), clock_gettime(2) of the vCPUs' threads.
 */
DL_MUST_CHECK int dl_vcpu_limit(struct dl_vcpu *vcpu, uint64_t bytes_per_s);

/*
 * Reports how long this vCPU must stay out of KVM_RUN; 0: enter. Called by the thread that runs the
 * vCPU, before each KVM_RUN: its CPU time is how long the guest ran. Sleep, but wake up for a kick
 * and ask again: a limit may have been lifted. Asking again in a pause returns what is left of it.
 * Without limits, after close and in bitmap mode always 0. -EINVAL: pause_ns is NULL.
 * Never blocks. System calls: clock_gettime(2) of the thread, if any vCPU has a limit.
 */
DL_MUST_CHECK int dl_vcpu_pause_due(struct dl_vcpu *vcpu, uint64_t *pause_ns);

/* Reports one vCPU's counters; all 0 in bitmap mode. Never blocks; no system call. */
DL_MUST_CHECK int dl_vcpu_stats(const struct dl_vcpu *vcpu, struct dl_stats *stats);

/*
 * Releases a vCPU that is not running. KVM cannot delete one, so the log keeps and harvests its
 * ring until it is added again. May block. System calls: munmap and close(2) if the log is closed.
 */
void dl_vcpu_remove(struct dl_vcpu *vcpu);

/* ---- Reaping: keeps rings from filling, and limits in force ---- */

/*
 * Returns a borrowed descriptor that is readable while dl_log_reap() has work: never in bitmap
 * mode, and while nothing is logged only for kicks that the end of the last cursor left. Serve it
 * in any event loop, but not under a lock that vCPUs need. It is made at the first call, and closed
 * with the last handle of the log.
 * -EOPNOTSUPP: dl_options.os has no timer; otherwise timerfd_create(2)'s. May block for a moment.
 * System calls: timerfd_create(2), timerfd_settime(2).
 */
DL_MUST_CHECK int dl_log_fd(struct dl_log *log);

/*
 * Empties the rings if one is about to fill at its pace, and sets the descriptor for the next look:
 * sooner while vCPUs write, up to idle_ns while none does. Opens no pass and repairs nothing. Any
 * thread, beside harvests too. While nothing is logged it makes no system call, but to silence the
 * descriptor (with NOW it empties the rings and records nothing).
 *   flags     0 or DL_REAP_NOW: every ring
 *   again_ns  when to call again, for a caller without the descriptor; UINT64_MAX: not before a
 *             cursor exists, or never (bitmap mode). Set after the kernel's errors too.
 * Errors: KVM_RESET_DIRTY_RINGS's, timerfd_settime(2)'s; nothing is lost. May block for another
 * thread's reset, never for slots.
 * System calls: KVM_RESET_DIRTY_RINGS, rt_sigprocmask around it, timerfd_settime(2),
 * clock_gettime(2) of the threads that have called dl_vcpu_pause_due().
 */
DL_MUST_CHECK int dl_log_reap(struct dl_log *log, uint32_t flags, uint64_t *again_ns);

/*
 * Takes the cookies of vCPUs that must leave KVM_RUN, or a pause, and ask dl_vcpu_pause_due(): kick
 * them, and do not wait for them. Call it after dl_log_reap(), dl_plan_next() and dl_vcpu_limit();
 * the descriptor becomes readable for kicks too, and once more when the last cursor is freed.
 *   cookies  receives at most max_cookies; the rest waits for the next call. None is of a vCPU that
 *            was removed before the call
 * Returns their number; always 0 in bitmap mode. -EINVAL: no cookies, or max_cookies of 0 or above
 * INT32_MAX; -ECANCELED.
 * A vCPU that does not ask is kicked again. Never blocks; no system call.
 */
DL_MUST_CHECK int dl_log_kicks(struct dl_log *log, uint64_t *cookies, uint32_t max_cookies);

/* ---- Cursors: one per consumer ---- */

/*
 * Adds a consumer, and switches logging on for what it covers and nobody logs yet.
 *   options  NULL: all slots, all pending. A new slot is covered from its dl_slot_set() on. MISSED
 *            logs nothing, begins with nothing pending, covers slots with DL_WATCH_AUDIT, and
 *            excludes WANTED and DL_HARVEST_ALL.
 * -EINVAL, -E2BIG: options; -EBUSY, in ring mode: fewer vCPUs were added than options.vcpus, or, in
 * a library built to check it (-Dcheck_vcpus=true), than this process has; in bitmap mode: another
 * log of the VM has switched rings on; -ENOMEM; otherwise the kernel's, and nothing has changed.
 * May block.
 * System calls: KVM_SET_USER_MEMORY_REGION a slot, KVM_ENABLE_CAP of manual protect and
 * KVM_RESET_DIRTY_RINGS for the first cursor, mmap, membarrier(2), timerfd_settime(2).
 */
DL_MUST_CHECK int dl_cursor_new(struct dl_log *log, const struct dl_cursor_options *options,
				struct dl_cursor **cursor);

/*
 * Begins a pass: collects what was dirtied, re-protects it, and fixes which slots the pass covers.
 *   flags          DL_HARVEST_PAUSED, DL_HARVEST_ALL, or 0
 *   pending_bytes  what the pass can hand out; 0 opens a pass too
 * After a ring overflowed, everything is re-protected and pending for every cursor.
 * -EBUSY: a pass is open; -ENOENT: the slot of DL_CURSOR_ONE_SLOT does not exist; otherwise the
 * kernel's: no pass is open, what is pending stays so. Allocates nothing. May block.
 * System calls: KVM_RESET_DIRTY_RINGS, rt_sigprocmask around it; KVM_GET_DIRTY_LOG a slot in bitmap
 * mode, and under PAUSED with the backup bitmap; KVM_CLEAR_DIRTY_LOG of slots that share memory;
 * KVM_SET_USER_MEMORY_REGION after an overflow; PAGEMAP_SCAN of watched slots.
 */
DL_MUST_CHECK int dl_harvest(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes);

/*
 * Hands out pending memory of the open pass, re-protected: read the contents after this returned.
 * A pass hands out a page at most once, and each page to one of its readers.
 *   extents  receives at most max_extents
 * Returns their number; 0: the pass has no more. -EBUSY: no pass is open; otherwise
 * KVM_CLEAR_DIRTY_LOG's: those pages stay pending, and the next call tries them again. Extents that
 * were read before the error are returned first. Allocates nothing. May block.
 * System calls: KVM_CLEAR_DIRTY_LOG in bitmap mode with manual protect, a chunk at a time.
 */
DL_MUST_CHECK int dl_cursor_read(struct dl_cursor *cursor, struct dl_extent *extents,
				 uint32_t max_extents);

/*
 * Commits extents, or page-aligned parts of them: their contents are sent, forget them. Any thread,
 * any order. Only ticket, offset_bytes and bytes are looked at.
 * An extent of an earlier pass, or of a slot that has changed since: 0, and nothing happens.
 * -EINVAL: another cursor's, empty, no whole pages, not handed out, or committed by a call before;
 * then none of them is committed.
 * Never blocks; no system call.
 */
DL_MUST_CHECK int dl_cursor_ack(struct dl_cursor *cursor, const struct dl_extent *extents,
				uint32_t n_extents);

/*
 * Ends the pass, for all threads; waits for reads in progress. What is not committed is pending
 * again; DL_END_COMMIT commits all that was handed out. No pass open: 0. May block. System calls:
 * membarrier(2) if an acknowledgement is in progress.
 */
int dl_cursor_end(struct dl_cursor *cursor, uint32_t flags);

/*
 * Ors a slot's pending pages into words and commits them, in a pass or outside; what the pass has
 * handed out stays as it is. Bit i of words[i / 64] is page i. With several slots over the same
 * memory the oldest that the cursor covers has the bits.
 *   flags  DL_TAKE_*
 * -ENOENT; -EINVAL: flags, PAUSED without HARVEST, no words, fewer than ceil(pages / 64) n_words;
 * otherwise as dl_harvest() and dl_cursor_read(). After an error what is in words is the caller's,
 * the rest is pending: call again. A slot not covered: no bits. Allocates nothing. May block.
 * System calls: as dl_harvest() if HARVEST, for this slot and younger ones over the same memory;
 * KVM_CLEAR_DIRTY_LOG unless NO_CLEAR.
 */
DL_MUST_CHECK int dl_cursor_take(struct dl_cursor *cursor, uint32_t slot, uint32_t flags,
				 uint64_t *words, uint64_t n_words, uint64_t *taken_bytes);

/* Reports one cursor's counters. Never blocks; no system call. */
DL_MUST_CHECK int dl_cursor_stats(const struct dl_cursor *cursor, struct dl_cursor_stats *stats);

/*
 * Removes the consumer, its pass, and logging that no other cursor wants. Errors are ignored; a
 * slot that could not be switched off is tried again by the next first dl_cursor_new(). May block.
 * System calls: KVM_SET_USER_MEMORY_REGION a slot; KVM_RESET_DIRTY_RINGS for the last cursor;
 * munmap, membarrier(2), timerfd_settime(2).
 */
void dl_cursor_free(struct dl_cursor *cursor);

/* ---- Marks: what the VMM or a device wrote or discarded. 0: nothing is logged or audited ---- */

/*
 * Marks every page of address space as_id that the range touches. Needs no alignment. Write first,
 * then mark, then notify the guest; the last mark comes before the PAUSED harvest.
 * -ENOENT: part of it is in no slot; the rest is marked: a device's bug, counted in
 * dl_stats.failed_marks. -EINVAL: the range wraps. Never blocks; no system call but what liburcu
 * makes at a thread's first call.
 */
int dl_mark_gpa(struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t bytes);

/* As dl_mark_gpa(), for a range of one slot. -ENOENT: no such slot, or the range leaves it. */
int dl_mark_slot(struct dl_log *log, uint32_t slot, uint64_t offset_bytes, uint64_t bytes);

/* As dl_mark_gpa(), for host memory, in every slot that maps it. -ENOENT: no slot maps a part. */
int dl_mark_hva(struct dl_log *log, const void *address, uint64_t bytes);

/*
 * As dl_mark_hva(), for bytes of a scattered buffer: bytes is what readv(2) returned, offset_bytes
 * what earlier calls read into the same vectors.
 * -ENOENT: no slot maps a part, or the vectors have fewer bytes; the rest is marked, since an
 * unmarked write would be lost. -EINVAL: a sum or a vector wraps, or iov is NULL; none is marked.
 */
int dl_mark_iov(struct dl_log *log, const struct iovec *iov, uint32_t n_iov, uint64_t offset_bytes,
		uint64_t bytes);

/*
 * Marks the host pages that a foreign log's pages touch; doc/sources.md: how to, for each source.
 *   words         bit i of words[i / 64] is page i of bitmap.gpa. Aligned to 8 bytes; only read,
 *                 atomically, without TAKE. Bits of pages that begin past bitmap.bytes are ignored.
 *   marked_bytes  of the host pages, each once
 * DL_BITMAP_TAKE clears each bit before it marks, and only if a cursor covers some of its page: the
 * others stay, all of them while nothing is logged. Take, then read contents.
 * -ENOENT: a set bit's whole page is in no slot; the rest is marked. -EINVAL, -E2BIG: bitmap, words
 * or fewer n_words than bits; nothing has changed.
 */
DL_MUST_CHECK int dl_mark_bitmap(struct dl_log *log, const struct dl_bitmap *bitmap,
				 uint64_t *words, uint64_t n_words, uint64_t *marked_bytes);

/* ---- Plan: makes a cursor's migration end. doc/convergence.md ---- */

/*
 * Starts to control the vCPUs so that the cursor's memory can be sent within a goal.
 *   goal  NULL: 300 ms of downtime, no budget
 * From the first pass on it measures; afterwards it limits those vCPUs that dirty memory fastest,
 * if the guest would not converge, or not in time. One plan a log. While it exists, a page that is
 * found dirty counts as new if the plan's cursor covers it and does not have it pending; without a
 * plan, unless every cursor that covers it has it pending.
 * -EBUSY: the log has a plan; -EINVAL, -E2BIG: goal, or MISSED; -ENOMEM; -ECANCELED. May block.
 * System calls: rt_sigprocmask(2).
 */
DL_MUST_CHECK int dl_plan_new(struct dl_cursor *cursor, const struct dl_goal *goal,
			      struct dl_plan **plan);

/*
 * Reports that the wire took bytes of guest memory in busy_ns of being busy. Pages that are sent as
 * "zero" and time without anything to send do not count: they would promise a faster wire than
 * there is. From any thread; several that send at the same time are one wire. Report at least once
 * a second: the planner cannot tell when the bytes of a longer report were sent.
 * -EINVAL: plan is NULL. Never blocks; no system call.
 */
DL_MUST_CHECK int dl_plan_sent(struct dl_plan *plan, uint64_t bytes, uint64_t busy_ns);

/*
 * Empties the rings, sets the vCPUs' limits, and advises. Call it every again_ns: ten times later
 * the limits lapse.
 *   unsent_bytes  what the caller took with dl_cursor_take() and has not sent yet
 *   advice        filled; its size is set by the caller
 * -ECANCELED: the cursor is freed or the log closed; otherwise as dl_harvest(), and the limits stay
 * as they were. Allocates nothing. May block, as dl_harvest().
 * System calls: KVM_RESET_DIRTY_RINGS, rt_sigprocmask around it, clock_gettime(2) of the vCPUs'
 * threads, timerfd_settime(2); KVM_GET_DIRTY_LOG four times a second in bitmap mode with manual
 * protect, and when what is pending nearly fits the downtime; PAGEMAP_SCAN as often for watched
 * slots; KVM_CLEAR_DIRTY_LOG of memory that several slots map; after an overflow as dl_harvest().
 */
DL_MUST_CHECK int dl_plan_next(struct dl_plan *plan, uint64_t unsent_bytes,
			       struct dl_advice *advice);

/*
 * Lifts the plan's limits: dl_log_kicks() then names the vCPUs that are in a pause. May block.
 * System calls: timerfd_settime(2), clock_gettime(2) of the vCPUs' threads.
 */
void dl_plan_free(struct dl_plan *plan);

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
