/* SPDX-License-Identifier: MIT */
#ifndef KVM_WORKER_H
#define KVM_WORKER_H

/* A thread that repeats a step until worker_end(). */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct worker {
	/* Returns 0 or -errno. The last error is kept in failure. */
	int (*step)(struct worker *worker);
	void *opaque;
	unsigned int index;
	pthread_t thread;
	bool running;
	atomic_bool stop;
	atomic_int failure;
	atomic_uint steps;
};

/* Starts the thread; the caller has set step, opaque and index. Returns 0 or -errno. */
int worker_start(struct worker *worker);

/* Ends the thread, if it runs. Returns the last error of a step, or 0. */
int worker_end(struct worker *worker);

/* Waits until the thread has made this many more steps. */
void worker_wait(struct worker *worker, unsigned int steps);

#endif
