/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_BESIDE_H
#define SNAPSHOT_BESIDE_H

#include "host.h"

#include <stdatomic.h>

/*
 * Other consumers at the same time: a migration, which copies all memory and then what changes, and
 * a display, which copies the device's slot whenever that is there. Each has a cursor, a thread and
 * a replica that must equal the memory in the end.
 */
struct consumer {
	struct host *host;
	bool display;
	struct dl_cursor *cursor;
	uint8_t *replica; /* of all memory; a display uses a part */
	pthread_t thread;
	bool has_thread;
	atomic_bool stopping;
	uint64_t passes, bytes;
	int failure;
};

struct beside {
	struct consumer consumers[2];
};

/* Starts both. Returns 0, or a negative errno value with the reason in why. */
int beside_start(struct beside *beside, struct host *host, char *why, size_t why_bytes);

/*
 * With the guest and its devices stopped: takes the last passes and compares. Returns the number of
 * pages that differ, or a negative errno value with the reason in why.
 */
int64_t beside_end(struct beside *beside, char *why, size_t why_bytes);

/* Frees what beside_start() has made. */
void beside_free(struct beside *beside);

#endif
