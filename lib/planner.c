/* SPDX-License-Identifier: MIT */
/* The plan of one cursor. */

#include "planner.h"

#include "collect.h"
#include "plan/goal.h"
#include "throttle.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define AGAIN_NS UINT64_C(100000000)
#define LAPSE_NS (10 * AGAIN_NS)

/* Under the log's lock. */
static int attach(struct dl_plan *plan, struct dl_cursor *cursor)
{
	struct dl_log *log = plan->log;

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (log->plan)
		return dli_log_fail(log, DLI_HAS_PLAN, DLI_NO_NUMBER, -EBUSY);
	log->plan = plan;
	plan->cursor = cursor;
	dli_cursor_set_planned(cursor, true);
	dli_cursor_distribute(cursor);
	dli_plan_begin_measuring(plan);
	return 0;
}

int dli_plan_new(struct dl_cursor *cursor, const struct dl_goal *goal, struct dl_plan **out)
{
	struct dl_log *log = cursor->log;
	struct dl_plan *plan = dli_allocate(1, sizeof(*plan));
	struct dli_law_goal law = dli_law_goal_of(goal);
	int r;

	if (!plan)
		return dli_log_fail(log, DLI_NO_MEMORY, DLI_NO_NUMBER, -ENOMEM);
	plan->log = log;
	plan->flags = goal->flags;
	plan->longest_pause_ns = dli_goal_longest_pause_ns(goal);
	plan->run_ppm = (uint32_t)DLI_MILLION;
	dli_law_start(&plan->law, &law);
	r = -pthread_mutex_init(&plan->lock, NULL);
	if (r) {
		free(plan);
		return dli_log_fail(log, DLI_NO_MEMORY, DLI_NO_NUMBER, r);
	}
	pthread_mutex_lock(&log->lock);
	r = attach(plan, cursor);
	pthread_mutex_unlock(&log->lock);
	if (r) {
		pthread_mutex_destroy(&plan->lock);
		free(plan);
		return r;
	}
	dli_log_get(log);
	*out = plan;
	return 0;
}

/* Under the log's lock. */
static void lift_limits(struct dl_log *log)
{
	const struct dli_plan_terms none = { 0 };

	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		atomic_store_explicit(&vcpu->limit.planned, 0, memory_order_relaxed);
		atomic_store_explicit(&vcpu->limit.held, false, memory_order_relaxed);
	}
	dli_limits_set_plan(log, &none);
}

void dli_plan_forget_cursor(struct dl_cursor *cursor)
{
	struct dl_log *log = cursor->log;

	if (!log->plan || log->plan->cursor != cursor)
		return;
	dli_cursor_set_planned(cursor, false);
	log->plan->cursor = NULL;
	lift_limits(log);
	log->plan = NULL;
}

void dli_plan_delete(struct dl_plan *plan)
{
	struct dl_log *log = plan->log;

	pthread_mutex_lock(&log->lock);
	if (plan->cursor)
		dli_plan_forget_cursor(plan->cursor);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_destroy(&plan->lock);
	free(plan);
	dli_log_put(log);
}

/*
 * Fills what is allowed into the vCPUs like water: everyone may dirty up to the level, and those
 * that want less leave the rest to the others. Returns the level.
 */
static double water_level(const struct dl_log *log, double allowed)
{
	double level = 0, next = 0;

	/* Each round knows more vCPUs that want less than the level, so the level only rises. */
	do {
		double rest = allowed;
		uint32_t above = 0;

		level = next;
		for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
			double demand = vcpu->limit.demand.new_bytes;

			if (demand <= level)
				rest -= demand;
			else
				above++;
		}
		/*
		 * They dirty little now, maybe because all that they write is dirty already. As
		 * soon as it is taken they can dirty it at once, long before the next look.
		 */
		if (!above)
			return allowed;
		next = rest / above;
	} while (next > level);
	return level;
}

/* Sets a limit for every vCPU: one that does not reach it is free. Returns how many are held. */
static uint32_t set_limits(struct dl_plan *plan, double level)
{
	struct dl_log *log = plan->log;
	double to_pages_per_ns = 1 / (DLI_SECOND_NS * log->caps.page_bytes);
	uint32_t held = 0;

	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		double demand = vcpu->limit.demand.new_bytes;
		double floor = plan->law.goal.least_run * demand;
		double limit = level > floor ? level : floor;
		bool holds = demand > limit;

		if (!isfinite(limit))
			limit = 0;
		atomic_store_explicit(&vcpu->limit.planned, limit * to_pages_per_ns,
				      memory_order_relaxed);
		atomic_store_explicit(&vcpu->limit.held, holds, memory_order_relaxed);
		held += holds;
	}
	return held;
}

