/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_MIGRATION_H
#define MIGRATIONS_MIGRATION_H

/*
 * A whole migration of a running guest: each vCPU writes on a thread of its own; device emulation,
 * an in-kernel writer and a harvesting thread are optional. Every other migration of a program has
 * two channels that deliver late.
 */

#include <pthread.h>

#include "guest_checker.h"
#include "random.h"

enum {
	MIGRATION_RANGES = 8,
	MIGRATION_THREADS = GUEST_VCPUS + 3,
};

/* Pages that the writers choose from. */
struct migration_range {
	uint32_t as_id;
	uint64_t gpa_page, pages;
};

struct migration;

struct migration_writer {
	struct migration *migration;
	struct guest_vcpu *vcpu; /* NULL if the writer is not a vCPU */
	pthread_t thread;
	struct random random;
	atomic_bool running, stop;
	atomic_ulong writes;
};

struct migration {
	struct guest guest;
	struct checker checker;
	struct migration_range ranges[MIGRATION_RANGES];
	unsigned int range_count;

	/* Set before migration_run(). */
	unsigned int readers;
	bool has_devices;	/* a device writes to the first block and marks */
	bool has_kernel_writer; /* the kernel writes to all ranges, without a vCPU */
	bool has_harvester;	/* another consumer harvests in a loop, and reaps */

	struct migration_writer writers[MIGRATION_THREADS];
	unsigned int writer_count;
	atomic_int harvester_error;

	/* Each writer stops at this many writes, so that a fast one does not starve the rest. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned long granted;
};

/*
 * Opens guest and log, with slots of 260, 130 and 60 pages, a hole before the last one, and vCPUs.
 * The checker has not joined yet.
 */
void migration_open(struct migration *migration, const struct guest_config *config,
		    unsigned int vcpus);
void migration_close(struct migration *migration);

/* Closes the migration that a failed test has left open. */
int migration_teardown(void **state);

#define migration_test(function) cmocka_unit_test_teardown(function, migration_teardown)

/* Adds the blocks that the guest has allocated since to the checker. */
void migration_add_blocks(struct migration *migration);

/* checker_slot_set(), which must succeed; for a slot over a new block, as guest_add_slot(). */
void migration_set(struct migration *migration, struct dl_slot slot);
struct guest_block *migration_add_slot(struct migration *migration, uint32_t number,
				       uint64_t gpa_page, uint64_t pages);

/* Lets the writers write to these pages too. */
void migration_add_range(struct migration *migration, uint32_t as_id, uint64_t gpa_page,
			 uint64_t pages);

/* Start and stop all writers, or those of one vCPU. A stopped vCPU has left the guest. */
void migration_run(struct migration *migration);
void migration_run_vcpu(struct migration *migration, struct guest_vcpu *vcpu);
void migration_stop_vcpu(struct migration *migration, struct guest_vcpu *vcpu);
void migration_stop(struct migration *migration);

/*
 * Grants each writer twice that many more writes and waits for the first half of them. The second
 * half overlaps with the caller's next step.
 */
void migration_wait(struct migration *migration, unsigned long writes);

/* The checker joins. Makes the copies equal for DL_CURSOR_CLEAN, so no writer may run then. */
void migration_start(struct migration *migration, uint32_t flags);

/* A pass that must succeed. */
void migration_pass(struct migration *migration);

/* Passes with some writes between them. */
void migration_passes(struct migration *migration, unsigned int passes, unsigned long writes);

/* Repeats a pass until it succeeds; it may fail "most" times. Returns the failures. */
unsigned int migration_pass_again(struct migration *migration, uint32_t flags, unsigned int most);

/* Stops everything, makes the last pass and compares. */
void migration_finish(struct migration *migration);

struct dl_stats migration_stats(const struct migration *migration);

#endif
