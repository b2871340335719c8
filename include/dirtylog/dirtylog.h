/* SPDX-License-Identifier: MIT */
#ifndef DIRTYLOG_DIRTYLOG_H
#define DIRTYLOG_DIRTYLOG_H

/*
 * libdirtylog: which guest pages changed since I last asked?
 *
 * One interface over the KVM dirty log: per-vCPU rings (KVM_CAP_DIRTY_LOG_RING and _ACQ_REL), the
 * backup bitmap beside them (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) and the plain bitmap
 * (KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG). A caller's code is the same on all of them.
 *
 * WORDS. A slot is a KVM memslot, named as KVM names it: as_id << 16 | id. A page is a host page
 * (4, 16 or 64 KiB; struct dl_config tells). Pending: known dirty and not yet handed out. A run:
 * adjacent dirty pages of one slot. A pass: one dl_harvest() and the iteration after it. The final
 * pass is the one made while the vCPUs are stopped.
 *
 * THE PROMISE. A page that is written after its contents were read for sending is reported again.
 * The library may report a page that did not change; it never withholds one that did. The
 * conditions on the caller are few:
 *   - the library is the VM's only user of KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
 *     KVM_RESET_DIRTY_RINGS and KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, and owns the flag
 *     KVM_MEM_LOG_DIRTY_PAGES;
 *   - a page's contents are read after dl_iter_read() has returned it, not before;
 *   - memory that the VMM itself (or a device model, vhost, VFIO) writes is marked with one of
 *     dl_mark_*(): first written, then marked, then the guest is told;
 *   - versions of one page do not overtake each other: whoever sends on several channels flushes
 *     them all between passes;
 *   - before the final harvest the vCPUs are stopped, their pending I/O is completed, devices and
 *     in-kernel state (an ITS, pending tables) are saved; after it nothing writes guest memory.
 *
 * ERRORS. 0 or a count is success; a negative errno value is failure. Nothing touches errno. The
 * same value means the same everywhere:
 *   -EINVAL      an argument is wrong
 *   -E2BIG       a struct's tail that this release does not know is not zero, or a ring too large
 *   -EBADF       not a file descriptor of the right KVM kind
 *   -EOPNOTSUPP  the kernel lacks what was asked for
 *   -EBUSY       wrong state or order
 *   -ENOENT, -EEXIST  no such slot or memory; the slot or address range is taken
 *   -ENOMEM      no memory
 *   -ECANCELED   logging is off, or the log was closed
 *   any other    the kernel's, from the ioctl that the function's text names
 * Never -EINTR or -EAGAIN: what is answered so is asked again where that is safe, and is -EIO else.
 * A failed call has changed nothing that counts (no pending page is ever lost by one) and can be
 * made again.
 *
 * THREADS. Every function may be called from any thread, on the same handle too, except that
 * dl_log_close(), dl_vcpu_remove() and dl_iter_free() are their handle's last call. They take NULL
 * and always consume the handle. Handles may be released in any order. A function that "may block"
 * waits for another thread's ioctl on the same VM, or for an RCU grace period; none sleeps by
 * itself. Functions that take locks block asynchronous signals meanwhile, and all signals around
 * KVM_RESET_DIRTY_RINGS; if blocking is refused, that is the call's error. The library starts no
 * thread, installs no handler and prints nothing. Not to be called from a signal handler.
 *
 * No function is a cancellation point, nor is set_region while the library calls it; a thread whose
 * cancellation is asynchronous must not be inside one. Neither longjmp() nor an exception may leave
 * set_region or a function of struct dl_os.
 *
 * liburcu (bp flavour) is inside: a thread's first call of dl_mark_*(), dl_harvest() or
 * dl_vcpu_drain() registers it there (a lock, the signal mask, now and then mmap or mremap:
 * liburcu aborts the process where there is no memory for it); dl_log_open() and dl_vcpu_add() do
 * it early for the thread that calls them. A thread that ends is taken off by itself. Functions
 * that wait for a grace period make membarrier(2), which a filter of system calls must allow
 * (liburcu aborts where it is refused), and must not be called inside a liburcu-bp read section of
 * the caller's.
 *
 * In a child of fork(2) every call returns -EIO, and those that return nothing do nothing. Until it
 * ends or executes something it keeps the VM from being destroyed. A parent that forks and whose
 * child then uses liburcu-bp needs that library's fork hooks.
 * doc/embedding.md has the system calls of each function, and more on all of this.
 *
 * STRUCTS. Each struct that begins with size is filled by the caller with sizeof. A larger one than
 * the library knows is accepted while its tail is zero (-E2BIG else), a smaller one, down to the
 * first release's, is read as if zeros followed (below that: -EINVAL). Output structs are filled as
 * far as both sides know. 0 is the safe choice in every field. Sizes are in bytes, so no caller
 * needs the page size.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define DL_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DL_MUST_CHECK
#endif

#define DL_VERSION_MAJOR 0
#define DL_VERSION_MINOR 1
#define DL_VERSION_PATCH 0
#define DL_VERSION	 (DL_VERSION_MAJOR << 16 | DL_VERSION_MINOR << 8 | DL_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* The library is built with hidden visibility: these are what it shows. */
#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility push(default)
#endif

