/* SPDX-License-Identifier: MIT */
#ifndef DIRTYLOG_MODEL_H
#define DIRTYLOG_MODEL_H

/*
 * libdirtylog-model: KVM's dirty log in user space, for the tests of a VMM or a language binding.
 *
 * A modelled VM has memslots, vCPUs, rings, bitmaps and timers, and answers libdirtylog through
 * struct dl_options.os as Linux does; no /dev/kvm and no privilege is needed. Faults can be
 * injected into every system call that the library makes. A receiver is the other end of a
 * migration: it compares its copy with the guest's memory, and names a page that differs and why.
 *
 * Setup:    dlm_vm_new; dlm_vm_os into dl_options.os; dl_log_open on dlm_vm_fd; dlm_memory_new (or
 *           memory of the program's own) into dl_slot.hva; dlm_vcpu_add, dl_vcpu_add.
 * Guest:    dlm_vcpu_write; after DLM_RING_FULL dl_vcpu_drain and the same write again.
 * Device:   dlm_vmm_write, then the VMM's dl_mark_*. In-kernel: dlm_kernel_write.
 * Passes:   each extent to dlm_receiver_put.
 * Verdict:  dlm_receiver_compare after the last pass; dlm_stale_describe says what is wrong.
 *
 * WORDS as in dirtylog.h. A write is a store that the model made or was told of; writes have
 * numbers, from 1 on, in the order in which they were made. A page is stale if the receiver's copy
 * differs from the guest's memory.
 * DESCRIPTORS of the model are plain numbers above 2^24 that only the model knows; that of
 * dl_log_fd() is real, and poll(2) works on it. Nothing here needs an installed kernel's headers.
 *
 * ERRORS. 0, or a positive number that the call names, is success; a negative errno value is
 * failure. errno is untouched. Bad input changes nothing.
 *   -EINVAL   an argument is wrong (a NULL handle too); dlm_last_error() names it
 *   -E2BIG    a struct's tail that this release does not know is not zero
 *   -EFAULT   no slot maps part of a range of guest memory, or it is read-only
 *   -ENOENT   no such slot, fault or memory
 *   -EBUSY    wrong state or order; -EOPNOTSUPP: the VM was made without it
 *   -ENOMEM, -EMFILE, -ENOSPC  no memory; too many VMs or descriptors; too many faults
 * Out handles are NULL after a failure. Without memory for its own books the model aborts.
 *
 * THREADS. Any call, any thread, also beside libdirtylog's on the same VM; a handle's last call is
 * its free. ThreadSanitizer accepts reads of guest memory by dlm_copy(). No call waits for long.
 *
 * STRUCTS. The caller sets size; 0 is the default of every other field. A larger struct than this
 * release knows is accepted while its tail is zero. Enums gain values: an unknown one passed in is
 * -EINVAL, one read is to be ignored. New in 0.2. Both libraries must be of one release (os.h).
 */

#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility push(default)
#endif

struct dlm_vm;	     /* one VM on a kernel of its own */
struct dlm_vcpu;     /* one vCPU of it; freed with the VM */
struct dlm_receiver; /* the other end of a migration */

/* ---- Choices ---- */

/* dlm_options.has: capabilities of the kernel; the low six have the values of enum dl_has. */
enum dlm_has {
	DLM_HAS_RING_TSO = 1,	    /* KVM_CAP_DIRTY_LOG_RING */
	DLM_HAS_RING_ACQ_REL = 2,   /* KVM_CAP_DIRTY_LOG_RING_ACQ_REL */
	DLM_HAS_BACKUP = 4,	    /* KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP; needs ACQ_REL */
	DLM_HAS_MANUAL_PROTECT = 8, /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	DLM_HAS_INITIALLY_SET = 16, /* its KVM_DIRTY_LOG_INITIALLY_SET; needs MANUAL_PROTECT */
	DLM_HAS_WATCH = 32,	    /* userfaultfd's WP_ASYNC and PAGEMAP_SCAN, of Linux 6.7 */
	DLM_HAS_NOTHING = 1 << 30,  /* none of them: KVM_GET_DIRTY_LOG only; excludes the others */
};

