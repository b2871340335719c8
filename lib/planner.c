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
/* Bitmaps and watches are read of the whole guest. */
#define COLLECT_NS UINT64_C(250000000)
/* The bandwidth, and so what fits the downtime, may have risen since the last look. */
#define NEARLY 1.5

/* Pages that were sent, or that the caller took and will send. */
static uint64_t consumed_pages(const struct dl_cursor *cursor)
{
	return atomic_load_explicit(&cursor->acked_pages, memory_order_relaxed);
}

static uint64_t ring_count_of(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Pages that have been found dirty, and that were not known before. */
static uint64_t all_new_pages(struct dl_log *log)
{
	uint64_t pages = ring_count_of(&log->bitmap_new_pages);

	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
		pages += ring_count_of(&dli_ring_stats(vcpu->ring)->new_pages);
	return pages;
}

/* Takes the counters' present values as zero: dirtying before the plan does not count. */
static void begin_measuring(struct dl_plan *plan)
{
	struct dl_log *log = plan->log;

	plan->begun_ns = plan->looked_at_ns = dli_os_now_ns(log->vm.os);
	plan->collected_ns = plan->reported_ns = plan->begun_ns;
	plan->seen_new = ring_count_of(&log->bitmap_new_pages);
	plan->seen_reads = ring_count_of(&log->bitmap_reads);
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		struct dli_limit *limit = &vcpu->limit;

		limit->demand = (struct dli_demand){ 0 };
		limit->seen_new = ring_count_of(&dli_ring_stats(vcpu->ring)->new_pages);
		limit->seen_entries = ring_count_of(&dli_ring_stats(vcpu->ring)->entries);
		limit->seen_ran_ns = ring_count_of(&limit->ran_ns);
	}
}

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
	plan->first_pages = dli_cursor_pending_pages(cursor) + dli_cursor_in_flight_pages(cursor);
	plan->first_consumed = consumed_pages(cursor);
	plan->first_passes = ring_count_of(&cursor->passes);
	plan->first_new = all_new_pages(log);
	begin_measuring(plan);
	return 0;
}

