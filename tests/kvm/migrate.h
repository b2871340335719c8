/* SPDX-License-Identifier: MIT */
#ifndef KVM_MIGRATE_H
#define KVM_MIGRATE_H

/*
 * The question of every test here: after this pass, does the copy equal the memory?
 *
 * A migration keeps a copy of each piece of guest memory. A pass harvests, copies what the iterator
 * hands out, and acknowledges it; after the final pass every page of copy and memory is compared.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

enum {
	MIGRATION_BLOCKS = 24,
	MIGRATION_MAX_BATCH_RUNS = 64,
};

/* A piece of guest memory: slots come and go over it, it stays. */
struct migration_block {
	uint8_t *memory;
	uint8_t *copy;
	size_t bytes;
	bool ignored; /* its owner wanted its changes discarded */
	uint64_t pages_sent;
};

struct migration {
	struct dl_log *log;
	size_t page_bytes;
	struct migration_block blocks[MIGRATION_BLOCKS];
	unsigned int block_count;
	unsigned int batch_runs; /* runs a dl_iter_read(): 1 to MIGRATION_MAX_BATCH_RUNS */
	unsigned int passes;
	uint64_t pages_sent;
	uint64_t bad_runs; /* runs that no slot of this VM could have given */
};

void migration_init(struct migration *migration, struct dl_log *log, size_t page_bytes);
void migration_free(struct migration *migration);

/* Adds memory whose copy differs from it in every page. Returns its block, NULL without memory. */
struct migration_block *migration_add(struct migration *migration, void *memory, size_t bytes);

/* Makes every copy equal: what a log that starts clean takes for granted. */
void migration_equalize(struct migration *migration);

/* Copies what a run names; false (and counted) where it is not a run of this VM. */
bool migration_copy_run(struct migration *migration, const struct dl_run *run);

/* One pass: dl_harvest(), then all that is pending. 0 or the library's error. */
int migration_pass(struct migration *migration, uint32_t flags, uint64_t *pending_bytes);

/* The second half of a pass: what is pending, without a harvest. */
int migration_drain(struct migration *migration);

/* Compares; prints the first few pages that differ when told to. */
uint64_t migration_differing_pages(const struct migration *migration, bool print);

#endif