static uint32_t limit_vcpus(struct dl_plan *plan, double allowed)
{
	const struct dli_plan_terms terms = {
		.until_ns = plan->looked_at_ns + LAPSE_NS,
		.longest_pause_ns = plan->longest_pause_ns,
		.least_run = plan->law.goal.least_run,
	};
	double level = isfinite(allowed) ? water_level(plan->log, allowed) : INFINITY;
	uint32_t held;

	if (plan->flags & DL_GOAL_ADVISE || !dli_log_is_ring(plan->log))
		return 0;
	held = set_limits(plan, level);
	if (isfinite(level) || plan->limiting)
		dli_limits_set_plan(plan->log, &terms);
	plan->limiting = isfinite(level);
	return held;
}

/* For a caller that limits the vCPUs itself: all alike. */
static uint32_t run_ppm(const struct dl_plan *plan, double allowed, double demand)
{
	double share = demand > allowed ? allowed / demand : 1;

	if (share < plan->law.goal.least_run)
		share = plan->law.goal.least_run;
	return (uint32_t)(share * DLI_MILLION);
}

static uint64_t to_bytes(double bytes)
{
	return bytes < 0x1p64 ? (uint64_t)bytes : UINT64_MAX;
}

static uint64_t to_ns(double seconds)
{
	/* Centuries are never. */
	return seconds < 1e10 ? (uint64_t)(seconds * DLI_SECOND_NS) : UINT64_MAX;
}

/* Finds the bound that keeps the guest from the goal, from vCPUs' pauses since the last look. */
static uint32_t bound_by(struct dl_plan *plan)
{
	uint32_t bound = plan->law.limiting, pauses = BUCKET_UNBOUND;
	struct dl_log *log = plan->log;

	if (dli_limits_are_ignored(log))
		return DL_BOUND_IGNORED;
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		uint32_t seen = atomic_exchange_explicit(&vcpu->limit.bound, BUCKET_UNBOUND,
							 memory_order_relaxed);

		pauses = seen > pauses ? seen : pauses;
	}
	if (pauses == BUCKET_BOUND_BY_FLOOR)
		return DL_BOUND_FLOOR;
	return pauses == BUCKET_BOUND_BY_PAUSE ? DL_BOUND_PAUSE : bound;
}

static void advise(struct dl_plan *plan, const struct dli_law_look *look, struct dl_advice *out)
{
	const struct dli_law_advice law = dli_law_look(&plan->law, look);
	bool own_limits = plan->flags & DL_GOAL_ADVISE || !dli_log_is_ring(plan->log);

	*out = (struct dl_advice){
		.size = sizeof(*out),
		.verdict = law.verdict,
		.pending_bytes = to_bytes(look->pending),
		.dirty_bytes_per_s = to_bytes(plan->law.new_rate),
		.written_bytes_per_s = to_bytes(plan->law.entry_rate),
		.wire_bytes_per_s = to_bytes(plan->law.wire.slow),
		.downtime_ns = to_ns(law.downtime),
		.remaining_ns = to_ns(law.remaining),
		.again_ns = AGAIN_NS,
		.least_pending_bytes = to_bytes(plan->law.least_pending),
		.run_ppm = (uint32_t)DLI_MILLION,
	};
	if (own_limits)
		out->run_ppm = run_ppm(plan, law.allowed, look->demand);
	plan->run_ppm = out->run_ppm;
	out->limited_vcpus = limit_vcpus(plan, law.allowed);
	out->bound_by = bound_by(plan);
	if (law.verdict == DL_VERDICT_CONTINUE &&
	    (out->limited_vcpus || out->run_ppm < DLI_MILLION))
		out->verdict = DL_VERDICT_THROTTLED;
}

int dli_plan_next(struct dl_plan *plan, uint64_t unsent_bytes, struct dl_advice *advice)
{
	struct dli_law_look look = { 0 };
	struct dl_log *log = plan->log;
	int r;

	pthread_mutex_lock(&plan->lock);
	r = dli_collect_rings(log, false);
	if (!r) {
		/* How long each vCPU ran. */
		(void)dli_limits_look(log, true);
		/* Whoever frees the cursor lifts the limits: none may be set afterwards. */
		pthread_mutex_lock(&log->lock);
		r = dli_plan_measure(plan, unsent_bytes, &look);
		if (!r)
			advise(plan, &look, advice);
		pthread_mutex_unlock(&log->lock);
	}
	pthread_mutex_unlock(&plan->lock);
	return r;
}