struct dl_log;	/* the dirty log of one VM */
struct dl_vcpu; /* one vCPU of it */
struct dl_iter; /* one iteration over what is pending */
struct dl_os;	/* dirtylog/os.h: the table of system calls */
struct iovec;	/* <sys/uio.h> */

/* How pages are logged. Since 0.1. */
enum dl_mode {
	DL_MODE_AUTO = 0,   /* the best that is safe here: ring, else bitmap */
	DL_MODE_RING = 1,   /* rings, or fail */
	DL_MODE_BITMAP = 2, /* KVM_GET_DIRTY_LOG alone */
};

/* The backup bitmap beside the rings, for writes made while no vCPU runs. Since 0.1. */
enum dl_backup {
	/*
	 * On where the kernel has it. Where it has not, and a ring alone is not safe (all but x86
	 * and LoongArch), DL_MODE_AUTO takes bitmap mode and DL_MODE_RING fails.
	 */
	DL_BACKUP_AUTO = 0,
	/*
	 * The VM has no in-kernel writer, and the caller knows it. vCPU writes are never lost by
	 * it: where a ring alone is not safe, DL_MODE_AUTO takes bitmap mode and DL_MODE_RING
	 * fails.
	 */
	DL_BACKUP_OFF = 1,
	/*
	 * The VM has an ITS, say: without it DL_MODE_RING fails and DL_MODE_AUTO takes bitmap mode.
	 */
	DL_BACKUP_REQUIRED = 2,
};

/* Bits of dl_config.has: capabilities of the kernel. Since 0.1. */
enum dl_has {
	DL_HAS_RING_TSO = 1,	   /* KVM_CAP_DIRTY_LOG_RING */
	DL_HAS_RING_ACQ_REL = 2,   /* KVM_CAP_DIRTY_LOG_RING_ACQ_REL */
	DL_HAS_BACKUP = 4,	   /* KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP */
	DL_HAS_MANUAL_PROTECT = 8, /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	DL_HAS_INITIALLY_SET = 16, /* its KVM_DIRTY_LOG_INITIALLY_SET */
};

/* dl_slot.flags, and the flags of dl_slot_remove(). Since 0.1. */
enum dl_slot_flag {
	DL_SLOT_CLEAN = 1, /* set, while logging: do not count the new slot's memory as dirty */
	/* set, remove: the caller already made the ioctl; only tell, and each before the next. */
	DL_SLOT_CALLER_IOCTL = 2,
	DL_SLOT_NO_LOG = 4,  /* set: memory that KVM cannot log (guest_memfd, device memory) */
	DL_SLOT_DISCARD = 8, /* remove, while logging: do not hand the memory out once more */
};

/* Flags of dl_log_start(). Since 0.1. */
enum dl_start_flag { DL_START_CLEAN = 1 /* nothing counts as dirty at first */ };

/* Flags of dl_harvest(). Since 0.1. */
enum dl_harvest_flag {
	DL_HARVEST_FINAL = 1 /* the vCPUs are stopped: rings, then bitmaps, last */
};

