/* SPDX-License-Identifier: MIT */
#ifndef RACE_ACTORS_H
#define RACE_ACTORS_H

/* The actors of test_actors.c, each the body of a thread. */

#include "random.h"
#include "senders.h"

#include <pthread.h>

enum {
	VCPUS = 3,
	LATE_VCPUS = 3,
	DEVICES = 2,
	VISITORS = 2,
	MOST_THREADS = 16,
	PAGES = 260,
	QUIET_PAGES =
		20, /* of PAGES, never written: only the migration's beginning makes them dirty */
	MOVING_PAGES = 130, /* slot 1 */
	GPA_PAGE = 16,
	MOVING_GPA_PAGE = 1024, /* or twice this */
};

struct actor {
	pthread_t thread;
	unsigned int number;
	struct random random;
};

/* Counts events, so that a run without them is noticed. */
struct actors_seen {
	atomic_ulong passes, ended_passes, full_exits, absent, slot_changes, ends, plugs, takes,
		deferred, visits;
};

/* Per writer, spread over so many passes: no writer may end before all threads run. */
extern unsigned long writes, passes;

extern struct guest guest;
extern struct dl_cursor *migration, *backup;
extern struct checker sent, backed_up;
extern struct guest_block *block, *moving_block;

/* Writers that have not finished. Always accessed relaxed. */
extern atomic_uint writers_left;

extern struct actors_seen seen;

void *run_vcpu(void *opaque);
void *run_late_vcpus(void *opaque);
void *run_device(void *opaque);
void *run_kernel_writer(void *opaque);
void *run_visitor(void *opaque);
void *run_backup(void *opaque);
void *run_layout(void *opaque);
void *run_ends(void *opaque);
void *run_passes(void *opaque);

/* Takes a slot for the backup and copies its pages. Returns the bytes. */
uint64_t take_slot(uint32_t slot, uint32_t flags);

#endif
