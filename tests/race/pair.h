/* SPDX-License-Identifier: MIT */
#ifndef RACE_PAIR_H
#define RACE_PAIR_H

/*
 * A memory order as ThreadSanitizer sees it. One thread writes a plain variable and publishes;
 * another polls until it sees what was published, and reads the variable. Nothing else orders the
 * two, so a missing acquire or release in the library is a race, which is reported on every machine
 * and with any timing.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "cmocka_all.h"

struct pair {
	void (*publish)(void); /* called by the calling thread */
	bool (*seen)(void);    /* polled by the other */
	int payload;
	atomic_bool looking; /* seen() has returned false once */
};

static inline void pair_look(struct pair *pair)
{
	/* Relaxed: it must not order the two threads. */
	atomic_store_explicit(&pair->looking, true, memory_order_relaxed);
	sched_yield();
}

static inline void *pair_observe(void *opaque)
{
	struct pair *pair = opaque;

	while (!pair->seen())
		pair_look(pair);
	return pair->payload == 1 ? NULL : pair;
}

/* observe: replaces the loop around seen(), unless NULL. */
static inline void pair_run(struct pair *pair, void *(*observe)(void *pair))
{
	pthread_t thread;
	void *failed;

	atomic_store(&pair->looking, false);
	pair->payload = 0;
	assert_int_equal(pthread_create(&thread, NULL, observe ? observe : pair_observe, pair), 0);
	while (!atomic_load_explicit(&pair->looking, memory_order_relaxed))
		sched_yield();
	pair->payload = 1;
	pair->publish();
	pthread_join(thread, &failed);
	assert_null(failed);
}

#define PAIR(publish_it, see_it) (&(struct pair){ .publish = (publish_it), .seen = (see_it) })

#endif
