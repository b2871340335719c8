/* SPDX-License-Identifier: MIT */
#include "scheduler.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED_BY_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_BY_ASAN 1
#endif
#endif
#ifndef WATCHED_BY_ASAN
#define WATCHED_BY_ASAN 0
#endif

#if WATCHED_BY_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum { STACK_BYTES = 256 * 1024, FROM_HOST = 255 };

struct sim_state sim;

extern struct sim_site __start_sim_sites[], __stop_sim_sites[];

static struct sim_context host;
#if WATCHED_BY_ASAN
static void *host_fake_stack;
static const void *host_stack;
static size_t host_stack_bytes;
#endif
static char *stacks;

static void *stack_of(const struct sim_task *task)
{
	return stacks + (size_t)task->id * STACK_BYTES;
}

static uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
	return hash;
}

/* By name, not by line, so that a seed keeps its meaning after an edit elsewhere in the file. */
static uint64_t site_hash(struct sim_site *site)
{
	const char *slash = strrchr(site->file, '/');

	if (!site->name_hash) {
		site->name_hash = hash_text(0xcbf29ce484222325, slash ? slash + 1 : site->file);
		site->name_hash = hash_text(site->name_hash, site->function);
		site->name_hash = hash_text(site->name_hash, site->what) | 1;
	}
	return site->name_hash;
}

static void choose_hot_sites(void)
{
	for (struct sim_site *site = __start_sim_sites; site < __stop_sim_sites; site++) {
		uint64_t state = site_hash(site) ^ sim.policy.seed;

		site->hot = sim.policy.hot_share && !sim_below(&state, sim.policy.hot_share);
	}
}

