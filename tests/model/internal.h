/* SPDX-License-Identifier: MIT */
#ifndef MODEL_INTERNAL_H
#define MODEL_INTERNAL_H

/*
 * Locks, outermost first, named after the kernel's:
 *	run_lock (a vCPU; KVM_RUN holds vcpu->mutex)
 *	slots_lock (ioctls that read or change slots)
 *	slots_rw (the kernel's SRCU: read side during a guest store)
 *	guest_lock, mmu_lock, cells_lock, call_lock (short; taken and dropped around one step)
 * No hook is called with one of the last four held.
 *
 * Global functions begin with mk_ ("model kernel"), because the model is linked with libraries that
 * have rings, slots and pages of their own.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "model.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif
#ifndef KVM_MEM_GUEST_MEMFD
#define KVM_MEM_GUEST_MEMFD (1U << 2)
#endif

#define LEAF_PAGES	1024
#define LEAF_WORDS	(LEAF_PAGES / 64)
#define MAX_VMS		64
#define MAX_VCPUS	1024
#define MAX_FAULTS	16
#define MAX_REQUESTS	48
#define MAX_PML_ENTRIES 512
#define MAX_TIMERS	8

/* MMU state and dirty bits of LEAF_PAGES pages; allocated when the first one is touched. */
struct page_leaf {
	_Atomic uint64_t writable[LEAF_WORDS]; /* mapped writable: stores are not logged */
	_Atomic uint64_t stale[LEAF_WORDS];    /* no longer writable, but TLBs may have it so */
	_Atomic uint64_t dirty[LEAF_WORDS];    /* the slot's dirty bitmap */
	_Atomic uint32_t writes[LEAF_PAGES];
};

struct memslot {
	uint32_t slot; /* as_id << 16 | id */
	uint32_t flags;
	uint64_t gpa, pages, hva;
	bool has_bitmap;
	uint64_t born;	   /* slots that were created before it */
	uint64_t placed;   /* slots that were created or moved before that, this one included */
	bool absent_dirty; /* all bits of missing leaves are dirty */
	struct page_leaf *_Atomic *leaves;
	uint64_t leaf_count;
	size_t directory_bytes;
};

struct stale_word {
	struct page_leaf *leaf;
	uint32_t word;
};

struct as_slots {
	struct memslot **by_id;	 /* slot_ids entries */
	struct memslot **by_gpa; /* count entries, in order of gpa */
	uint32_t count, room;
};

struct model_vm;

struct model_vcpu {
	struct model_vm *vm;
	int fd;
	unsigned long id;

	pthread_mutex_t run_lock;
	bool in_guest;
	uint32_t unnoticed_writes;

	pthread_mutex_t guest_lock; /* held during a store: a TLB flush waits for it */
	_Atomic bool kicked;
	uint32_t pml_count;
	struct {
		uint32_t as_id;
		uint64_t gpa;
	} pml[MAX_PML_ENTRIES];

	int run_memfd;
	struct kvm_run *run;

	pthread_mutex_t cells_lock; /* a push against truth.c reading the cells */
	int ring_memfd;
	struct kvm_dirty_gfn *cells;
	bool cells_lent; /* cells is mapped by the caller; ThreadSanitizer only */
	uint32_t ring_entries, soft_limit_entries;
	_Atomic uint32_t dirty_index, reset_index;
	_Atomic bool soft_full_request;
	_Atomic uint64_t pushed_entries, overwritten_entries;

	/* With call_lock: the last pause of its thread, and the sum of those before. */
	uint64_t pause_begin_ns, pause_end_ns, paused_ns;
};

struct model_vm {
	struct model *model;
	int fd;

	pthread_mutex_t lock; /* creation of vCPUs, enabling of rings */
	_Atomic uint32_t ring_bytes;
	_Atomic bool ring_with_bitmap;
	_Atomic uint32_t manual_protect;
	struct model_vcpu *vcpus[MAX_VCPUS];
	_Atomic uint32_t vcpu_count;

	pthread_mutex_t slots_lock;
	pthread_rwlock_t slots_rw;
	struct as_slots *spaces;
	_Atomic uint64_t slots_created, slots_placed;
	int copy_memfd; /* bitmaps pass through it: a bad address is EFAULT */

	pthread_mutex_t mmu_lock;
	struct stale_word *stale;
	size_t stale_count, stale_room;
};

struct model_timer {
	bool open, armed;
	bool real; /* fd is the system's: an eventfd with the virtual clock, otherwise a timerfd */
	int fd;
	uint64_t expires_ns;
};

struct model_watches; /* watch.c */

struct model {
	uint64_t number; /* no two models of a process have the same */
	struct model_options options;
	struct dl_os os;
	pthread_mutex_t lock; /* creation of VMs, lent rings */
	struct model_vm *vms[MAX_VMS];
	_Atomic uint32_t vm_count;