/* Flags of dl_log_reap(). Since 0.2. */
enum dl_reap_flag {
	DL_REAP_NOW = 2, /* empty every ring now, not only when one is about to fill */
};

/*
 * A run of adjacent dirty pages of one slot. Frozen: it will never grow.
 * An iteration returns memory twice only if the VM maps it twice: in two address spaces, or by a
 * slot that was removed and another that replaced it.
 */
struct dl_run {
	uint64_t gpa;	       /* guest physical address of the first byte */
	uint64_t hva;	       /* the caller's address of it, from dl_slot.hva */
	uint64_t offset_bytes; /* from the slot's start */
	uint64_t bytes;	       /* a multiple of the page size */
	uint32_t slot;	       /* as_id << 16 | id */
	uint32_t reserved;     /* the library's; give it back to dl_iter_ack() as it was */
};

/* Options of dl_log_open() and dl_probe(). If only size is set, the library chooses. */
struct dl_options {
	uint32_t size;		/* sizeof(struct dl_options) */
	uint32_t flags;		/* 0 */
	uint32_t mode;		/* enum dl_mode */
	uint32_t backup;	/* enum dl_backup */
	uint32_t ring_entries;	/* of each vCPU's ring, a power of two; 0: a good size */
	uint32_t reserved;	/* 0 */
	uint64_t idle_ns;	/* longest interval between looks at idle rings; 0: 100 ms */
	const struct dl_os *os; /* system calls; NULL: the real ones. Not copied. */
	/*
	 * For VMMs that make all their KVM_SET_USER_MEMORY_REGION(2) calls themselves: called, with
	 * the log's lock held, to give an existing slot new flags (the kvm_flags of its
	 * dl_slot_set(), with or without KVM_MEM_LOG_DIRTY_PAGES). Returns 0 or a negative errno
	 * value, and must not call into the library. NULL: the library makes the ioctl.
	 */
	int (*set_region)(void *opaque, uint32_t slot, uint32_t kvm_flags);
	void *opaque; /* set_region's first argument */
};

/* The capabilities of the kernel, and the configuration that is, or would be, in use. */
struct dl_config {
	uint32_t size;		   /* sizeof(struct dl_config) */
	uint32_t has;		   /* enum dl_has */
	uint32_t mode;		   /* DL_MODE_RING or DL_MODE_BITMAP */
	uint32_t backup;	   /* 1: the backup bitmap is in use beside the rings */
	uint32_t ring_entries;	   /* of each ring; 0 in bitmap mode */
	uint32_t ring_max_entries; /* the kernel's limit; 0: it has no rings */
	uint32_t page_bytes;	   /* of the host: the unit of the log */
	uint32_t reserved;	   /* 0 */
};

/* A memslot. */
struct dl_slot {
	uint32_t size;	    /* sizeof(struct dl_slot) */
	uint32_t flags;	    /* DL_SLOT_CLEAN, DL_SLOT_CALLER_IOCTL, DL_SLOT_NO_LOG */
	uint32_t slot;	    /* as_id << 16 | id */
	uint32_t kvm_flags; /* KVM_MEM_* without KVM_MEM_LOG_DIRTY_PAGES, which is the library's */
	uint64_t gpa;	    /* guest physical address, page aligned */
	uint64_t bytes;	    /* a multiple of the page size, not 0 */
	uint64_t hva;	    /* the caller's address of the memory, page aligned */
};

/* Counters since open (a log) or add (a vCPU). A snapshot, not one atomic moment. */
struct dl_stats {
	uint32_t size;		     /* sizeof(struct dl_stats) */
	uint32_t reserved;	     /* 0 */
	uint64_t entries;	     /* ring entries harvested */
	uint64_t new_pages;	     /* pages that became pending, from rings and bitmaps */
	uint64_t duplicates;	     /* ring entries for pages that were already pending */
	uint64_t stale_entries;	     /* ring entries of slots that are gone; skipped */
	uint64_t resets;	     /* KVM_RESET_DIRTY_RINGS calls */
	uint64_t short_resets;	     /* of these, such as left released entries behind */
	uint64_t overflows;	     /* times a ring was found overflowed or out of step */
	uint64_t full_exits;	     /* dl_vcpu_drain() calls that answered a full ring */
	uint64_t high_water_entries; /* most entries found in one ring at once */
	uint64_t ioctl_ns;	     /* time inside RESET, GET, CLEAR and slot ioctls */
	uint64_t pending_bytes;	     /* now known dirty and not handed out (0 for a vCPU) */
	uint64_t unacked_bytes;	     /* now handed out or read ahead, and not acknowledged
				      * (0 for a vCPU) */
};

