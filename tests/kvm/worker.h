/* SPDX-License-Identifier: MIT */
#ifndef KVM_WORKER_H
#define KVM_WORKER_H

/* A thread that does one thing again and again until it is told to end. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct worker {
	/* Returns 0 or a negative errno value, which is kept. */
	int (*step)(struct worker *worker);
	void *opaque;
	unsigned int index;
	pthread_t thread;
	bool running;
	atomic_bool over;
	atomic_int failure;
	atomic_uint steps;
};

/* Starts it; step, opaque and index are the caller's. Returns 0 or a negative errno value. */
int worker_start(struct worker *worker);

/* Ends it, if it runs. Returns the last failure of a step. */
int worker_end(struct worker *worker);

/* Waits until so many more steps are done. */
void worker_wait(struct worker *worker, unsigned int steps);

#endif
