/* SPDX-License-Identifier: MIT */
#ifndef BENCH_REFERENCE_H
#define BENCH_REFERENCE_H

/*
 * What the library is held against: a reaper as established VMMs have it. An entry at a time, with a
 * modulo for the cell and a division for the page, one atomic bit each; then the whole bitmap is
 * walked into the one that all users of dirty memory share, that one into the migration's own, and
 * that one searched for the next page to send.
 */

#include "kernel.h"

struct reference {
	struct kernel *kernel;
	uint64_t pages, page_bytes, guest_bytes; /* not known when this is compiled */
	unsigned long *slot_bitmap, *shared_bitmap, *migration_bitmap;
	uint32_t fetched[KERNEL_VCPUS];
};

void reference_open(struct reference *reference, struct kernel *kernel);
void reference_close(struct reference *reference);

/* Reads all rings and has them reset, as under the one lock that such VMMs do it under. */
void reference_reap(struct reference *reference);

/* The same, merges, and finds every page to send. Returns how many there were. */
uint64_t reference_pass(struct reference *reference);

#endif