/*
 * The version of the library that is linked, as DL_VERSION is of the header.
 * No system call; never blocks. Since 0.1.
 */
uint32_t dl_library_version(void);

/*
 * Tells what the kernel offers and what dl_log_open() would choose, and changes nothing.
 *   fd         /dev/kvm or a VM; stays the caller's
 *   options    as for dl_log_open(), or NULL; set_region is not looked at
 *   would_be   filled; its size is set by the caller. May be NULL.
 *   why        receives a sentence of at most why_bytes bytes, ended by NUL; may be NULL. It says
 *              what was chosen and why, or what is missing, on failure too.
 * A choice that only opening can refuse (a vCPU or slot that exists already) is not foreseen.
 * Errors: -EINVAL (options; the size of would_be), -E2BIG (options' tail; ring_entries above the
 * kernel's limit), -EBADF (fd is neither), -EOPNOTSUPP (the mode or backup asked for is not to be
 * had); otherwise the kernel's from KVM_CHECK_EXTENSION (-EIO: the VM belongs to another process).
 * System calls: KVM_CHECK_EXTENSION on fd. Never blocks. Since 0.1.
 */
DL_MUST_CHECK int dl_probe(int fd, const struct dl_options *options, struct dl_config *would_be,
			   char *why, size_t why_bytes);

/*
 * Opens the dirty log of a VM: chooses the mode and enables the rings and the backup bitmap.
 * To be called after KVM_CREATE_VM, before the first vCPU and the first memslot are created; in
 * bitmap mode at any time.
 *   vm_fd      the VM; stays the caller's, and may be closed when this returns: the library
 *              duplicates it, so the VM lives until the log's last handle is released
 *   options    NULL: all automatic
 *   log        receives the handle, owned by the caller
 *   why        as for dl_probe()
 * In DL_MODE_AUTO a ring that the kernel refuses to enable (a vCPU exists) becomes bitmap mode, and
 * why says so. In DL_MODE_RING it is an error.
 * Errors: as dl_probe(); -EBUSY: a vCPU exists already, or the rings of this VM were enabled by
 * someone else (a second log of the VM, say), or the backup bitmap was refused because a memslot
 * exists. The last, and one of what is enabled after it (manual protect is switched off, which no
 * known kernel refuses), are the failures that change something: the rings stay enabled, as the
 * kernel has no way back, and the VM can then only be logged by rings. -EINVAL also where the
 * host's minimum ring is larger than ring_entries (with Intel PML: 1024). -ENOMEM. -EMFILE and
 * -ENFILE: vm_fd cannot be duplicated.
 * System calls: fcntl(2) F_DUPFD_CLOEXEC; as dl_probe(); KVM_GET_API_VERSION; KVM_ENABLE_CAP of the
 * rings, the backup bitmap and manual protect; KVM_RESET_DIRTY_RINGS, to learn whether somebody
 * enabled the rings. May block (liburcu). Since 0.1.
 */
DL_MUST_CHECK int dl_log_open(int vm_fd, const struct dl_options *options, struct dl_log **log,
			      char *why, size_t why_bytes);

/*
 * Closes a log: stops logging if it is on, drains the rings, forgets what is pending. What its vCPU
 * and iterator handles are still asked then is -ECANCELED, except dl_vcpu_drain(), which goes on: a
 * vCPU may still come out with a full ring, or have to be brought into step. Takes NULL.
 * Errors are ignored.
 * System calls: as dl_log_stop(), munmap, close(2) with the last handle. May block. Since 0.1.
 */
void dl_log_close(struct dl_log *log);

/*
 * Fills is with what is in use. Errors: -EINVAL. No system call; never blocks. Since 0.1.
 */