void sim_begin(const struct sim_policy *policy, const struct sim_script *script, FILE *trace)
{
	if (!stacks) {
		stacks = mmap(NULL, (size_t)SIM_TASKS * STACK_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (stacks == MAP_FAILED)
			abort();
	}
	sim.now = 0;
	sim.next = UINT64_MAX;
	sim.task_count = 0;
	sim.current = NULL;
	sim.policy = *policy;
	sim.script = script;
	sim.script_start = 0;
	sim.limit_points = 400000;
	sim.random = policy->seed ^ UINT64_C(0x5851f42d4c957f2d);
	sim.low_priority = 1 << 20;
	sim.decision_count = 0;
	sim.switches = 0;
	sim.trace = trace;
	sim.failure = SIM_OK;
	sim.failure_text[0] = '\0';
	if (script)
		sim.policy.hot_share = 0;
	choose_hot_sites();
}

void sim_trace(const char *format, ...)
{
	va_list args;

	if (!sim.trace)
		return;
	fprintf(sim.trace, "%8lu %-12s ", (unsigned long)sim.now,
		sim.current ? sim.current->name : "-");
	va_start(args, format);
	vfprintf(sim.trace, format, args);
	va_end(args);
	fputc('\n', sim.trace);
}

/* Switches from the current stack to another; NULL is the host's. */
static void switch_stacks(struct sim_task *from, struct sim_task *to)
{
	struct sim_context *a = from ? &from->context : &host, *b = to ? &to->context : &host;
#if WATCHED_BY_ASAN
	bool gone = from && from->state == TASK_DONE;

	__sanitizer_start_switch_fiber(gone   ? NULL
				       : from ? &from->fake_stack
					      : &host_fake_stack,
				       to ? stack_of(to) : host_stack,
				       to ? STACK_BYTES : host_stack_bytes);
#endif
	sim_context_switch(a, b);
#if WATCHED_BY_ASAN
	__sanitizer_finish_switch_fiber(from ? from->fake_stack : host_fake_stack, NULL, NULL);
#endif
}

_Noreturn void sim_fail(enum sim_failure_kind kind, const char *format, ...)
{
	struct sim_task *task = sim.current;
	va_list args;

	va_start(args, format);
	vsnprintf(sim.failure_text, sizeof(sim.failure_text), format, args);
	va_end(args);
	sim.failure = kind;
	sim_trace("FAILED: %s", sim.failure_text);
	if (!task)
		abort();
	sim.current = NULL;
	switch_stacks(task, NULL);
	abort();
}

static uint32_t random_below(uint32_t below)
{
	return sim_below(&sim.random, below);
}

static bool can_run(struct sim_task *task)
{
	if (task->state == TASK_DONE)
		return false;
	return task->state == TASK_READY || task->condition(task->condition_of);
}

/* Points of the current task so far. */
static uint32_t own_points(const struct sim_task *task)
{
	return (uint32_t)(task->points + (sim.now - task->resumed_at));
}

static const struct sim_decision *scripted(struct sim_task *task)
{
	const struct sim_script *script = sim.script;

	for (; task->cursor < script->n; task->cursor++) {
		const struct sim_decision *d = &script->decisions[task->cursor];

		if (d->from == task->id && !d->dropped && d->points >= own_points(task))
			return d;
	}
	return NULL;
}

/* The number of points after which the script switches away from task. */
static uint64_t scripted_gap(const struct sim_task *task)
{
	uint32_t points = own_points(task);

	for (uint32_t i = task->cursor; i < sim.script->n; i++) {
		const struct sim_decision *d = &sim.script->decisions[i];

		if (d->from == task->id && !d->dropped && !d->forced && d->points > points)
			return d->points - points;
	}
	return UINT32_MAX;
}

/* Sets when the generator decides next, now that task runs. */
static void plan_next(struct sim_task *task)
{
	if (sim.script) {
		sim.next = sim.now + scripted_gap(task);
	} else if (sim.policy.kind == POLICY_WALK) {
		sim.next = sim.policy.gap_points
				   ? sim.now + 1 + random_below(2 * sim.policy.gap_points)
				   : UINT64_MAX;
	} else if (sim.next <= sim.now) {
		sim.next = sim.now + 1 +
			   random_below(2 * sim.policy.span_points / (sim.policy.changes + 1));
	}
	if (sim.next > sim.limit_points)
		sim.next = sim.limit_points;
}

/* The task to run next; stalled ones only on request. */
static struct sim_task *pick_among(const struct sim_task *not_this, bool stalled_too)
{
	struct sim_task *ready[SIM_TASKS], *best = NULL;
	uint32_t n = 0;

	for (uint32_t i = 0; i < sim.task_count; i++) {
		struct sim_task *task = &sim.tasks[i];

		if (task == not_this || !can_run(task) ||
		    (!stalled_too && task->stalled_until > sim.now))
			continue;
		ready[n++] = task;
		if (!best || task->priority > best->priority)
			best = task;
	}
	if (n && sim.policy.kind == POLICY_WALK && !sim.script)
		return ready[random_below(n)];
	/* Without an entry in the script, the first. */
	return n && sim.script ? ready[0] : best;
}

static struct sim_task *pick(const struct sim_task *not_this)
{
	struct sim_task *task = pick_among(not_this, false);

	return task ? task : pick_among(not_this, true);
}

/* from: NULL if to is the first task to run. */
static void record(const struct sim_task *from, const struct sim_task *to, bool forced)
{
	if (sim.decision_count < SIM_DECISIONS)
		sim.decisions[sim.decision_count++] = (struct sim_decision){
			.from = from ? (uint8_t)from->id : FROM_HOST,
			.to = (uint8_t)to->id,
			.forced = forced,
			.points = from ? own_points(from) : 0,
		};
}

static void switch_to(struct sim_task *to, bool forced, struct sim_site *site)
{
	struct sim_task *from = sim.current;

	if (to == from)
		return;
	record(from, to, forced);
	sim.switches++;
	site->switches++;
	if (sim.trace)
		sim_trace("%s %s (%s) %s -> %s", site->function, site->what,
			  forced ? (from->state == TASK_DONE ? "ended" : "blocked") : "switch",
			  from->state == TASK_WAITING ? from->waits_for : "", to->name);
	from->points = own_points(from);
	to->resumed_at = sim.now;
	sim.current = to;
	plan_next(to);
	switch_stacks(from, to);
}

static bool hold_up(struct sim_site *site)
{
	if (!site->hot || random_below(2))
		return false;
	sim.current->stalled_until = sim.now + 1 + random_below(sim.policy.stall_points);
	return true;
}

static void follow_script(struct sim_site *site)
{
	struct sim_task *task = sim.current;
	const struct sim_decision *d = scripted(task);

	if (d && !d->forced && d->points == own_points(task)) {
		task->cursor++;
		if (d->to < sim.task_count && can_run(&sim.tasks[d->to])) {
			switch_to(&sim.tasks[d->to], false, site);
			return;
		}
	}
	plan_next(task);
}

void sim_reschedule(struct sim_site *site)
{
	struct sim_task *task = sim.current, *to;
	bool held_up;

	if (!task)
		return;
	if (sim.now >= sim.limit_points)
		sim_fail(SIM_ENDLESS, "no end after %lu points", (unsigned long)sim.now);
	if (sim.script) {
		follow_script(site);
		return;
	}
	held_up = hold_up(site);
	if (!held_up && sim.now < sim.next)
		return;
	if (!held_up && sim.policy.kind == POLICY_PRIORITY)
		task->priority = sim.low_priority--;
	to = pick(held_up ? task : NULL);
	if (to && to != task)
		switch_to(to, false, site);
	else
		plan_next(task);
}

static void fail_deadlock(void)
{
	char text[500];
	size_t at = 0;

	for (uint32_t i = 0; i < sim.task_count && at < sizeof(text); i++)
		if (sim.tasks[i].state == TASK_WAITING)
			at += (size_t)snprintf(text + at, sizeof(text) - at, " %s waits for %s;",
					       sim.tasks[i].name, sim.tasks[i].waits_for);
	sim_fail(SIM_DEADLOCK, "deadlock:%s", text);
}

/* The current task cannot continue: runs another. */
static void leave(struct sim_site *site)
{
	struct sim_task *task = sim.current, *to = NULL;
	const struct sim_decision *d = sim.script ? scripted(task) : NULL;

	if (d && d->forced && d->points == own_points(task)) {
		task->cursor++;
		if (d->to < sim.task_count && d->to != task->id && can_run(&sim.tasks[d->to]))
			to = &sim.tasks[d->to];
	}
	if (!to)
		to = pick(task);
	if (!to && task->state != TASK_DONE && can_run(task))
		return;
	if (!to)
		fail_deadlock();
	switch_to(to, true, site);
}

void sim_yield(struct sim_site *site)
{
	sim.now++;
	if (sim.now >= sim.limit_points)
		sim_fail(SIM_ENDLESS, "no end after %lu points", (unsigned long)sim.now);
	sim.current->priority = sim.low_priority--;
	leave(site);
}

void sim_wait(sim_condition *condition, const void *opaque, const char *what, struct sim_site *site)
{
	struct sim_task *task = sim.current;

	while (!condition(opaque)) {
		if (++sim.now >= sim.limit_points)
			sim_fail(SIM_ENDLESS, "no end after %lu points", (unsigned long)sim.now);
		task->condition = condition;
		task->condition_of = opaque;
		task->waits_for = what;
		task->state = TASK_WAITING;
		leave(site);
		task->state = TASK_READY;
	}
}

void sim_woken(struct sim_site *site)
{
	struct sim_task *to;

	if (sim.policy.kind != POLICY_PRIORITY || sim.script || !sim.current)
		return;
	to = pick(NULL);
	if (to && to != sim.current && to->priority > sim.current->priority)
		switch_to(to, false, site);
}

static void task_begins(void)
{
	struct sim_task *task = sim.current;

#if WATCHED_BY_ASAN
	__sanitizer_finish_switch_fiber(NULL, host_stack ? NULL : &host_stack,
					host_stack ? NULL : &host_stack_bytes);
#endif
	task->body(task->opaque);
	task->state = TASK_DONE;
	for (uint32_t i = 0; i < sim.task_count; i++) {
		if (sim.tasks[i].state == TASK_DONE)
			continue;
		sim.now++;
		leave(SIM_SITE("end of task"));
	}
	sim.current = NULL;
	switch_stacks(task, NULL);
	abort();
}

struct sim_task *sim_spawn(const char *name, uint32_t number, void (*body)(void *opaque),
			   void *opaque)
{
	struct sim_task *task = &sim.tasks[sim.task_count];

	if (sim.task_count == SIM_TASKS)
		abort();
	memset(task, 0, sizeof(*task));
	snprintf(task->name, sizeof(task->name), "%s%u", name, number);
	task->id = sim.task_count++;
	task->body = body;
	task->opaque = opaque;
	task->priority = (UINT64_C(1) << 32) + sim_random(&sim.random) % (1 << 30);
	sim_context_make(&task->context, stack_of(task), STACK_BYTES, task_begins);
	return task;
}

/* The first task of this phase of the run. */
static struct sim_task *scripted_start(struct sim_task *otherwise)
{
	for (; sim.script_start < sim.script->n; sim.script_start++) {
		const struct sim_decision *d = &sim.script->decisions[sim.script_start];

		if (d->from != FROM_HOST || d->dropped)
			continue;
		sim.script_start++;
		return d->to < sim.task_count && can_run(&sim.tasks[d->to]) ? &sim.tasks[d->to]
									    : otherwise;
	}
	return otherwise;
}

bool sim_tasks_run(void)
{
	struct sim_task *task = NULL;

	if (sim.failure)
		return false;
	for (uint32_t i = 0; i < sim.task_count && !task; i++)
		if (sim.tasks[i].state != TASK_DONE)
			task = &sim.tasks[i];
	if (!task)
		return true;
	if (sim.script)
		task = scripted_start(task);
	else
		task = pick(NULL);
	record(NULL, task, true);
	task->resumed_at = sim.now;
	sim.current = task;
	sim.next = sim.now;
	plan_next(task);
	switch_stacks(NULL, task);
	return !sim.failure;
}
