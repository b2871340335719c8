/* SPDX-License-Identifier: MIT */
#ifndef GUEST_REAPER_H
#define GUEST_REAPER_H

#include "machine.h"

/*
 * A thread that empties the rings before they fill, however long the consumer waits for the wire or
 * the disk. A VMM with an event loop adds the log's descriptor to it instead, unless the loop runs
 * under a lock that vCPUs need.
 */
struct reaper {
	struct machine *machine;
	struct dl_log *log;
	int log_fd;  /* -1: the model kernel's timers cannot be polled; dl_log_reap() says when */
	int stop_fd; /* an eventfd */
	pthread_t thread;
	bool has_thread;
	uint64_t reaps; /* read it when the reaper is stopped */
	atomic_bool rests;
};

/* These return 0 or a negative errno value. Stopping a reaper that does not run does nothing. */
int reaper_start(struct reaper *reaper, struct machine *machine, struct dl_log *log);
void reaper_stop(struct reaper *reaper);

/* Kicks vCPUs that are to pause: they leave the guest and ask for how long. From any thread. */
void reaper_kick(struct reaper *reaper);

/* While it rests, rings fill up. */
static inline void reaper_rest(struct reaper *reaper, bool rests)
{
	reaper->rests = rests;
}

#endif