DL_MUST_CHECK int dl_log_config(const struct dl_log *log, struct dl_config *is);

/*
 * Writes a sentence or two about the log: mode, reason, and where the last dl_log_start(), repair
 * or slot change failed. Returns the length that the whole text has, without the NUL, like
 * snprintf(3); at most text_bytes are written, always ended by NUL.
 * Errors: -EINVAL. No system call. May block on another thread's call. Since 0.1.
 */
DL_MUST_CHECK int dl_log_describe(const struct dl_log *log, char *text, size_t text_bytes);

/*
 * Fills stats with the log's counters, those of all its vCPUs included.
 * Errors: -EINVAL. No system call. May block on another thread's call. Since 0.1.
 */
DL_MUST_CHECK int dl_log_stats(const struct dl_log *log, struct dl_stats *stats);

/*
 * Switches logging on for every slot. When it returns 0, every page of every slot is pending
 * (DL_SLOT_NO_LOG slots excepted, and slots of a higher address space over memory that a lower one
 * logs), or with DL_START_CLEAN nothing is, and every write from now on will be reported.
 *   flags      0 or DL_START_CLEAN
 * Errors: -EINVAL; -EBUSY: already on; -ECANCELED: closed; -ENOMEM; otherwise the kernel's for the
 * slot that could not be switched on (dl_log_describe() names it); the others are then off again.
 * System calls: a KVM_SET_USER_MEMORY_REGION (or set_region) a slot, KVM_ENABLE_CAP of manual
 * protect, KVM_RESET_DIRTY_RINGS, the signal mask around it, mmap of a bitmap's buffer. May block.
 * Since 0.1.
 */
DL_MUST_CHECK int dl_log_start(struct dl_log *log, uint32_t flags);

/*
 * Switches logging off for every slot, empties the rings and discards what is pending and what is
 * handed out. An iterator of before reads -ECANCELED. Does nothing when logging is off.
 * Errors: -EINVAL; -ECANCELED: closed; otherwise the kernel's for a slot that could not be switched
 * off, or from KVM_RESET_DIRTY_RINGS: logging counts as off all the same, and the next stop or
 * start tries again what failed.
 * System calls and blocking as dl_log_start(). Since 0.1.
 */
DL_MUST_CHECK int dl_log_stop(struct dl_log *log);

/*
 * Tells when the next dl_harvest() is due so that no ring fills: when the first of them will be
 * half full, at the rate of before the last harvest or of since then. Looks into every ring, so ask
 * again after a time in which one can fill: doc/tuning.md has the loop, and what to expect.
 *   from_now_ns  nanoseconds from now; 0: at once; UINT64_MAX: nothing points to a ring that fills
 *                (bitmap mode, or rings that are empty at this moment)
 * Errors: -EINVAL; -ECANCELED: logging is off, or the log is closed. No system call but
 * clock_gettime(2). Never blocks. Since 0.1.
 */
DL_MUST_CHECK int dl_log_harvest_due(struct dl_log *log, uint64_t *from_now_ns);

/*
 * Returns a descriptor that is readable while dl_log_reap() has something to do; for poll(2),
 * epoll(7) or any event loop. It is made by the first call, borrowed, close-on-exec, and closed
 * with the last handle of the log: do not read, set or close it. It is silent, and wakes nobody,
 * while logging is off, in bitmap mode and after dl_log_close().
 * Serve it on a thread that holds no lock which a vCPU's thread needs: under a big lock of the
 * VMM the vCPUs wait for each reset, and what draining without locks gains is lost.
 * Errors: -EINVAL; -ECANCELED: closed; -EOPNOTSUPP: struct dl_os has no timer; otherwise
 * timerfd_create(2)'s (-EMFILE, -ENFILE, -ENOMEM) or timerfd_settime(2)'s.
 * System calls: the signal mask; at the first call timerfd_create and timerfd_settime. Never
 * blocks. Since 0.2.
 */
DL_MUST_CHECK int dl_log_fd(struct dl_log *log);

