/* SPDX-License-Identifier: MIT */
#include "actors.h"

#include "../simulation/switch.h"
#include "bench.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { STACK_BYTES = 256 << 10 };

struct actor {
	struct sim_context context;
	void (*body)(void *opaque);
	void *opaque;
	void *stack;
	enum { READY, WAITING, ENDED } state;
	bool clock_is_on;
	uint64_t now_ns;
	uint64_t resumed_ns, resumed_cpu_ns; /* real time */
	struct actor *next;		     /* in a queue */
	struct actor_parts parts;
};

static struct {
	struct actor actors[ACTORS];
	uint32_t n;
	struct actor *current;
	struct sim_context scheduler;
	void (*before_resume)(uint64_t now_ns);
} world;

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Measures CPU time too, to exclude the time in which this thread was not running. */
static void start_clock(struct actor *actor)
{
	if (!actor->clock_is_on)
		return;
	actor->resumed_cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID);
	actor->resumed_ns = read_clock(CLOCK_MONOTONIC);
}

static void stop_clock(struct actor *actor)
{
	uint64_t real_ns, cpu_ns;

	if (!actor->clock_is_on)
		return;
	real_ns = read_clock(CLOCK_MONOTONIC) - actor->resumed_ns;
	cpu_ns = read_clock(CLOCK_THREAD_CPUTIME_ID) - actor->resumed_cpu_ns;
	if (cpu_ns < real_ns)
		real_ns = cpu_ns;
	actor->now_ns += real_ns;
	actor->parts.code_ns += real_ns;
}

static struct actor *earliest(void)
{
	struct actor *least = NULL;

	for (uint32_t i = 0; i < world.n; i++) {
		struct actor *actor = &world.actors[i];

		if (actor->state == READY && (!least || actor->now_ns < least->now_ns))
			least = actor;
	}
	return least;
}

/* Lets actors with an earlier time run first. Called with the clock off. */
static void give_way(struct actor *actor)
{
	if (actor->state != READY || earliest()->now_ns < actor->now_ns)
		sim_context_switch(&actor->context, &world.scheduler);
	else
		world.before_resume(actor->now_ns);
}

static void begin_actor(void)
{
	struct actor *actor = world.current;

	actor->body(actor->opaque);
	actor->state = ENDED;
	sim_context_switch(&actor->context, &world.scheduler);
}

void actors_begin(void (*before_resume)(uint64_t now_ns))
{
	world.n = 0;
	world.before_resume = before_resume;
}

void actors_spawn(void (*body)(void *opaque), void *opaque)
{
	struct actor *actor = &world.actors[world.n++];
	void *stack = actor->stack;

	if (world.n > ACTORS)
		bench_die("too many actors", ENOSPC);
	if (!stack)
		stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);
	if (stack == MAP_FAILED)
		bench_die("mmap of a stack", errno);
	memset(actor, 0, sizeof(*actor));
	actor->stack = stack;
	actor->body = body;
	actor->opaque = opaque;
	sim_context_make(&actor->context, stack, STACK_BYTES, begin_actor);
}

void actors_run(void)
{
	while ((world.current = earliest())) {
		world.before_resume(world.current->now_ns);
		sim_context_switch(&world.scheduler, &world.current->context);
	}
	for (uint32_t i = 0; i < world.n; i++)
		if (world.actors[i].state == WAITING)
			bench_die("all actors wait", EDEADLK);
}

uint64_t actor_now_ns(void)
{
	struct actor *actor = world.current;
	uint64_t now_ns;

	if (!actor)
		return 0;
	now_ns = actor->now_ns;
	if (actor->clock_is_on)
		now_ns += read_clock(CLOCK_MONOTONIC) - actor->resumed_ns;
	return now_ns;
}

int actor_clock_gettime(clockid_t clock, struct timespec *t)
{
	uint64_t now_ns = actor_now_ns();

	(void)clock;
	t->tv_sec = (time_t)(now_ns / 1000000000u);
	t->tv_nsec = (long)(now_ns % 1000000000u);
	return 0;
}

void actor_sleep_until(uint64_t ns)
{
	struct actor *actor = world.current;

	if (ns > actor->now_ns)
		actor->now_ns = ns;
	give_way(actor);
}

