/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_SCHEDULER_H
#define SIMULATION_SCHEDULER_H

/*
 * Coroutines on one thread, and the one generator that says who runs. A switch may happen at every
 * point; points are what the seam (seam.h) puts before the accesses of the code under test, what the
 * model kernel's hook reports, and what the actors add.
 *
 * Memory is sequentially consistent here: one thread. Weak orderings are not this room's subject.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "switch.h"

/*
 * A place in the source where a switch may happen. All are in one section, so that a run can look at
 * them before any was reached: which of them are hot must depend on the seed alone.
 */
struct sim_site {
	const char *file, *function, *what;
	uint64_t name_hash; /* of file, function and what; 0: not yet known */
	uint64_t switches;
	int line;
	bool hot;
} __attribute__((aligned(64)));

#define SIM_SITE(text)                                                                        \
	__extension__({                                                                       \
		static struct sim_site sim_this_site                                          \
			__attribute__((section("sim_sites"), used)) = { .file = __FILE__,     \
									.function = __func__, \
									.what = (text),       \
									.line = __LINE__ };   \
		&sim_this_site;                                                               \
	})

enum {
	SIM_TASKS = 28,
	SIM_DECISIONS = 1 << 16,
};

typedef bool sim_condition(const void *opaque);

struct sim_task {
	char name[20];
	uint32_t id;
	enum { TASK_READY, TASK_WAITING, TASK_DONE } state;
	sim_condition *condition; /* waiting for this to become true */
	const void *condition_of;
	const char *waits_for;
	uint64_t priority;	/* the highest runs, under POLICY_PRIORITY */
	uint64_t stalled_until; /* point */
	uint64_t points, resumed_at;
	uint32_t cursor; /* of the script */
	uint32_t rcu_depth, rcu_sections;
	bool signals_blocked;
	const void *taking, *pushing; /* ring cells, in the model (cells.c) */
	struct sim_context context;
	void *fake_stack; /* the address sanitizer's */
	void (*body)(void *opaque);
	void *opaque;
};

/* How the generator chooses. */
struct sim_policy {
	uint64_t seed;
	enum {
		POLICY_WALK,	 /* anybody, after a random number of points */
		POLICY_PRIORITY, /* always the first in rank; ranks change at a few random points */
	} kind;
	uint32_t gap_points;   /* WALK: between switches, on average; 0: only when blocked */
	uint32_t changes;      /* PRIORITY: how often ranks change ... */
	uint32_t span_points;  /* ... among so many points */
	uint32_t hot_share;    /* one site in so many is hot: who comes there is held up. 0: none */
	uint32_t stall_points; /* for so long at most */
};

/* One switch, as it was made. */
struct sim_decision {
	uint8_t from, to;
	bool forced; /* from could not go on */
	bool dropped;
	uint32_t points; /* of from */
};

struct sim_script {
	const struct sim_decision *decisions;
	uint32_t n;
};

enum sim_failure_kind {
	SIM_OK,
	SIM_DIFFERS,
	SIM_DEADLOCK,
	SIM_ENDLESS,
	SIM_STUCK_VCPU,
	SIM_RESULT,
	SIM_MISUSE,
	SIM_MEMORY,
	SIM_CRASH,
	SIM_PROMISE,
};

struct sim_state {
	uint64_t now;  /* points since the run began */
	uint64_t next; /* at which the generator is asked */
	struct sim_task tasks[SIM_TASKS];
	uint32_t task_count;
	struct sim_task *current;
	struct sim_policy policy;
	const struct sim_script *script; /* in place of the policy */
	uint32_t script_start;
	uint64_t limit_points;
	uint64_t random;
	uint64_t low_priority;
	struct sim_decision decisions[SIM_DECISIONS];
	uint32_t decision_count;
	uint64_t switches;
	FILE *trace;
	enum sim_failure_kind failure;
	char failure_text[600];
};

extern struct sim_state sim;

/* Before a run. */
void sim_begin(const struct sim_policy *policy, const struct sim_script *script, FILE *trace);

struct sim_task *sim_spawn(const char *name, uint32_t number, void (*body)(void *opaque),
			   void *opaque);

/* Runs all tasks to their end. False: the run failed, and its tasks are where they were. */
bool sim_tasks_run(void);

/* In a task: the run has failed. */
_Noreturn void sim_fail(enum sim_failure_kind kind, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* In a task: this one cannot do anything useful before another has run. */
void sim_yield(struct sim_site *site);
void sim_wait(sim_condition *condition, const void *opaque, const char *what,
	      struct sim_site *site);

/* Somebody may be able to go on now. */
void sim_woken(struct sim_site *site);

void sim_reschedule(struct sim_site *site);

static inline void sim_point(struct sim_site *site)
{
	if (++sim.now >= sim.next || site->hot)
		sim_reschedule(site);
}

void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Random numbers that do not disturb the generator's: each user has a state of its own. */
static inline uint64_t sim_random(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static inline uint32_t sim_below(uint64_t *state, uint32_t below)
{
	return (uint32_t)((sim_random(state) >> 32) * below >> 32);
}

#endif