/*
 * Empties the rings if one is about to fill at its pace, and sets the descriptor for the next look:
 * sooner while vCPUs write, up to idle_ns while none does. Repairs nothing, hands out nothing; to
 * be called by any thread, beside harvests (it shares the rings with them) and the final one too.
 *   flags      0 or DL_REAP_NOW
 *   again_ns   receives when to call again, for a caller without the descriptor; UINT64_MAX: not
 *              before logging is on, or never (bitmap mode). Set after errors too. May be NULL.
 * Errors: -EINVAL, -ECANCELED: closed, -EIO: a child of fork(2) (again_ns is not set); otherwise
 * KVM_RESET_DIRTY_RINGS's or timerfd_settime(2)'s: nothing is lost, and the next call retries.
 * System calls: KVM_RESET_DIRTY_RINGS, timerfd_settime, the signal mask; none while logging is off
 * (DL_REAP_NOW then empties the rings and records nothing). May block, never on slots. Since 0.2.
 */
DL_MUST_CHECK int dl_log_reap(struct dl_log *log, uint32_t flags, uint64_t *again_ns);

/*
 * Collects what was dirtied since the last harvest and makes it pending: reads every ring, hands
 * the entries back, has the kernel protect their pages again, and only then publishes them. In
 * bitmap mode reads every slot's bitmap. May be called while an iterator is live: what becomes
 * pending ahead of where that has come to is handed out by it, the rest by the next.
 *   flags      0, or DL_HARVEST_FINAL: the vCPUs are stopped, the in-kernel state is saved; the
 *              backup bitmaps are read too, last. Can be repeated.
 *   pending_bytes  receives how much is pending now; may be NULL
 * Several threads may harvest at once: they share the rings and the resets, and each returns when
 * all that was in a ring before it began is pending. Entries are handed back some thousands at a
 * time, so a vCPU that comes out with a full ring meanwhile does not wait for all of it. After a
 * ring overflowed, the harvest also switches logging off and on for every slot, so that every page
 * is protected again, and then makes every page pending.
 * Errors: -EINVAL; -ECANCELED: logging is off or the log is closed; otherwise the kernel's from
 * KVM_RESET_DIRTY_RINGS, KVM_GET_DIRTY_LOG or a slot ioctl. After an error nothing is lost (a slot
 * whose bitmap failed counts as wholly dirty) but the pass is not complete: call again.
 * System calls: KVM_RESET_DIRTY_RINGS and the signal mask around it; KVM_GET_DIRTY_LOG a slot in
 * bitmap mode and in the final pass with the backup bitmap; slot ioctls after an overflow.
 * Allocates nothing. May block. Since 0.1.
 */
DL_MUST_CHECK int dl_harvest(struct dl_log *log, uint32_t flags, uint64_t *pending_bytes);

/*
 * Makes pages pending that the VMM or a device wrote: every page of address space as_id that the
 * range touches. Write the memory first, then mark, then notify the guest; the last mark comes
 * before the final harvest.
 *   gpa, bytes  the range; needs no alignment; 0 bytes mark nothing
 * Returns 0, also while logging is off; -ENOENT: part of the range lies in no slot, the rest is
 * marked; -EINVAL: the range wraps. Memory of a DL_SLOT_NO_LOG slot is found but not recorded.
 * Never blocks, allocates or makes a system call (but see liburcu, above). Since 0.2.
 */
int dl_mark_gpa(struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t bytes);

/*
 * As dl_mark_gpa(), for a range of one slot, whatever its guest address. Since 0.2.
 *   slot  as_id << 16 | id
 * -ENOENT: no such slot, or part of the range lies behind its end; the rest is marked.
 */
int dl_mark_slot(struct dl_log *log, uint32_t slot, uint64_t offset_bytes, uint64_t bytes);

/*
 * As dl_mark_gpa(), for memory of this process, in every slot that maps it: for a VMM that has a
 * pointer and not a guest address. Since 0.2.
 * -ENOENT: no slot maps part of the range; the rest is marked.
 */
int dl_mark_hva(struct dl_log *log, const void *address, uint64_t bytes);