/* dlm_options.arch */
enum dlm_arch {
	DLM_ARCH_X86 = 0,   /* a ring alone records every vCPU's write; entry, then mapping */
	DLM_ARCH_ARM64 = 1, /* rings need the backup bitmap; mapping, then entry; protects ranges */
};

/* dlm_options.write_order: how a vCPU stores to a protected page. */
enum dlm_write_order {
	DLM_ORDER_ARCH = 0,	      /* as dlm_options.arch does */
	DLM_ORDER_LOG_THEN_STORE = 1, /* entry and mapping together, then the store is retried */
	DLM_ORDER_MAP_THEN_LOG = 2,   /* writable for every vCPU before the entry is there */
	DLM_ORDER_STORE_THEN_LOG = 3, /* an emulated instruction: each store makes an entry */
};

/* dlm_options.flags */
enum dlm_vm_flag {
	DLM_VM_VIRTUAL_CLOCK = 1,     /* it stands at 1 s; only dlm_clock_advance() moves it */
	DLM_VM_LOOKS_ON_ENTRY = 2,    /* before Linux 6.2: KVM_RUN looks at the ring itself */
	DLM_VM_SIGNALS_CUT_RESET = 4, /* since 6.17: a pending signal makes a reset lose a batch */
	DLM_VM_DELETE_UNMAPS_ALL = 8, /* x86: removing a slot unmaps the pages of all */
	DLM_VM_HUGE_PAGES = 16,	      /* ARM64, rings without backup: maps 512, logs one */
	DLM_VM_GUEST_MEMFD = 32,      /* KVM_SET_USER_MEMORY_REGION2, KVM_MEM_GUEST_MEMFD */
};

/* dlm_receiver_new() */
enum dlm_receiver_kind {
	DLM_RECEIVER_GPA = 1,	 /* keeps what it gets by address space and guest address */
	DLM_RECEIVER_MEMORY = 2, /* keeps it by the source's memory: blocks and offsets */
};

/* dlm_stale.writer */
enum dlm_writer {
	DLM_WRITER_UNKNOWN = 0, /* nobody that the model knows: the program itself, unannounced */
	DLM_WRITER_VCPU = 1,	/* dlm_vcpu_write() and its like */
	DLM_WRITER_KERNEL = 2,	/* dlm_kernel_write(): no vCPU, as an ITS save */
	DLM_WRITER_VMM = 3,	/* dlm_vmm_write(), dlm_vmm_wrote() */
};

/* dlm_stale.flags */
enum dlm_stale_flag {
	DLM_STALE_NEVER_COPIED = 1, /* the receiver has no copy of the page */
	DLM_STALE_RECORDED = 2,	    /* KVM has it recorded: one more harvest would find it */
	DLM_STALE_OLD_CONTENTS = 4, /* contents came after the write, but are older */
};

/* dlm_page_states(): of a page; several may be set. */
enum dlm_page_state {
	DLM_PAGE_PROTECTED = 1, /* a vCPU's next write is logged */
	DLM_PAGE_STALE_TLB = 2, /* protected, but TLBs are not flushed: a vCPU can still write */
	DLM_PAGE_IN_RING = 4,	/* an entry of some ring is dirty */
	DLM_PAGE_RELEASED = 8,	/* an entry is released, and not reset yet */
	DLM_PAGE_IN_BITMAP = 16,
	DLM_PAGE_IN_PML = 32, /* in a vCPU's buffer, until it exits */
};

