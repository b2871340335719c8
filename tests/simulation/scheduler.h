/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_SCHEDULER_H
#define SIMULATION_SCHEDULER_H

/*
 * Coroutines on one thread, and the random generator that selects which one runs. A switch may
 * happen at every point: the seam (seam.h) puts one before each access of the code under test, the
 * model kernel's hook reports more, and the actors add some.
 *
 * With one thread, memory is sequentially consistent. tests/race covers weaker memory orders.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "switch.h"

/*
 * A place in the source where a switch may happen. All sites are in one section, so that a run can
 * choose the hot ones before it reaches any: the choice must only depend on the seed.
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
	sim_condition *condition; /* what the task waits for */
	const void *condition_of;
	const char *waits_for;
	uint64_t priority;	/* under POLICY_PRIORITY, the highest runs */
	uint64_t stalled_until; /* in points */
	uint64_t points, resumed_at;
	uint32_t cursor; /* in the script */
	uint32_t rcu_depth, rcu_sections;
	bool signals_blocked;
	const void *taking, *pushing; /* ring cells, in the model (cells.c) */
	struct sim_context context;
	void *fake_stack; /* of the address sanitizer */
	void (*body)(void *opaque);
	void *opaque;
};

/* How the generator selects tasks. */
struct sim_policy {
	uint64_t seed;
	enum {
		POLICY_WALK,	 /* a random task, after a random number of points */
		POLICY_PRIORITY, /* the highest priority; those change at a few points */
	} kind;
	uint32_t gap_points;   /* WALK: average between switches; 0: only when blocked */
	uint32_t changes;      /* PRIORITY: number of changes ... */
	uint32_t span_points;  /* ... within so many points */
	uint32_t hot_share;    /* one site in so many is hot and stalls tasks; 0: none */
	uint32_t stall_points; /* longest stall at a hot site */
	uint32_t point_ns;     /* how long a point takes, on the clock of the code under test */
};

/* A recorded switch. */
struct sim_decision {
	uint8_t from, to;
	bool forced; /* from could not continue */
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
	uint64_t next; /* point at which the generator decides next */
	struct sim_task tasks[SIM_TASKS];
	uint32_t task_count;
	struct sim_task *current;
	struct sim_policy policy;
	const struct sim_script *script; /* replaces the policy */
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

/* Resets the scheduler before a run. */
void sim_begin(const struct sim_policy *policy, const struct sim_script *script, FILE *trace);

struct sim_task *sim_spawn(const char *name, uint32_t number, void (*body)(void *opaque),
			   void *opaque);

/* Runs all tasks to their end. Returns false if the run failed; its tasks are abandoned. */
bool sim_tasks_run(void);

/* Called by a task: fails the run. */
_Noreturn void sim_fail(enum sim_failure_kind kind, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Called by a task that can do nothing useful before another task runs. */
void sim_yield(struct sim_site *site);
void sim_wait(sim_condition *condition, const void *opaque, const char *what,
	      struct sim_site *site);

/* A waiting task may be able to continue now. */
void sim_woken(struct sim_site *site);

void sim_reschedule(struct sim_site *site);

static inline void sim_point(struct sim_site *site)
{
	if (++sim.now >= sim.next || site->hot)
		sim_reschedule(site);
}

void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Random numbers with a state per user, independent of the generator. */
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
