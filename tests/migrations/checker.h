/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_CHECKER_H
#define MIGRATIONS_CHECKER_H

/*
 * The question of every migration test: does the copy equal the memory?
 *
 * A checker holds a copy of each block of guest memory and keeps it up to date from the dirty log,
 * as the destination of a migration does. A pass harvests, copies the runs that the iterator
 * returns and acknowledges them. After the final pass, every page of the copy must equal the
 * memory.
 *
 * It does not depend on the kernel: the tests on the model use it (guest_checker.h), and so do
 * those on the real one (tests/kvm/rig.h). Functions marked [T] may be called by several threads.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

enum {
	CHECKER_BLOCKS = 24,
	CHECKER_MAX_RUNS = 64,
	CHECKER_MAX_READERS = 8,
};

/* A block of guest memory. It outlives the slots that map it. */
struct checker_block {
	uint8_t *memory;
	uint8_t *copy;
	size_t bytes;
	bool ignored; /* left out of the comparison: the test discards its changes */
	atomic_ulong pages_sent;
};

typedef void checker_copy(void *to, const void *from, size_t bytes);

struct checker {
	struct dl_log *log;
	size_t page_bytes;
	checker_copy *copy;
	struct checker_block blocks[CHECKER_BLOCKS];
	unsigned int block_count;
	uint32_t batch_runs; /* runs per dl_iter_read(), at most CHECKER_MAX_RUNS */
	atomic_ulong pages_sent;
	atomic_ulong bad_runs; /* runs that lie in no block, or are not page-aligned */
};

/* copy reads memory that other threads may be writing. NULL: memcpy(). */
void checker_init(struct checker *checker, struct dl_log *log, size_t page_bytes,
		  checker_copy *copy);
void checker_free(struct checker *checker);

/* Adds memory, with a copy that differs in every byte. */
struct checker_block *checker_add(struct checker *checker, void *memory, size_t bytes);

/* Makes every copy equal to its memory, as DL_START_CLEAN requires. */
void checker_equalize(struct checker *checker);

/* [T] Copies a run. Returns false, and counts a bad run, if no slot can have given it. */
bool checker_copy_run(struct checker *checker, const struct dl_run *run);

/* [T] Reads, copies and acknowledges runs to the end. Returns 0 or the error of the library. */
int checker_read(struct checker *checker, struct dl_iter *iter);

/* An iteration over all pending pages, by this many threads. Returns 0 or the first error. */
int checker_drain(struct checker *checker, unsigned int readers);

/* A whole pass: dl_harvest(), then checker_drain(). Returns 0 or the first error. */
int checker_pass(struct checker *checker, uint32_t flags, unsigned int readers);

/* The number of pages that differ. The memory must not change meanwhile. */
uint64_t checker_differing_pages(const struct checker *checker);

/* Fails the test if a page differs, and prints the first ones, or if there was a bad run. */
void checker_expect_equal(const struct checker *checker);

#endif