/* System calls that libdirtylog makes: dlm_fault.call, dlm_calls(). */
enum dlm_call {
	DLM_CALL_CHECK_EXTENSION = 1,
	DLM_CALL_GET_API_VERSION = 2,
	DLM_CALL_ENABLE_CAP = 3,
	DLM_CALL_SET_USER_MEMORY_REGION = 4, /* and _REGION2 */
	DLM_CALL_GET_DIRTY_LOG = 5,
	DLM_CALL_CLEAR_DIRTY_LOG = 6,
	DLM_CALL_RESET_DIRTY_RINGS = 7,
	DLM_CALL_VCPU_IOCTL = 8, /* any ioctl of a vCPU's descriptor */
	DLM_CALL_MMAP = 9,	 /* of memory */
	DLM_CALL_MMAP_VCPU = 10, /* of a vCPU's ring */
	DLM_CALL_MUNMAP = 11,
	DLM_CALL_SIGNAL_MASK = 12,
	DLM_CALL_DUP = 13,
	DLM_CALL_CLOSE = 14,
	DLM_CALL_MADVISE = 15,
	DLM_CALL_MPROTECT = 16,
	DLM_CALL_TIMER = 17,
	DLM_CALL_TIMER_SET = 18,
	DLM_CALL_USERFAULTFD = 19,
	DLM_CALL_PAGEMAP = 20, /* open(2) of /proc/self/pagemap */
	DLM_CALL_UFFD_API = 21,
	DLM_CALL_UFFD_REGISTER = 22,
	DLM_CALL_UFFD_UNREGISTER = 23,
	DLM_CALL_PAGEMAP_SCAN = 24,
	DLM_CALL_THREAD_CLOCK = 25, /* pthread_getcpuclockid(3) */
	DLM_CALL_THREAD_NS = 26,    /* clock_gettime(2) of such a clock */
};

/* dlm_fault.kind */
enum dlm_fault_kind {
	DLM_FAULT_ERROR = 0,	   /* the call fails with error, and does nothing */
	DLM_FAULT_ERROR_AFTER = 1, /* an ioctl does its work, then fails; it delivers nothing */
	/* of KVM_RESET_DIRTY_RINGS only; error is 0; the library can notice the first two */
	DLM_FAULT_RESET_SHORT = 2,	/* returns after that many entries; the rest is left */
	DLM_FAULT_RESET_LOSES = 3,	/* the same, and the last batch is never protected */
	DLM_FAULT_RESET_LATE_FLUSH = 4, /* returns before TLBs are flushed; the next flush helps */
};

/* dlm_fault.flags */
enum dlm_fault_flag {
	DLM_FAULT_ONLY = 1, /* calls that name the slot (region, GET, CLEAR) or capability "only" */
};

#define DLM_RING_FULL  1    /* KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL: dl_vcpu_drain() */
#define DLM_ALL_FAULTS (-1) /* dlm_fault_injected() */

/* ---- Structs: versioned by size ---- */

/* dlm_vm_new(): 0 everywhere is an x86 of today without the backup bitmap, with 4 KiB pages. */
struct dlm_options {
	uint32_t size;		   /* sizeof(struct dlm_options) */
	uint32_t flags;		   /* enum dlm_vm_flag */
	uint32_t has;		   /* enum dlm_has; 0: all but BACKUP (ARM64: but RING_TSO) */
	uint32_t arch;		   /* enum dlm_arch */
	uint32_t page_bytes;	   /* host page, a power of two from 4096 to 65536; 0: 4096 */
	uint32_t write_order;	   /* enum dlm_write_order */
	uint32_t ring_min_entries; /* a power of two; 0: what fits the reserved entries */
	uint32_t ring_max_entries; /* a power of two; 0: 65536, as Linux */
	uint32_t reserved_entries; /* a ring is full that far from its end; 0: 64 + pml_entries */
	uint32_t pml_entries;	   /* entries of the vCPU's PML buffer, at most 512 */
	uint32_t ring_first_index; /* where the kernel's free-running indices start */
	uint32_t slot_ids;	   /* an address space has so many; 0: 32764; at most 32767 */
	uint32_t address_spaces;   /* 0: 2; at most 16 */
	uint32_t batch_writes;	   /* > 1: a full ring is noticed at every n-th write only */
};

/* dlm_vcpu_ring() */
struct dlm_ring {
	uint32_t size;		      /* sizeof(struct dlm_ring) */
	uint32_t entries;	      /* 0: the VM has no rings */
	uint32_t soft_limit_entries;  /* in use: the ring counts as full */
	uint32_t used_entries;	      /* pushed and not yet reset */
	uint64_t pushed_entries;      /* since dlm_vcpu_add() */
	uint64_t overwritten_entries; /* of these, over an entry that was not free: lost */
};

