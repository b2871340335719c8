/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_TIMELINE_H
#define PRECOPY_TIMELINE_H

#include "../status/activity.h"

#include <dirtylog/dirtylog.h>

#include <pthread.h>
#include <stdbool.h>

/*
 * Counters over the time of a migration, taken by a thread of its own: at first every few
 * milliseconds. When there is no more room, it forgets every other one and goes on half as fast.
 */

enum { TIMELINE_SAMPLES = 1024 };

struct sample {
	uint64_t ns; /* since the start */
	uint64_t new_pages, sent_pages;
};

struct timeline {
	const struct dl_log *log;
	const struct activity *activity;
	uint64_t start_ns, interval_ns;
	uint32_t n;
	struct sample samples[TIMELINE_SAMPLES];
	pthread_t thread;
	bool has_thread;
	int stop_fd;
};

/* Returns 0 or a negative errno value. */
int timeline_start(struct timeline *timeline, const struct dl_log *log,
		   const struct activity *activity);

/* Takes the last sample. Does nothing if it was not started. */
void timeline_stop(struct timeline *timeline);

#endif