/*
 * As dl_mark_hva(), for bytes of a scattered buffer: what readv(2) returned is bytes, and
 * offset_bytes is what earlier calls read into the same vectors. Since 0.2.
 * -ENOENT: no slot maps part of it, or the vectors have fewer bytes than that; the rest is marked,
 * since an unmarked write would be lost, and a mark too many is sent once more.
 * -EINVAL, nothing is marked: offset_bytes + bytes or a vector wraps, or iov is NULL.
 */
int dl_mark_iov(struct dl_log *log, const struct iovec *iov, uint32_t n_iov, uint64_t offset_bytes,
		uint64_t bytes);

/*
 * Tells the log of a memslot that is new, moved or given other flags, before the guest may use it.
 * Without DL_SLOT_CALLER_IOCTL the library makes the KVM_SET_USER_MEMORY_REGION. A slot that exists
 * can be moved (another gpa) or given other kvm_flags; KVM can change neither its size nor its hva
 * nor KVM_MEM_READONLY, and neither can this (remove it and set it anew). The slot equal to what it
 * was: 0, nothing is done. While logging, a moved slot is wholly pending when this returns, and so
 * is a new one unless DL_SLOT_CLEAN. The kernel may still report its pages.
 *   slot       copied
 * Errors: -EINVAL (NULL, alignment, size 0, a wrap, unknown flags, KVM_MEM_LOG_DIRTY_PAGES, an id
 * or as_id beyond the kernel's limit, a change that KVM cannot make); -E2BIG; -EEXIST: the range
 * overlaps another slot of the address space; -ENOMEM; -ECANCELED: closed; otherwise the kernel's.
 * After an error the log is as it was; where the caller made the ioctl itself, a new slot is then
 * not known to the log, and a moved one is, where it is now.
 * System calls: the slot ioctl or set_region, mmap. May block. Since 0.1.
 */
DL_MUST_CHECK int dl_slot_set(struct dl_log *log, const struct dl_slot *slot);

/*
 * Removes a memslot. While logging, its memory is handed out by the iterator once more, whole:
 * another slot over the same memory does not know what was dirty. It must stay mapped until those
 * runs are acknowledged or logging is stopped; a caller that frees it at once says DL_SLOT_DISCARD.
 *   slot       as_id << 16 | id
 *   flags      DL_SLOT_CALLER_IOCTL, DL_SLOT_DISCARD
 * Errors: -EINVAL; -ENOENT; -ENOMEM; -ECANCELED: closed; otherwise the kernel's (the slot is then
 * still there). With DL_SLOT_CALLER_IOCTL and -ENOMEM the slot is not logged any more, and the call
 * is still to be made again. A KVM_RESET_DIRTY_RINGS that fails is not told: what it should take
 * back is taken back by the next one.
 * System calls: the slot ioctl, KVM_RESET_DIRTY_RINGS, the signal mask around it. May block. Since
 * 0.1.
 */
DL_MUST_CHECK int dl_slot_remove(struct dl_log *log, uint32_t slot, uint32_t flags);

/*
 * Adds a vCPU: maps its ring, whole, before it becomes visible to harvests. To be called before the
 * vCPU's first KVM_RUN. In bitmap mode there is nothing to map, and it may come at any time.
 *   vcpu_fd    used only during this call; stays the caller's
 *   cookie     the caller's: an index, a pointer. Kept for a later call.
 *   flags      0
 *   vcpu       receives the handle, owned by the caller
 * A vCPU that was removed and is added again goes on with the ring it had, and the new cookie.
 * Errors: -EINVAL; -EBADF: not a vCPU; -EEXIST: this vCPU is there already; -ENOMEM; -ECANCELED:
 * closed; -EIO: the VM belongs to another process. Otherwise mmap's. A vCPU of another VM is
 * recognised, with -EBADF, only if that VM's rings are smaller or absent.
 * System calls: mmap of the vCPU, one ioctl on it (of no effect), KVM_RESET_DIRTY_RINGS where the
 * ring holds cells that someone released before. May block. Since 0.1.
 */
DL_MUST_CHECK int dl_vcpu_add(struct dl_log *log, int vcpu_fd, uint64_t cookie, uint32_t flags,
			      struct dl_vcpu **vcpu);