/* dlm_fault_add() */
struct dlm_fault {
	uint32_t size;	  /* sizeof(struct dlm_fault) */
	uint32_t flags;	  /* enum dlm_fault_flag */
	uint32_t call;	  /* enum dlm_call */
	uint32_t kind;	  /* enum dlm_fault_kind */
	uint32_t skip;	  /* so many matching calls pass first */
	uint32_t times;	  /* then so many are hit; 0: all */
	int32_t error;	  /* a positive errno value, at most 4095 */
	uint32_t only;	  /* a slot (as_id << 16 | id) or a capability, for DLM_FAULT_ONLY */
	uint32_t entries; /* for SHORT (0: no progress) and LOSES (not 0) */
	uint32_t reserved;
};

/* dlm_receiver_compare(), dlm_receiver_check(): the first stale page, by slot and address. */
struct dlm_stale {
	uint32_t size;	       /* sizeof(struct dlm_stale) */
	uint32_t flags;	       /* enum dlm_stale_flag */
	uint32_t slot;	       /* as_id << 16 | id, of the oldest slot that maps the page */
	uint32_t writer;       /* enum dlm_writer: of the last write of the page */
	uint64_t gpa;	       /* of the page */
	uint64_t hva;	       /* of the page */
	uint64_t offset_bytes; /* of the page, in the slot */
	uint64_t page_bytes;   /* its size */
	uint64_t at_byte;      /* the first byte in it that differs; 0 without a copy */
	uint64_t pages;	       /* stale pages in all */
	uint64_t write;	       /* number of the last write of the page; 0: unknown */
	uint64_t write_ns;     /* when, on the VM's clock */
	uint64_t copied_after; /* number of the last write before the copy */
	uint64_t copied_ns;    /* when the receiver got its copy, on the VM's clock */
	uint64_t states;       /* enum dlm_page_state, of now */
	const char *who;       /* the name that the VMM's writer gave, or NULL */
	uint32_t vcpu;	       /* for DLM_WRITER_VCPU: dlm_vcpu_index() */
	uint32_t reserved;     /* 0 */
};

/* ---- The VM ---- */

/* Returns the version of the linked library, encoded as DL_VERSION. */
uint32_t dlm_library_version(void);

/*
 * Creates a VM without memslots and vCPUs, on a kernel of its own. options may be NULL: defaults.
 * why receives a sentence, if the call fails. -EINVAL, -E2BIG: options. -ENOMEM.
 */
DL_MUST_CHECK int dlm_vm_new(const struct dlm_options *options, struct dlm_vm **vm, char *why,
			     size_t why_bytes);

/* Frees it, its vCPUs and memory; may be NULL. Before: receivers, the log and the log's handles. */
void dlm_vm_free(struct dlm_vm *vm);

/* Return the descriptor of the VM; that of its /dev/kvm; dl_options.os, which lives as long. */
int dlm_vm_fd(const struct dlm_vm *vm);
int dlm_vm_system_fd(const struct dlm_vm *vm);
const struct dl_os *dlm_vm_os(const struct dlm_vm *vm);

/* Returns how many vCPUs are in KVM_RUN: 0 is what a paused pass needs. */
DL_MUST_CHECK int dlm_vm_running(const struct dlm_vm *vm);

/*
 * Writes the last failure of a call on the VM, its vCPUs or receivers, on any thread, in words.
 * Returns its length as snprintf(3) does; 0: nothing has failed. -EINVAL: no VM; no text.
 */
DL_MUST_CHECK int dlm_last_error(const struct dlm_vm *vm, char *text, size_t text_bytes);

/* ---- Memory: any mapping can be a slot's; this one has the model's page size ---- */

/*
 * Allocates zeroed memory for dl_slot.hva, aligned to the VM's page size. It is freed with the VM,
 * or by dlm_memory_free() once no slot maps it. -EINVAL: bytes is 0 or no whole pages; -ENOMEM.
 */
DL_MUST_CHECK int dlm_memory_new(struct dlm_vm *vm, uint64_t bytes, void **memory);

