/* SPDX-License-Identifier: MIT */
#include "worker.h"

#include <sched.h>
#include <stddef.h>

static void *worker_thread(void *opaque)
{
	struct worker *worker = opaque;

	while (!atomic_load(&worker->stop)) {
		int r = worker->step(worker);

		if (r < 0)
			atomic_store(&worker->failure, r);
		atomic_fetch_add(&worker->steps, 1);
		sched_yield();
	}
	return NULL;
}

int worker_start(struct worker *worker)
{
	int r;

	atomic_store(&worker->stop, false);
	atomic_store(&worker->failure, 0);
	atomic_store(&worker->steps, 0);
	r = pthread_create(&worker->thread, NULL, worker_thread, worker);
	worker->running = !r;
	return -r;
}

int worker_end(struct worker *worker)
{
	if (worker->running) {
		atomic_store(&worker->stop, true);
		pthread_join(worker->thread, NULL);
		worker->running = false;
	}
	return atomic_load(&worker->failure);
}

void worker_wait(struct worker *worker, unsigned int steps)
{
	unsigned int begin = atomic_load(&worker->steps);

	while (atomic_load(&worker->steps) - begin < steps)
		sched_yield();
}
