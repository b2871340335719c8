/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_KERNEL_H
#define CONVERGENCE_KERNEL_H

/*
 * A KVM under struct dl_os, in virtual time and without costs: rings of struct kvm_dirty_gfn with
 * the kernel's flags and soft limit, and a write protection that a write lifts and a reset puts
 * back; without rings, bitmaps that are read and cleared apart. It is not the model kernel
 * (tests/model), which stores to memory and runs on threads, nor that of tests/tuning, whose vCPUs
 * write pages by the number.
 */

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

enum {
	KERNEL_VCPUS = 64,
	KERNEL_VM_FD = 100,
	KERNEL_TIMER_FD = 101,
	KERNEL_VCPU_FD = 1000, /* of the first */
	KERNEL_PAGE_BYTES = 4096,
	KERNEL_LEAST_RING = 256,
};

struct kernel_vcpu {
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	uint32_t next;	 /* cell that the kernel fills */
	uint32_t first;	 /* cell that the kernel takes back */
	uint64_t cpu_ns; /* of the thread that runs it */
};

struct kernel {
	struct dl_os os;
	uint32_t vcpu_count;
	uint32_t ring_entries;
	uint32_t soft_limit; /* entries of a full ring */
	uint32_t slot_shift; /* pages of a slot, as a power of two */
	uint64_t pages;
	uint64_t now_ns;
	uint32_t calling;     /* the vCPU whose thread calls the library */
	uint64_t timer_at_ns; /* of dl_log_fd(); 0: not set */
	bool rings_on;
	/* A bit a page. */
	uint64_t *protected; /* a write makes an entry, or sets a dirty bit */
	uint64_t *dirty;     /* without rings */
	uint64_t *unsent;    /* the receiver has older contents */
	uint64_t *zero;	     /* nothing but zeros is in it */
	struct kernel_vcpu vcpus[KERNEL_VCPUS];
};

struct kernel *kernel_new(uint64_t pages, uint32_t vcpus, uint32_t ring_entries,
			  uint32_t soft_limit, uint32_t slot_shift);
void kernel_free(struct kernel *kernel);

static inline bool kernel_ring_is_full(const struct kernel *kernel, const struct kernel_vcpu *vcpu)
{
	return vcpu->next - vcpu->first >= kernel->soft_limit;
}

/* A vCPU's write to a page. True: KVM_RUN ends, as the ring is full. */
static inline bool kernel_write(struct kernel *kernel, struct kernel_vcpu *vcpu, uint64_t page)
{
	uint64_t word = page / 64, bit = UINT64_C(1) << page % 64;
	struct kvm_dirty_gfn *cell;

	kernel->unsent[word] |= bit;
	if (!(kernel->protected[word] & bit))
		return false;
	kernel->protected[word] &= ~bit;
	kernel->zero[word] &= ~bit;
	if (!kernel->rings_on) {
		kernel->dirty[word] |= bit;
		return false;
	}
	cell = &vcpu->cells[vcpu->next++ & (kernel->ring_entries - 1)];
	cell->slot = (uint32_t)(page >> kernel->slot_shift);
	cell->offset = page & ((UINT64_C(1) << kernel->slot_shift) - 1);
	__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
	return kernel_ring_is_full(kernel, vcpu);
}

static inline bool kernel_is_zero(const struct kernel *kernel, uint64_t page)
{
	return kernel->zero[page / 64] >> page % 64 & 1;
}

/* The page's contents are sent now. */
static inline void kernel_send(struct kernel *kernel, uint64_t page)
{
	kernel->unsent[page / 64] &= ~(UINT64_C(1) << page % 64);
}

/* Pages whose newest contents have not been sent. */
uint64_t kernel_unsent_pages(const struct kernel *kernel);

#endif