/*
 * Returns its second mapping, for dl_slot_watch(): dlm_vmm_write() writes through that from now on,
 * and dlm_vmm_wrote() tells watches what the program itself writes there. -ENOENT: as below.
 */
DL_MUST_CHECK int dlm_memory_alias(struct dlm_vm *vm, void *memory, void **alias);

/* Frees it. -ENOENT: it is none of dlm_memory_new()'s. -EBUSY: a slot maps a part of it. */
int dlm_memory_free(struct dlm_vm *vm, void *memory);

/* memcpy(3) from or to guest memory that others may be writing. */
void dlm_copy(void *to, const void *from, size_t bytes);

/* Fills states[0 .. pages) with enum dlm_page_state. -ENOENT: no slot, or the range leaves it. */
DL_MUST_CHECK int dlm_page_states(const struct dlm_vm *vm, uint32_t slot, uint64_t first_page,
				  uint64_t pages, uint8_t *states);

/* ---- vCPUs ---- */

/* Creates a vCPU. The handle belongs to the VM. -EMFILE: 1024 exist; -ENOMEM. */
DL_MUST_CHECK int dlm_vcpu_add(struct dlm_vm *vm, struct dlm_vcpu **vcpu);

/*
 * Unplugs a vCPU that is not in KVM_RUN, after dl_vcpu_remove(). KVM cannot delete one: descriptor
 * and ring stay, and dlm_vcpu_add_again() plugs it in once more, before dl_vcpu_add(). Meanwhile
 * its writes are -EBUSY. -EBUSY: it is in KVM_RUN, or unplugged (plugged in) already.
 */
int dlm_vcpu_remove(struct dlm_vcpu *vcpu);
DL_MUST_CHECK int dlm_vcpu_add_again(struct dlm_vcpu *vcpu);

/* Return its descriptor, for dl_vcpu_add(); its number, from 0 on; kvm_run.exit_reason. */
int dlm_vcpu_fd(const struct dlm_vcpu *vcpu);
uint32_t dlm_vcpu_index(const struct dlm_vcpu *vcpu);
uint32_t dlm_vcpu_exit_reason(const struct dlm_vcpu *vcpu);

/*
 * The guest stores. The vCPU enters the guest if it is not there, and stays.
 *   gpa         in address space as_id; needs no alignment
 *   data        bytes bytes; NULL: a value that no page had before, in the first 8 bytes of each
 *               page's part (or in as many as it has)
 *   done_bytes  in and out: so much of the range is stored, 0 at the first call. NULL: the range
 *               lies inside one page.
 * Returns 0 when all is stored. DLM_RING_FULL: KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL before
 * that; the VMM calls dl_vcpu_drain(), then this again with the same arguments.
 * -EINVAL: a range over several pages without done_bytes, *done_bytes > bytes, a range that wraps;
 * -EFAULT: no writable slot there; what lies before is stored. -EBUSY: unplugged.
 */
DL_MUST_CHECK int dlm_vcpu_write(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa,
				 const void *data, uint64_t bytes, uint64_t *done_bytes);

/*
 * The kernel stores for the vCPU (steal time, a vCPU ioctl): an entry for each page, whether it is
 * protected or not, and no look at a full ring. Too many of them overflow it. data as for
 * dlm_vcpu_write(). -EFAULT, -EBUSY, -EINVAL: as there.
 */
DL_MUST_CHECK int dlm_vcpu_kernel_write(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa,
					const void *data, uint64_t bytes);

/* Begins KVM_RUN, as dlm_vcpu_write() does. Returns 0 or DLM_RING_FULL. -EBUSY: unplugged. */
DL_MUST_CHECK int dlm_vcpu_enter(struct dlm_vcpu *vcpu);

/*
 * Ends KVM_RUN with kvm_run.exit_reason (KVM_EXIT_INTR is 10), and logs what the vCPU has buffered:
 * before a paused pass. Does nothing to a vCPU that is not in KVM_RUN.
 */
int dlm_vcpu_exit(struct dlm_vcpu *vcpu, uint32_t exit_reason);

/*
 * Writes one page after the other of a range, and over again, until the ring counts as full.
 * Returns DLM_RING_FULL; 0: no rings, or each page is writable now and the ring is not full.
 *   gpa, bytes  multiples of the page size, not 0. Errors as dlm_vcpu_write().
 */
