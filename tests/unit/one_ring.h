/* SPDX-License-Identifier: MIT */
#ifndef UNIT_ONE_RING_H
#define UNIT_ONE_RING_H

/*
 * A fixture for tests of one ring: the test plays the kernel's side, the library has the other.
 * dli_publish() is replaced and records the pages that it is given.
 */

#include "cmocka_all.h"
#include "ring/drain.h"
#include "fake_rings.h"
#include "ring/ring_private.h"

enum { ENTRIES = 256, SOFT_LIMIT = 192, MAX_PUBLISHED = 100000 };

extern struct fake_rings kernel;
extern struct fake_ring *kernel_ring; /* the kernel's side of ring */
extern struct dli_reset reset_lock;
extern struct dli_ring *ring;

/* The published pages, in order. */
extern struct published {
	uint64_t offsets[MAX_PUBLISHED];
	uint32_t slots[MAX_PUBLISHED];
	uint32_t n, calls;
	unsigned int resets_before;
	bool outside; /* report a page past its slot's end */
	void (*override)(const struct dli_dirty_word *words, uint32_t n);
} published;

void open_ring(void);

int setup(void **state);	  /* opens the ring */
int setup_unopened(void **state); /* leaves ring NULL; the test calls open_ring() */
int teardown(void **state);

/* The kernel pushes n entries of slot 5; the page is the number of the push. */
void push(uint32_t n);

int drain(void);
const struct dli_ring_stats *stats(void);

/* Pushes first to first + n - 1 were published in order, once; no reset took an unfilled cell. */
void expect_published(uint64_t first, uint32_t n);

#endif
