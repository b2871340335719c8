/* SPDX-License-Identifier: MIT */
#ifndef UNIT_FAKE_RINGS_H
#define UNIT_FAKE_RINGS_H

/*
 * The kernel's side of dirty rings in one thread, as in virt/kvm/dirty_ring.c. It is not the model
 * kernel (tests/model), because unit tests and fuzzers set its indices and cells themselves, inject
 * misbehaviour between two steps, and need neither memory nor page states.
 */

#include "fake_os.h"
#include "kvm/uapi.h"

enum { FAKE_RINGS = 2, FAKE_VCPU_FD = 100, FAKE_VM_FD = 99 };

struct fake_ring {
	struct kvm_dirty_gfn *cells; /* on a page border, as is run */
	struct kvm_run *run;
	uint32_t dirty_index, reset_index; /* free running */
	bool request;			   /* a push found the ring full */
	uint64_t pushed, overwritten;
};

struct fake_rings {
	struct fake_os fake;
	uint32_t entries, soft_limit;
	struct fake_ring rings[FAKE_RINGS];
	bool no_request; /* before 6.2: every entry looks at the indices */

	unsigned int resets;
	unsigned int reset_errors; /* so many of the next answer with reset_error */
	int reset_error;
	unsigned int short_resets; /* so many of the next end after short_entries */
	uint32_t short_entries;
	bool overshot; /* a reset took a cell that was never filled: the vCPU stays out for ever */

	/*
	 * May be NULL. Called when a reset begins, for each cell that it takes, when it protects
	 * what it took of a ring (or ends early, which loses some of it), and when it ends.
	 */
	void (*on_reset)(struct fake_rings *rings, bool ends);
	void (*on_taken)(struct fake_rings *rings, uint32_t slot, uint64_t offset);
	void (*on_protect)(struct fake_rings *rings, bool ends_early);
	void *opaque;
};

void fake_rings_init(struct fake_rings *rings, uint32_t entries, uint32_t soft_limit,
		     uint32_t first_index);
void fake_rings_free(struct fake_rings *rings);

/* Whatever is in the next cell, it is filled. */
void fake_ring_push(struct fake_rings *rings, struct fake_ring *ring, uint32_t slot,
		    uint64_t offset);

/* KVM_RUN gets into the guest; false: it ends with KVM_EXIT_DIRTY_RING_FULL. */
bool fake_ring_enter(struct fake_rings *rings, struct fake_ring *ring);

#endif