void actor_spend(uint64_t ns)
{
	struct actor *actor = world.current;

	if (!actor)
		return;
	stop_clock(actor);
	actor->parts.system_ns += ns;
	actor->now_ns += ns;
	give_way(actor);
	start_clock(actor);
}

bool actor_clock(bool on)
{
	struct actor *actor = world.current;
	bool before;

	if (!actor) /* setting up */
		return false;
	before = actor->clock_is_on;
	stop_clock(actor);
	actor->clock_is_on = on;
	start_clock(actor);
	return before;
}

struct actor_parts *actor_parts(void)
{
	return &world.current->parts;
}

void actor_parts_clear(void)
{
	memset(&world.current->parts, 0, sizeof(world.current->parts));
}

static void note_wait(struct actor *actor, const char *name, uint64_t since_ns)
{
	struct actor_parts *parts = &actor->parts;
	uint32_t i = 0;

	while (i < parts->waits && strcmp(parts->wait[i].name, name))
		i++;
	if (i == ACTOR_PARTS)
		return;
	if (i == parts->waits) {
		parts->wait[i].name = name;
		parts->wait[i].ns = 0;
		parts->waits++;
	}
	parts->wait[i].ns += actor->now_ns - since_ns;
}

static void wait_in(struct actor_queue *queue, struct actor *actor)
{
	actor->next = NULL;
	if (queue->first)
		queue->last->next = actor;
	else
		queue->first = actor;
	queue->last = actor;
	actor->state = WAITING;
	give_way(actor);
}

/* Returns whether an actor was waiting. */
static bool wake_first(struct actor_queue *queue, uint64_t now_ns)
{
	struct actor *woken = queue->first;

	if (!woken)
		return false;
	queue->first = woken->next;
	woken->state = READY;
	if (woken->now_ns < now_ns + ACTOR_WAKE_NS)
		woken->now_ns = now_ns + ACTOR_WAKE_NS;
	return true;
}

static void take(struct actor_mutex *mutex, const char *name, struct actor *actor)
{
	uint64_t since_ns;

	give_way(actor);
	if (!mutex->owner) {
		mutex->owner = actor;
		return;
	}
	since_ns = actor->now_ns;
	while (mutex->owner)
		wait_in(&mutex->waiters, actor);
	mutex->owner = actor;
	note_wait(actor, name, since_ns);
}

static void drop(struct actor_mutex *mutex, struct actor *actor)
{
	give_way(actor);
	mutex->owner = NULL;
	if (wake_first(&mutex->waiters, actor->now_ns))
		actor->now_ns += ACTOR_WAKER_NS;
}

void actor_mutex_lock(struct actor_mutex *mutex, const char *name)
{
	struct actor *actor = world.current;

	if (!actor)
		return;
	stop_clock(actor);
	take(mutex, name, actor);
	start_clock(actor);
}

int actor_mutex_trylock(struct actor_mutex *mutex)
{
	struct actor *actor = world.current;
	bool taken;

	if (!actor)
		return 0;
	stop_clock(actor);
	give_way(actor);
	taken = !mutex->owner;
	if (taken)
		mutex->owner = actor;
	start_clock(actor);
	return taken ? 0 : EBUSY;
}

void actor_mutex_unlock(struct actor_mutex *mutex)
{
	struct actor *actor = world.current;

	if (!actor)
		return;
	stop_clock(actor);
	drop(mutex, actor);
	start_clock(actor);
}

void actor_condition_wait(struct actor_condition *condition, struct actor_mutex *mutex,
			  const char *name)
{
	struct actor *actor = world.current;
	uint64_t since_ns;

	stop_clock(actor);
	drop(mutex, actor);
	since_ns = actor->now_ns;
	wait_in(&condition->waiters, actor);
	note_wait(actor, name, since_ns);
	take(mutex, name, actor);
	start_clock(actor);
}

void actor_condition_wake(struct actor_condition *condition, bool all)
{
	struct actor *actor = world.current;

	if (!actor)
		return;
	stop_clock(actor);
	give_way(actor);
	while (wake_first(&condition->waiters, actor->now_ns)) {
		actor->now_ns += ACTOR_WAKER_NS;
		if (!all)
			break;
	}
	start_clock(actor);
}