DL_MUST_CHECK int dlm_vcpu_fill_ring(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa,
				     uint64_t bytes);

/*
 * Makes dlm_vcpu_kernel_write()s, one page after the other and over again, until entries entries
 * that were not free have been overwritten: each a lost page, unless the library notices.
 * -EOPNOTSUPP: the VM has no rings; -EINVAL: nothing logs the range. Errors as dlm_vcpu_write().
 */
DL_MUST_CHECK int dlm_vcpu_overflow_ring(struct dlm_vcpu *vcpu, uint32_t as_id, uint64_t gpa,
					 uint64_t bytes, uint32_t entries);

/* Reports the vCPU's ring. -EINVAL, -E2BIG: ring. */
DL_MUST_CHECK int dlm_vcpu_ring(const struct dlm_vcpu *vcpu, struct dlm_ring *ring);

/* ---- Writers that are no vCPU ---- */

/*
 * The kernel stores while no vCPU is loaded (an ITS save): recorded in the slot's bitmap; nowhere
 * if there are rings and no backup bitmap, as in Linux. data as for dlm_vcpu_write().
 * -EFAULT: no writable slot there; what lies before is stored. -EINVAL: the range wraps.
 */
DL_MUST_CHECK int dlm_kernel_write(struct dlm_vm *vm, uint32_t as_id, uint64_t gpa,
				   const void *data, uint64_t bytes);

/*
 * The VMM or a device model stores; KVM records nothing, and dl_mark_gpa() is up to the caller.
 * who is a name for messages ("virtio-net") that lives as long as the VM, or NULL; data as for
 * dlm_vcpu_write(). -EFAULT: no slot there (a read-only one will do); what lies before is stored.
 */
DL_MUST_CHECK int dlm_vmm_write(struct dlm_vm *vm, const char *who, uint32_t as_id, uint64_t gpa,
				const void *data, uint64_t bytes);

/* The program has written memory; messages and watches will say so. -EINVAL: it wraps, or NULL. */
int dlm_vmm_wrote(struct dlm_vm *vm, const char *who, const void *address, uint64_t bytes);

/* Returns how many writes there were: the number of the last one. */
uint64_t dlm_writes(const struct dlm_vm *vm);

/* ---- The clock ---- */

/* Returns CLOCK_MONOTONIC as the library sees it, in nanoseconds. */
uint64_t dlm_clock_ns(const struct dlm_vm *vm);

/*
 * Moves the virtual clock on. Timers that expire make their descriptors readable, dl_log_fd()'s
 * too. -EOPNOTSUPP: the VM was made without DLM_VM_VIRTUAL_CLOCK.
 */
int dlm_clock_advance(struct dlm_vm *vm, uint64_t ns);

/*
 * The calling thread runs the vCPU from now on, for dl_vcpu_pause_due(). With the virtual clock it
 * has CPU time whenever that moves, except in a pause of ns from now on; 0 ends it. -EBUSY: in
 * KVM_RUN, or no thread runs it. -EOPNOTSUPP: the real clock, which has real CPU clocks.
 */
int dlm_vcpu_thread(struct dlm_vcpu *vcpu);
int dlm_vcpu_pause(struct dlm_vcpu *vcpu, uint64_t ns);

/* How long dl_log_fd()'s timer has left: 0: expired; UINT64_MAX: not armed. -ENOENT: none. */
DL_MUST_CHECK int dlm_timer_left(const struct dlm_vm *vm, int fd, uint64_t *left_ns);

/* ---- Faults ---- */

/*
 * Makes system calls fail or KVM_RESET_DIRTY_RINGS misbehave. Of the matching calls skip pass, then
 * times are hit. The first fault that hits a call decides. Returns the number of the fault.
 * -EINVAL, -E2BIG: fault. -ENOSPC: 16 faults are there, or one of another kind than ERROR for
 * KVM_RESET_DIRTY_RINGS.
 */
DL_MUST_CHECK int dlm_fault_add(struct dlm_vm *vm, const struct dlm_fault *fault);

