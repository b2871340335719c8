/* SPDX-License-Identifier: MIT */
#ifndef UNIT_FAKE_RINGS_H
#define UNIT_FAKE_RINGS_H

/*
 * The kernel's side of dirty rings, single-threaded, after virt/kvm/dirty_ring.c. Unit tests and
 * fuzzers use it in place of the model kernel (tests/model) because they set its indices and cells
 * themselves, inject misbehaviour between two steps, and need neither memory nor page states.
 */

#include "fake_os.h"
#include "kvm/uapi.h"

enum { FAKE_RINGS = 2, FAKE_VCPU_FD = 100, FAKE_VM_FD = 99 };

struct fake_ring {
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	uint32_t dirty_index, reset_index; /* free running */
	bool request;			   /* a push found the ring full */
	uint64_t pushed, overwritten;
};

struct fake_rings {
	struct fake_os fake;
	uint32_t entries, soft_limit;
	struct fake_ring rings[FAKE_RINGS];
	bool no_request; /* before 6.2: each entry to the guest compares the indices */

	unsigned int resets;
	unsigned int reset_errors; /* the next resets that fail with reset_error */
	int reset_error;
	unsigned int short_resets; /* the next resets that end after short_entries */
	uint32_t short_entries;
	bool overshot; /* a reset consumed an unfilled cell: the vCPU can never enter again */

	/*
	 * Hooks of a reset, each may be NULL: at its begin and end; for each cell that it consumes;
	 * and when it protects the consumed pages of a ring, of which an early end loses some.
	 */
	void (*on_reset)(struct fake_rings *rings, bool ends);
	void (*on_consumed)(struct fake_rings *rings, uint32_t slot, uint64_t offset);
	void (*on_protect)(struct fake_rings *rings, bool ends_early);
	void *opaque;
};

void fake_rings_init(struct fake_rings *rings, uint32_t entries, uint32_t soft_limit,
		     uint32_t first_index);
void fake_rings_free(struct fake_rings *rings);

/* Fills the next cell, even if that overwrites an entry. */
void fake_ring_push(struct fake_rings *rings, struct fake_ring *ring, uint32_t slot,
		    uint64_t offset);

/* KVM_RUN. False if it returns KVM_EXIT_DIRTY_RING_FULL without entering the guest. */
bool fake_ring_enter(struct fake_rings *rings, struct fake_ring *ring);

#endif