	pthread_mutex_t call_lock; /* the fields below */
	struct {
		unsigned long request;
		uint64_t calls;
	} requests[MAX_REQUESTS];
	struct {
		struct model_fault fault;
		uint32_t matched;
		uint64_t injected;
		bool used;
	} faults[MAX_FAULTS];
	struct model_reset_fault reset_fault;
	uint32_t resets_matched;
	bool reset_faulty;
	_Atomic uint64_t injected, resets_injected; /* resets are in both */
	struct model_timer timers[MAX_TIMERS];
	_Atomic uint64_t virtual_ns;
	struct model_watches *watches;
};

/* An ioctl in progress. */
struct model_call {
	unsigned long request;
	void *arg;
	int fd;
	bool undelivered; /* GET: do everything except deliver */
};

static inline bool has(const struct model *model, uint32_t what)
{
	return model->options.has & what;
}

static inline bool uses_bitmap(struct model_vm *vm)
{
	return !vm->ring_bytes || vm->ring_with_bitmap;
}

/* model.c */
int mk_map_memory(const struct model *model, size_t bytes, int prot, int flags, void **addr);

/* fault.c */
int mk_call_begin(struct model *model, const struct model_call *call, bool *after);
void mk_reset_fault_count(struct model *model);
bool mk_reset_fault_take(struct model *model, struct model_reset_fault *fault);
void mk_event_page(struct model *model, enum model_point point, int fd, uint32_t slot,
		   uint64_t page);
void mk_event_call(struct model *model, enum model_point point, const struct model_call *call,
		   int result);

/* vm.c */
struct model_vm *mk_find_vm(struct model *model, int fd);
struct model_vcpu *mk_find_vcpu(struct model *model, int fd);
int mk_vm_create(struct model *model);
void mk_vm_free(struct model_vm *vm);
int mk_vcpu_create(struct model_vm *vm, unsigned long id);
int mk_vcpu_mmap(struct model_vcpu *vcpu, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		 void **addr);
bool mk_return_lent_cells(struct model *model, const void *addr);

/* caps.c */
int mk_check_extension(struct model *model, uintptr_t cap);
int mk_enable_cap(struct model_vm *vm, const struct kvm_enable_cap *cap);

/* memslot.c */
bool mk_is_region_ioctl(const struct model *model, unsigned long request);
int mk_set_region(struct model_vm *vm, const struct model_call *call);
struct memslot *mk_slot_by_id(struct model_vm *vm, uint32_t slot);
struct memslot *mk_slot_by_gpa(struct model_vm *vm, uint32_t as_id, uint64_t gpa);
bool mk_slot_name_valid(const struct model *model, uint32_t slot);
void mk_slots_read_lock(struct model_vm *vm);
void mk_slots_read_unlock(struct model_vm *vm);
int mk_slots_new(struct model_vm *vm);
void mk_slots_free(struct model_vm *vm);

/* pages.c */
int mk_pages_new(struct memslot *slot);
void mk_pages_free(struct memslot *slot);
struct page_leaf *mk_leaf_get(struct memslot *slot, uint64_t page);
struct page_leaf *mk_leaf_find(const struct memslot *slot, uint64_t page);
void mk_pages_protect(struct model_vm *vm, struct memslot *slot, uint64_t page, uint64_t mask);
void mk_pages_protect_all(struct model_vm *vm, struct memslot *slot);
void mk_pages_unmap_all(struct model_vm *vm, struct memslot *slot);
void mk_pages_map_writable(struct model_vm *vm, struct memslot *slot, uint64_t page);
bool mk_page_store_allowed(struct page_leaf *leaf, uint64_t page);
void mk_pages_set_dirty_all(struct memslot *slot, bool dirty);
uint64_t mk_word_valid_mask(const struct memslot *slot, uint64_t page);
void mk_tlb_flush(struct model_vm *vm);

/* ring.c */
int mk_ring_new(struct model_vcpu *vcpu);
void mk_ring_free(struct model_vcpu *vcpu);
void mk_ring_push(struct model_vcpu *vcpu, uint32_t slot, uint64_t page);
bool mk_ring_is_full(struct model_vcpu *vcpu);
int mk_reset_rings(struct model_vm *vm);

/* timer.c: for struct dl_os; closing is false if fd is no timer. */
int mk_timer(void *opaque);
int mk_timer_set(void *opaque, int fd, uint64_t from_now_ns);
uint64_t mk_now_ns(void *opaque);
bool mk_timer_close(struct model *model, int fd);

/* cpu.c: for struct dl_os */
uint64_t mk_model_number(void);
int mk_thread_clock(void *opaque, int64_t *clock_id);
int mk_thread_ns(void *opaque, int64_t clock_id, uint64_t *ns);

/* watch.c: the table's functions; closing is false if fd is none of its descriptors. */
int mk_watches_new(struct model *model);
void mk_watches_free(struct model *model);
int mk_userfaultfd(void *opaque);
int mk_pagemap(void *opaque);
bool mk_watch_close(struct model *model, int fd);
int mk_watch_ioctl(struct model *model, const struct model_call *call);

/* bitmap.c */
int mk_get_dirty_log(struct model_vm *vm, const struct model_call *call);
int mk_clear_dirty_log(struct model_vm *vm, const struct kvm_clear_dirty_log *log);

#endif
