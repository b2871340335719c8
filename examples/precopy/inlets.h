/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_INLETS_H
#define PRECOPY_INLETS_H

#include "receive.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * The destination's further connections, with --channels: each brings its part of every pass to a
 * thread of its own. What goes over the first connection alone is in destination.c.
 */
struct inlet {
	struct wire wire;
	struct receiver receiver;
	pthread_t thread;
	struct wire *control; /* the first connection: reading ends there if this one fails */
	int result;
	atomic_bool failed; /* by itself */
};

struct inlets {
	struct inlet inlet[WIRE_MAX_CHANNELS - 1];
	unsigned int n; /* running */
};

/*
 * Receives on a connected socket, which it closes in the end. The first frame must say that the
 * connection belongs to the migration of the token. Returns 0, or a negative errno value with the
 * reason in the control wire's why.
 */
int inlets_add(struct inlets *inlets, int fd, uint64_t token, struct wire *control,
	       struct machine *machine);

/*
 * Waits until the source has ended all of them, or ends them itself if the migration has failed.
 * Adds up what they have received. Returns the first failure, with its reason in the control wire's
 * why.
 */
int inlets_end(struct inlets *inlets, bool failed, struct receiver *sum);

#endif
