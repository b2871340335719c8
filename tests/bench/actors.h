/* SPDX-License-Identifier: MIT */
#ifndef BENCH_ACTORS_H
#define BENCH_ACTORS_H

/*
 * Threads in virtual time, each on a processor of its own. They are coroutines on one thread: the
 * earliest in virtual time runs until its next lock, condition or system call. In between, its time
 * advances by what the code really took here; it stands still while the clock is off, for code that
 * is not measured. Locks behave as glibc's: the unlocker wakes one waiter, which tries again and
 * may find the lock taken by another.
 *
 * A store to memory shared without a lock can become visible one such stretch of code too early.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum {
	ACTORS = 80,
	ACTOR_PARTS = 8,
	ACTOR_WAKE_NS = 5000,  /* from being woken to running */
	ACTOR_WAKER_NS = 1000, /* the cost to the waker */
};

struct actor;

struct actor_queue {
	struct actor *first, *last;
};

struct actor_mutex {
	struct actor *owner;
	struct actor_queue waiters;
};

struct actor_condition {
	struct actor_queue waiters;
};

/* Breakdown of the calling actor's time since actor_parts_clear(). */
struct actor_parts {
	uint64_t code_ns, system_ns;
	uint32_t waits;
	struct {
		const char *name; /* of the lock, given by its user */
		uint64_t ns;
	} wait[ACTOR_PARTS];
};

/* before_resume is called with an actor's time before it resumes. */
void actors_begin(void (*before_resume)(uint64_t now_ns));
void actors_spawn(void (*body)(void *opaque), void *opaque);

/* Runs all actors to their end. */
void actors_run(void);

uint64_t actor_now_ns(void);
void actor_sleep_until(uint64_t ns);

/* Adds time spent in the kernel. */
void actor_spend(uint64_t ns);

/* Switches whether running code takes time. Initially off. Returns the previous state. */
bool actor_clock(bool on);

struct actor_parts *actor_parts(void);
void actor_parts_clear(void);

void actor_mutex_lock(struct actor_mutex *mutex, const char *name);
int actor_mutex_trylock(struct actor_mutex *mutex);
void actor_mutex_unlock(struct actor_mutex *mutex);
void actor_condition_wait(struct actor_condition *condition, struct actor_mutex *mutex,
			  const char *name);
void actor_condition_wake(struct actor_condition *condition, bool all);
int actor_clock_gettime(clockid_t clock, struct timespec *t);

#endif