int dli_plan_new(struct dl_cursor *cursor, const struct dl_goal *goal, struct dl_plan **out)
{
	struct dl_log *log = cursor->log;
	struct dl_plan *plan = dli_allocate(1, sizeof(*plan));
	struct dli_law_goal law = dli_goal_of_law(goal);
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

static void note_wire(struct dl_plan *plan, uint64_t now_ns)
{
	uint64_t bytes = atomic_exchange_explicit(&plan->sent_bytes, 0, memory_order_relaxed);
	uint64_t busy_ns = atomic_exchange_explicit(&plan->busy_ns, 0, memory_order_relaxed);
	/* A piece may take longer than a look: what is reported began after the last report. */
	uint64_t passed_ns = now_ns - plan->reported_ns;

	if (busy_ns)
		plan->reported_ns = now_ns;
	/* Several channels that were busy at the same time are one wire. */
	if (busy_ns > passed_ns)
		busy_ns = passed_ns;
	dli_wire_note(&plan->law.wire, (double)bytes, (double)busy_ns / DLI_SECOND_NS);
}

static void note_vcpu(struct dl_plan *plan, struct dl_vcpu *vcpu, struct dli_law_look *look)
{
	const struct dli_ring_stats *stats = dli_ring_stats(vcpu->ring);
	struct dli_limit *limit = &vcpu->limit;
	double page_bytes = plan->log->caps.page_bytes;
	uint64_t new_pages = ring_count_of(&stats->new_pages);
	uint64_t entries = ring_count_of(&stats->entries), ran_ns = ring_count_of(&limit->ran_ns);
	double new_bytes = (double)(new_pages - limit->seen_new) * page_bytes;
	double entry_bytes = (double)(entries - limit->seen_entries) * page_bytes;

	dli_demand_note(&limit->demand, new_bytes, entry_bytes,
			(double)(ran_ns - limit->seen_ran_ns) / DLI_SECOND_NS, look->over);
	limit->seen_new = new_pages;
	limit->seen_entries = entries;
	limit->seen_ran_ns = ran_ns;
	if (atomic_load_explicit(&limit->removed, memory_order_relaxed))
		limit->demand = (struct dli_demand){ 0 };
	look->new_bytes += new_bytes;
	look->entry_bytes += entry_bytes;
	look->demand += limit->demand.new_bytes;
	look->written += limit->demand.entry_bytes;
}

/*
 * Bitmaps do not say who wrote; the caller is taken to run the vCPUs as it was advised. What they
 * show was written since they were last read.
 */
static void note_vm(struct dl_plan *plan, struct dli_law_look *look)
{
	uint64_t reads = ring_count_of(&plan->log->bitmap_reads);
	uint64_t new_pages = ring_count_of(&plan->log->bitmap_new_pages);
	double bytes = (double)(new_pages - plan->seen_new) * plan->log->caps.page_bytes;

	plan->unread_s += look->over;
	plan->unread_run_s += look->over * plan->run_ppm / DLI_MILLION;
	look->over = 0;
	if (reads != plan->seen_reads) {
		dli_demand_note(&plan->demand, bytes, bytes, plan->unread_run_s, plan->unread_s);
		look->over = plan->unread_s;
		look->new_bytes = look->entry_bytes = bytes;
		plan->unread_s = plan->unread_run_s = 0;
		plan->seen_new = new_pages;
		plan->seen_reads = reads;
	}
	look->demand = plan->demand.new_bytes;
	look->written = plan->demand.entry_bytes;
}

/*
 * How many pages of the first pass need not be sent: those of removed slots, and those that another
 * slot maps too.
 */
static uint64_t gone_pages(const struct dl_plan *plan, uint64_t pages, uint64_t sent)
{
	uint64_t came = plan->first_pages + all_new_pages(plan->log) - plan->first_new;

	return came > sent + pages ? came - sent - pages : 0;
}

/*
 * A pass of reads ends when the next one begins; a consumer that takes has no passes. pages are
 * pending or in flight.
 */
static bool in_first_pass(const struct dl_plan *plan, uint64_t pages, uint64_t unsent_pages)
{
	const struct dl_cursor *cursor = plan->cursor;
	uint64_t passes = ring_count_of(&cursor->passes);
	uint64_t sent = consumed_pages(cursor) - plan->first_consumed;

	if (passes > 1 && passes > plan->first_passes)
		return false;
	/* One that reads everything at once ends its pass before it sends. */
	if (passes == 1 && !dli_cursor_pass(cursor) && !unsent_pages)
		return false;
	return sent + gone_pages(plan, pages, sent) < plan->first_pages + unsent_pages;
}

/* Under the log's lock. */
static int look_at_cursor(struct dl_plan *plan, uint64_t unsent_bytes, struct dli_law_look *look)
{
	struct dl_cursor *cursor = plan->cursor;
	uint64_t pages;

	if (!cursor)
		return dli_log_fail(plan->log, DLI_CURSOR_FREED, DLI_NO_NUMBER, -ECANCELED);
	dli_cursor_distribute(cursor);
	pages = dli_cursor_pending_pages(cursor) + dli_cursor_in_flight_pages(cursor);
	look->pending = (double)(pages << cursor->page_shift) + (double)unsent_bytes;
	look->passes = ring_count_of(&cursor->passes);
	look->first_pass = in_first_pass(plan, pages, unsent_bytes >> cursor->page_shift);
	return 0;
}

/*
 * True if what is pending does not say it all: after an overflow everything is, bitmaps and watches
 * have to be read. Without manual protect a read protects what it finds, and the guest faults once
 * more for each page: that is left to those who hand pages out, unless this may be the last look.
 */
static bool must_collect(const struct dl_plan *plan, uint64_t now_ns, bool last)
{
	struct dl_log *log = plan->log;
	bool reads = dli_log_is_ring(log) ? log->watcher.watches : log->clear_in_chunks || last;

	if (!plan->cursor)
		return false;
	if (dli_log_is_ring(log) && dli_reset_repair_needed(&log->reset))
		return true;
	return reads && now_ns - plan->collected_ns >= (last ? 1 : COLLECT_NS);
}

static int collect(struct dl_plan *plan, uint64_t now_ns, bool last)
{
	const struct dli_scope scope = { .cursor = plan->cursor };

	if (!must_collect(plan, now_ns, last))
		return 0;
	plan->collected_ns = now_ns;
	return dli_collect(plan->log, &scope, false, 0);
}

/* Under the log's lock. */
static int measure_pending(struct dl_plan *plan, uint64_t now_ns, uint64_t unsent_bytes,
			   struct dli_law_look *look)
{
	int r = collect(plan, now_ns, false);

	if (!r)
		r = look_at_cursor(plan, unsent_bytes, look);
	if (r || look->first_pass || look->pending > NEARLY * plan->fits)
		return r;
	/* Where it may be the last look, nothing is to be missing. */
	r = collect(plan, now_ns, true);
	return r ? r : look_at_cursor(plan, unsent_bytes, look);
}

/* Under the log's lock. */
static int measure(struct dl_plan *plan, uint64_t unsent_bytes, struct dli_law_look *look)
{
	struct dl_log *log = plan->log;
	uint64_t now_ns = dli_os_now_ns(log->vm.os);
	int r;

	r = measure_pending(plan, now_ns, unsent_bytes, look);
	if (r)
		return r;
	note_wire(plan, now_ns);
	look->over = (double)(now_ns - plan->looked_at_ns) / DLI_SECOND_NS;
	plan->looked_at_ns = now_ns;
	look->at = (double)(now_ns - plan->begun_ns) / DLI_SECOND_NS;
	if (!dli_log_is_ring(log))
		note_vm(plan, look);
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
		note_vcpu(plan, vcpu, look);
	return 0;
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
	plan->fits = law.fits;
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
		r = measure(plan, unsent_bytes, &look);
		if (!r)
			advise(plan, &look, advice);
		pthread_mutex_unlock(&log->lock);
	}
	pthread_mutex_unlock(&plan->lock);
	return r;
}
