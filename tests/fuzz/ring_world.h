/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_RING_WORLD_H
#define FUZZ_RING_WORLD_H

/* fuzz_ring.c's rings, their kernel side, and the migration over them. */

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

/* Pages that a reset has consumed and not protected yet: one word, as in the kernel. */
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
	bool emulated; /* stores are logged even if the page is not protected */
	bool stopped, closed;

	uint32_t memory[PAGES], copy[PAGES];
	bool is_protected[PAGES], pending[PAGES];
	struct batch batch;

	/* The kernel's misbehaviour so far. */
	bool scribbled[FAKE_RINGS], filled, misbehaved, restarted;
	bool excused[PAGES];
	bool tainted; /* scribbled on during a step: loss is possible until the next repair */
	bool inside;  /* in a call of the library */
	unsigned int repairs;
};

extern struct world world;

/* ring_kernel.c: the kernel's side. shape: of the rings; habits: of the kernel. */
void kernel_init(struct world *w, uint8_t shape, uint8_t habits);

/* Stores to count pages. exit_at_full: exits once the ring is full, not only at the end. */
void kernel_stores(struct world *w, int vcpu, uint32_t page, uint32_t count, bool exit_at_full);

/* Writes any bytes into some cell, or into the exit reason. */
void kernel_scribble(struct world *w, int vcpu);

/* Acts between two steps of the library, as the input says. */
void kernel_interleave(struct world *w);

/* Lets some of the next resets fail or end early. */
void kernel_misbehave(struct world *w);

/* Leaves the ring as a former reader would: some cells dirty, some released. */
void kernel_use_ring(struct world *w, struct fake_ring *ring);

#endif
