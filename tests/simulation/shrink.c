/* SPDX-License-Identifier: MIT */
/*
 * Reduces a failure. First the plan: drops an actor, a consumer or an operation if one of several
 * schedules still fails in the same way. Then the schedule of one failing run: drops switches.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "run.h"

enum { ATTEMPTS = 60 };

static struct plan best;
static struct sim_decision decisions[SIM_DECISIONS];
static uint32_t decision_count;
static enum sim_failure_kind wanted;
static time_t deadline;

static bool time_is_up(void)
{
	return time(NULL) > deadline;
}

static bool fails(const struct plan *plan, const struct sim_script *script)
{
	struct outcome outcome;

	run_plan(plan, script, NULL, &outcome);
	return outcome.failure == wanted;
}

static void keep_decisions(void)
{
	decision_count = sim.decision_count;
	memcpy(decisions, sim.decisions, decision_count * sizeof(decisions[0]));
}

/* Adopts a smaller plan if it still fails, with its own schedule or another. */
static bool try_plan(struct plan *smaller)
{
	uint64_t state = smaller->policy.seed;

	for (int i = 0; i < ATTEMPTS && !time_is_up(); i++) {
		if (fails(smaller, NULL)) {
			best = *smaller;
			keep_decisions();
			return true;
		}
		smaller->policy.seed = sim_random(&state);
	}
	return false;
}

static bool drop_actors(void)
{
	bool dropped = false;

	for (uint32_t i = 0; i < best.actor_count; i++) {
		struct plan smaller = best;

		if (best.actors[i].dropped)
			continue;
		smaller.actors[i].dropped = true;
		dropped |= try_plan(&smaller);
	}
	return dropped;
}

static bool drop_consumers(void)
{
	bool dropped = false;

	for (uint32_t i = 0; i < best.consumer_count; i++) {
		struct plan smaller = best;

		if (best.wishes[i].dropped)
			continue;
		smaller.wishes[i].dropped = true;
		dropped |= try_plan(&smaller);
	}
	return dropped;
}

/* Drops operations [first, first + n). */
static bool drop_ops(uint32_t first, uint32_t n)
{
	struct plan smaller = best;
	bool any = false;

	for (uint32_t i = first; i < first + n && i < best.op_count; i++) {
		any |= !smaller.ops[i].dropped;
		smaller.ops[i].dropped = true;
	}
	return any && try_plan(&smaller);
}

static bool drop_operations(void)
{
	bool dropped = false;

	for (uint32_t n = 32; n; n /= 2)
		for (uint32_t first = 0; first < best.op_count; first += n)
			dropped |= drop_ops(first, n);
	return dropped;
}

static bool fewer_pages(void)
{
	bool dropped = false;

	for (uint32_t i = 0; i < best.op_count; i++) {
		struct plan smaller = best;

		if (smaller.ops[i].dropped || smaller.ops[i].count < 2)
			continue;
		smaller.ops[i].count /= 2;
		dropped |= try_plan(&smaller);
	}
	return dropped;
}

static bool shrink_plan(void)
{
	bool dropped = drop_actors();

	dropped |= drop_consumers();
	dropped |= drop_operations();
	dropped |= fewer_pages();
	return dropped;
}

static bool fails_scripted(const struct sim_decision *candidates)
{
	const struct sim_script script = { .decisions = candidates, .n = decision_count };

	return fails(&best, &script);
}

/* Drops switches [first, first + n). */
static bool drop_switches(uint32_t first, uint32_t n)
{
	static struct sim_decision candidates[SIM_DECISIONS];
	bool any = false;

	memcpy(candidates, decisions, decision_count * sizeof(decisions[0]));
	for (uint32_t i = first; i < first + n && i < decision_count; i++) {
		any |= !candidates[i].dropped;
		candidates[i].dropped = true;
	}
	if (!any || !fails_scripted(candidates))
		return false;
	memcpy(decisions, candidates, decision_count * sizeof(decisions[0]));
	return true;
}

static bool shrink_schedule(void)
{
	if (!fails_scripted(decisions))
		return false;
	for (int round = 0; round < 3; round++) {
		bool dropped = false;

		for (uint32_t n = decision_count; n && !time_is_up(); n /= 2)
			for (uint32_t first = 0; first < decision_count && !time_is_up();
			     first += n)
				dropped |= drop_switches(first, n);
		if (!dropped)
			break;
	}
	return true;
}

void shrink_and_report(struct plan *plan, const struct outcome *outcome, uint32_t seconds)
{
	struct sim_script script;
	struct outcome last;

	best = *plan;
	wanted = outcome->failure;
	deadline = time(NULL) + seconds;
	if (!fails(&best, NULL)) {
		printf("it does not fail a second time\n");
		return;
	}
	keep_decisions();
	while (!time_is_up() && shrink_plan())
		;
	script = (struct sim_script){ .decisions = decisions, .n = decision_count };
	printf("\nthe plan that is left:\n");
	plan_print(&best, stdout);
	if (shrink_schedule()) {
		printf("\nthe schedule that is left:\n");
		run_plan(&best, &script, stdout, &last);
	} else {
		run_plan(&best, NULL, stdout, &last);
	}
	printf("%s: %s\n", failure_names[last.failure], last.text);
}
