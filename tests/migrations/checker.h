/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_CHECKER_H
#define MIGRATIONS_CHECKER_H

/*
 * The question of every test here: does the copy equal the memory?
 *
 * A checker keeps a copy of each block of a guest's memory. What the iterator hands out is copied and
 * acknowledged; at the end every page is compared. Functions marked [T] may be called by threads.
 */

#include "guest.h"

struct checker {
	struct guest *guest;
	uint8_t *copies[GUEST_BLOCKS];
	unsigned int copy_count;
	uint32_t batch_runs; /* runs a dl_iter_read(), at most 64 */
	atomic_ulong pages_sent;
	atomic_ulong bad_runs; /* that no slot of this guest can have given */
};

/* Of the blocks of this moment; every byte of the copies differs from the memory. */
void checker_init(struct checker *checker, struct guest *guest);

/* Blocks that came since. */
void checker_add_blocks(struct checker *checker);
void checker_free(struct checker *checker);

/* Makes every copy equal: what a log that starts clean takes for granted. */
void checker_equalize(struct checker *checker);

/* [T] Copies what a run names. */
void checker_copy_run(struct checker *checker, const struct dl_run *run);

/* [T] One reader: reads, copies and acknowledges until nothing is left. 0 or the library's error. */
int checker_read(struct checker *checker, struct dl_iter *iter);

/* A harvest and what is pending after it, by so many readers. 0 or the first error. */
int checker_pass(struct checker *checker, uint32_t flags, unsigned int readers);

/* The same without the harvest. */
int checker_drain(struct checker *checker, unsigned int readers);

/* Pages whose copy differs, blocks of [first, end) only. Nobody writes now. */
uint64_t checker_differing_of(const struct checker *checker, unsigned int first, unsigned int end);
uint64_t checker_differing_pages(const struct checker *checker);

/* The copy equals the memory, or the test fails with the first page that differs. */
void checker_expect_equal(const struct checker *checker);

#endif
