/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_RING_WORLD_H
#define FUZZ_RING_WORLD_H

/* Two rings, the kernel's side of them, and the migration around both. For fuzz_ring.c. */

#include "fuzz.h"

#include "fake_rings.h"
#include "ring/ring_private.h"
#include "ring/vcpu_list.h"

enum {
	PAGES = 96,
	MAX_ENTRIES = 64,
	MAX_EXITS = 100,
	MAX_STEPS = 400,
	FINAL_TRIES = 8,
};

/* What a reset has gathered and not yet protected: one word of pages, as in the kernel. */
struct batch {
	uint32_t slot;
	uint64_t page, mask;
};

struct world {
	struct input in;
	struct fake_rings kernel;
	int (*kernel_ioctl)(struct fake_os *fake, int fd, unsigned long request, void *arg);
	struct dli_reset reset;
	struct dli_ring *rings[FAKE_RINGS];
	struct dl_vcpu list[FAKE_RINGS];
	struct dli_vcpu_list vcpus;
	bool in_guest[FAKE_RINGS], dead[FAKE_RINGS];
	bool emulated; /* a store is logged whether the page is protected or not */
	bool stopped, closed;

	uint32_t memory[PAGES], copy[PAGES];
	bool is_protected[PAGES], pending[PAGES];
	struct batch batch;

	/* What the kernel did wrong so far. */
	bool scribbled[FAKE_RINGS], filled, misbehaved, restarted;
	bool excused[PAGES];
	bool tainted; /* scribbled on inside a step: nothing can be said until the next repair */
	bool inside;  /* a step of the library */
	unsigned int repairs;
};

extern struct world world;

/* ring_side.c: the kernel's side. The shape of the rings and the kernel's habits. */
void side_init(struct world *w, uint8_t shape, uint8_t habits);

/*
 * Stores to so many pages. checked: the vCPU comes out as soon as its ring is full, not only at the
 * end.
 */
void side_stores(struct world *w, int vcpu, uint32_t page, uint32_t count, bool checked);

/* Any bytes in some cell, or in what KVM_RUN says. */
void side_scribble(struct world *w, int vcpu);

/* What happens between two steps of the library. */
void side_meanwhile(struct world *w);

/* Some of the next resets fail or end early. */
void side_misbehave(struct world *w);

/* A reader that is gone has left the ring so: some cells dirty, some released, some reset. */
void side_use_before(struct world *w, struct fake_ring *side);

#endif
