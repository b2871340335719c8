/* SPDX-License-Identifier: MIT */
#ifndef UNIT_ONE_RING_H
#define UNIT_ONE_RING_H

/*
 * One ring with both of its ends: the kernel's, written by hand, and the library's. What the
 * library publishes comes here, in place of pages/publish.c. For programs of which every test has
 * such a ring to itself.
 */

#include "cmocka_all.h"
#include "ring/drain.h"
#include "fake_rings.h"
#include "ring/ring_private.h"

enum { ENTRIES = 256, SOFT_LIMIT = 192, MAX_SUNK = 100000 };

extern struct fake_rings kernel;
extern struct fake_ring *side; /* the kernel's, of ring */
extern struct dli_reset reset_lock;
extern struct dli_ring *ring;

/* What was published. */
extern struct sunk {
	uint64_t offsets[MAX_SUNK];
	uint32_t slots[MAX_SUNK];
	uint32_t n, calls;
	unsigned int resets_before;
	bool outside; /* say that a page lies past its slot's end */
	void (*instead)(const struct dli_dirty_word *words, uint32_t n);
} sunk;

void open_ring(void);

int setup(void **state);	  /* the ring is open */
int setup_unopened(void **state); /* ring is NULL, for open_ring() */
int teardown(void **state);

/* Entries of slot 5, of page after page. */
void push(uint32_t n);

int drain(void);
const struct dli_ring_stats *stats(void);

/* In order, each once, from the push with that number on; and the kernel took back no more. */
void expect_sunk(uint64_t first, uint32_t n);

#endif
