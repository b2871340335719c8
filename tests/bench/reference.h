/* SPDX-License-Identifier: MIT */
#ifndef BENCH_REFERENCE_H
#define BENCH_REFERENCE_H

/*
 * The library's reference: a reaper as established VMMs have it. It reads an entry at a time, with
 * a modulo for the cell and a division for the page, and sets one atomic bit each. Then it merges
 * the whole bitmap into the one that all users of dirty memory share, and that one into the
 * migration's own, which it searches for the next page to send.
 */

#include "kernel.h"

struct reference {
	struct kernel *kernel;
	uint64_t pages, page_bytes, guest_bytes; /* unknown at compile time */
	unsigned long *slot_bitmap, *shared_bitmap, *migration_bitmap;
	uint32_t fetched[KERNEL_VCPUS];
};

void reference_open(struct reference *reference, struct kernel *kernel);
void reference_close(struct reference *reference);

/* Reads and resets all rings, as such VMMs do under one lock. */
void reference_reap(struct reference *reference);

/* Reaps, and merges into the migration's bitmap. Returns the number of pages that are new there. */
uint64_t reference_sync(struct reference *reference);

/* Syncs, and finds every page to send. Returns their number. */
uint64_t reference_pass(struct reference *reference);

#endif