/*
 * Reports how often a fault was injected, or all since dlm_vm_new() (DLM_ALL_FAULTS). A test
 * asserts that it is not 0. A reset that had nothing left to lose does not count. -ENOENT: none.
 */
DL_MUST_CHECK int dlm_fault_injected(const struct dlm_vm *vm, int fault, uint64_t *times);

/* Removes all faults. Their numbers are used again; the count of all stays. */
void dlm_faults_clear(struct dlm_vm *vm);

/* Reports how often the library made a call, those that failed included. -EINVAL: call. */
DL_MUST_CHECK int dlm_calls(const struct dlm_vm *vm, uint32_t call, uint64_t *times);

/* ---- Receivers: what the destination has, compared with what the guest has ---- */

/* Makes a receiver of a kind (enum dlm_receiver_kind) without any page. -EINVAL: kind; -ENOMEM. */
DL_MUST_CHECK int dlm_receiver_new(struct dlm_vm *vm, uint32_t kind,
				   struct dlm_receiver **receiver);

/* Frees it; may be NULL. */
void dlm_receiver_free(struct dlm_receiver *receiver);

/* Copies all slots' memory, as DL_CURSOR_CLEAN supposes. No writer may run. -ENOMEM. */
DL_MUST_CHECK int dlm_receiver_equalize(struct dlm_receiver *receiver);

/* A pass begins: just before dl_harvest(), with no device between its write and its mark. */
int dlm_receiver_pass(struct dlm_receiver *receiver);

/*
 * Reads the contents of extents now, and keeps them: a VMM that sends them at once.
 * -EEXIST: a page was put already since dlm_receiver_pass(); everything is kept even so. -EINVAL:
 * an extent is not made of pages; -EFAULT: its memory is no slot's, or not at that address; what
 * lies before is kept. -ENOMEM.
 */
DL_MUST_CHECK int dlm_receiver_put(struct dlm_receiver *receiver, const struct dl_extent *extents,
				   uint32_t n_extents);

/*
 * Keeps contents that the caller has read and sent by itself, page by page.
 *   gpa, address, bytes  multiples of the page size; the address is the source's
 * -EBUSY: the receiver is of the other kind. -EEXIST, -EINVAL, -ENOMEM: as dlm_receiver_put().
 */
DL_MUST_CHECK int dlm_receiver_put_gpa(struct dlm_receiver *receiver, uint32_t as_id, uint64_t gpa,
				       const void *data, uint64_t bytes);
DL_MUST_CHECK int dlm_receiver_put_memory(struct dlm_receiver *receiver, const void *address,
					  const void *data, uint64_t bytes);

/*
 * Compares every page of every slot with the copy; no writer may run. KVM_MEM_GUEST_MEMFD slots are
 * left out. Memory that several slots map is expected at the oldest slot's address.
 * Returns 0: equal. 1: stale (may be NULL) has the first one, and how many. -EINVAL, -E2BIG: stale.
 */
DL_MUST_CHECK int dlm_receiver_compare(struct dlm_receiver *receiver, struct dlm_stale *stale);

/*
 * After the extents of a pass were put, also while the guest runs on: looks for pages that differ
 * though their last write came before dlm_receiver_pass(), and of which KVM has no record any more.
 * The pass had to hand them out, and no later one will. Returns 0: none. 1: a write is lost.
 * -EBUSY: no dlm_receiver_pass() was made. Otherwise as dlm_receiver_compare().
 */
DL_MUST_CHECK int dlm_receiver_check(struct dlm_receiver *receiver, struct dlm_stale *stale);

/* Reports how many pages the receiver was given since it was made, and how many it has. */
DL_MUST_CHECK int dlm_receiver_pages(const struct dlm_receiver *receiver, uint64_t *given_pages,
				     uint64_t *kept_pages);

/*
 * Says what a comparison found: which page, who wrote it and when, how old the copy is, what KVM
 * knows of it. Returns the length as snprintf(3) does. -EINVAL, -E2BIG: stale; no text.
 */
DL_MUST_CHECK int dlm_stale_describe(const struct dlm_stale *stale, char *text, size_t text_bytes);

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
