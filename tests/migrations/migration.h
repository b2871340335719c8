/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_MIGRATION_H
#define MIGRATIONS_MIGRATION_H

/*
 * A whole migration of a guest that is alive: vCPUs that write on their own threads, and on demand
 * devices, an in-kernel writer, and a thread that does nothing but harvest.
 */

#include <pthread.h>

#include "guest_checker.h"
#include "random.h"

enum {
	MIGRATION_RANGES = 8,
	MIGRATION_THREADS = GUEST_VCPUS + 3,
};

/* Pages of the guest that are written. */
struct migration_range {
	uint32_t as_id;
	uint64_t gpa_page, pages;
};

struct migration;

struct migration_writer {
	struct migration *migration;
	struct guest_vcpu *vcpu; /* NULL: not one */
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

	/* What else is going on. Set before the start. */
	unsigned int readers;
	bool has_devices;	/* one writes to the first block, and marks */
	bool has_kernel_writer; /* writes to all, without a vCPU */
	bool has_harvester;	/* a thread that harvests all the time */

	struct migration_writer writers[MIGRATION_THREADS];
	unsigned int writer_count;
	atomic_int harvester_error;

	/* Each writer may make this many writes: a fast one must not starve the rest. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned long granted;
};

/* Guest, log, slots of 260, 130 and 60 pages with a hole between them, vCPUs. Not started. */
void migration_open(struct migration *migration, const struct guest_config *config,
		    unsigned int vcpus);
void migration_close(struct migration *migration);

/* Ends what a failed test left running. */
int migration_teardown(void **state);

#define migration_test(function) cmocka_unit_test_teardown(function, migration_teardown)

/* Adds the blocks of memory that the guest has got since to the checker. */
void migration_add_blocks(struct migration *migration);

/* More memory to write to. */
void migration_add_range(struct migration *migration, uint32_t as_id, uint64_t gpa_page,
			 uint64_t pages);

/* All writers begin, or some that came later; and end, after which nobody is in the guest. */
void migration_run(struct migration *migration);
void migration_run_vcpu(struct migration *migration, struct guest_vcpu *vcpu);
void migration_stop_vcpu(struct migration *migration, struct guest_vcpu *vcpu);
void migration_stop(struct migration *migration);

/*
 * Has each writer write twice as often again, and waits for the first half of it; the second is for
 * what the caller does next.
 */
void migration_wait(struct migration *migration, unsigned long writes);

/* dl_log_start(), with copies that differ or, for a clean start, are equal. No writer may run. */
void migration_start(struct migration *migration, uint32_t flags);

/* A pass that must succeed. */
void migration_pass(struct migration *migration);

/* Passes with some writes between them. */
void migration_passes(struct migration *migration, unsigned int passes, unsigned long writes);

/* A pass that is repeated until it succeeds. It may fail up to most times; returns how often. */
unsigned int migration_pass_again(struct migration *migration, uint32_t flags, unsigned int most);

/* Stops everything, makes the final pass and compares. */
void migration_finish(struct migration *migration);

struct dl_stats migration_stats(const struct migration *migration);

#endif