/*
 * Empties one vCPU's ring. To be called when KVM_RUN of that vCPU has ended with
 * KVM_EXIT_DIRTY_RING_FULL, before it is run again; allowed at other times too, while that vCPU is
 * not inside KVM_RUN. Takes this ring's lock and that around the reset, no other. Works in every
 * state: when logging is off, and when the log is closed, it does what the vCPU needs and notes
 * nothing. A vCPU whose ring overflowed may come back with the same exit several times while this
 * brings the two sides into step again; just call it each time. Where a full exit found little in
 * the ring, the vCPU's kvm_run.exit_reason says KVM_EXIT_INTR when this returns: so an exit is told
 * from the next.
 *   flags      0
 * Errors: -EINVAL; otherwise the kernel's from KVM_RESET_DIRTY_RINGS (nothing is lost).
 * System calls: KVM_RESET_DIRTY_RINGS, the signal mask around it. Allocates nothing. May block for
 * the time of another thread's harvest. Since 0.1.
 */
DL_MUST_CHECK int dl_vcpu_drain(struct dl_vcpu *vcpu, uint32_t flags);

/*
 * Fills stats with one vCPU's counters. Errors: -EINVAL, -ECANCELED: log closed. No system call.
 * Since 0.1.
 */
DL_MUST_CHECK int dl_vcpu_stats(const struct dl_vcpu *vcpu, struct dl_stats *stats);

/*
 * Gives a vCPU back. KVM cannot delete one, so the log keeps its ring, goes on harvesting it, and
 * resumes when the same vCPU is added again. The vCPU must not be running. Takes NULL.
 * No system call unless the log is closed already (munmap, close). May block. Since 0.1.
 */
void dl_vcpu_remove(struct dl_vcpu *vcpu);

/*
 * Begins an iteration over what is pending. One is live at a time. It holds on to the slots of this
 * moment: a slot added later is for the next iteration.
 *   flags      0
 *   iter       receives the handle, owned by the caller
 * Errors: -EINVAL; -EBUSY: another is live; -ECANCELED: logging is off or the log is closed;
 * -ENOMEM. No system call but malloc's. May block. Since 0.1.
 */
DL_MUST_CHECK int dl_iter_new(struct dl_log *log, uint32_t flags, struct dl_iter **iter);

/*
 * Hands out runs of dirty pages. What it returns is protected: read the contents after this
 * returned, and any later write will be reported again. Each pending page goes to one reader.
 *   runs       receives at most max_runs runs
 * Returns the number of runs; 0: nothing is left. Errors: -EINVAL (max_runs 0 too); -ECANCELED:
 * logging was stopped or restarted, or the log closed; otherwise the kernel's from
 * KVM_CLEAR_DIRTY_LOG: the pages concerned stay pending, and the next call tries them again. Where
 * some runs were read before it failed, their number is returned, and the error only by the next
 * call.
 * System calls: KVM_CLEAR_DIRTY_LOG in bitmap mode with manual protect, a chunk at a time.
 * Allocates nothing. May block on other readers and on a harvest. Since 0.1.
 */
DL_MUST_CHECK int dl_iter_read(struct dl_iter *iter, struct dl_run *runs, uint32_t max_runs);

/*
 * Acknowledges runs: their contents are sent, forget them. Any thread, any order, any part of a run
 * (page aligned) in place of the whole.
 *   runs       as read; n_runs of them
 * Errors: -EINVAL: a run that was not handed out by this iterator, or was acknowledged already (the
 * runs before it are acknowledged, it and those after it are not); -ECANCELED: as dl_iter_read().
 * dl_iter_read() prepares some pages ahead of those that it returns: that one of these was not
 * handed out is not noticed. No system call; never blocks. Since 0.1.
 */
DL_MUST_CHECK int dl_iter_ack(struct dl_iter *iter, const struct dl_run *runs, uint32_t n_runs);

/*
 * Ends an iteration. What was handed out and not acknowledged is pending again. Takes NULL.
 * No system call but munmap of slots that are gone; where the log is closed and this was its last
 * handle, munmap and close(2) of what was its. May block. Since 0.1.
 */
void dl_iter_free(struct dl_iter *iter);

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
