/* SPDX-License-Identifier: MIT */
/* Measures a migration for its plan: the wire, the vCPUs' dirtying and the pending memory. */

#include "planner.h"

#include "aliases.h"
#include "collect.h"
#include "plan/goal.h"

#include <errno.h>

/* Bitmaps and watches are read of the whole guest. */
#define COLLECT_NS UINT64_C(250000000)

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

/*
 * Returns the time up to which every bitmap of the cursor's slots has been read: the earliest of
 * their last reads. Later writes may still be in the kernel.
 */
static uint64_t read_until_ns(const struct dl_log *log, const struct dl_cursor *cursor)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	uint64_t until_ns = dli_os_now_ns(log->vm.os);
	struct dli_slot *slot;

	while ((slot = dli_slot_next(&walk)))
		if (slot->logged && slot->read_ns < until_ns && dli_slot_view(slot, cursor))
			until_ns = slot->read_ns;
	return until_ns;
}

/* Takes the counters' present values as zero: dirtying before the plan does not count. */
void dli_plan_begin_measuring(struct dl_plan *plan)
{
	const struct dl_cursor *cursor = plan->cursor;
	struct dl_log *log = plan->log;

	plan->first_pages = dli_cursor_pending_pages(cursor) + dli_cursor_in_flight_pages(cursor);
	plan->first_consumed = consumed_pages(cursor);
	plan->first_passes = ring_count_of(&cursor->passes);
	plan->first_new = all_new_pages(log);
	plan->begun_ns = plan->looked_at_ns = dli_os_now_ns(log->vm.os);
	plan->collected_ns = plan->reported_ns = plan->begun_ns;
	plan->seen_new = ring_count_of(&log->bitmap_new_pages);
	plan->read_until_ns = read_until_ns(log, plan->cursor);
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		struct dli_limit *limit = &vcpu->limit;

		limit->demand = (struct dli_demand){ 0 };
		limit->seen_new = ring_count_of(&dli_ring_stats(vcpu->ring)->new_pages);
		limit->seen_entries = ring_count_of(&dli_ring_stats(vcpu->ring)->entries);
		limit->seen_ran_ns = ring_count_of(&limit->ran_ns);
	}
}

static void note_wire(struct dl_plan *plan, uint64_t now_ns)
{
	/* Pairs with dl_plan_sent(): the bytes of each report that is seen are there. */
	uint64_t busy_ns = atomic_exchange_explicit(&plan->busy_ns, 0, memory_order_acquire);
	/* A piece may take longer than a look: what is reported began after the last report. */
	uint64_t passed_ns = now_ns - plan->reported_ns;
	uint64_t bytes;

	if (!busy_ns)
		return;
	bytes = atomic_exchange_explicit(&plan->sent_bytes, 0, memory_order_relaxed);
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
 * A bitmap does not say who wrote; the caller is taken to run the vCPUs as it was advised. The
 * pages of a read were written since the read before. Those since the last read are estimated.
 */
static void note_vm(struct dl_plan *plan, struct dli_law_look *look)
{
	uint64_t until_ns = read_until_ns(plan->log, plan->cursor);
	uint64_t new_pages = ring_count_of(&plan->log->bitmap_new_pages);
	double bytes = (double)(new_pages - plan->seen_new) * plan->log->caps.page_bytes;

	plan->unread_s += look->over;
	plan->unread_run_s += look->over * plan->run_ppm / DLI_MILLION;
	look->over = 0;
	if (until_ns > plan->read_until_ns && plan->unread_s > 0) {
		double run = plan->unread_run_s / plan->unread_s;

		look->over = (double)(until_ns - plan->read_until_ns) / DLI_SECOND_NS;
		look->new_bytes = look->entry_bytes = bytes;
		dli_demand_note(&plan->demand, bytes, bytes, look->over * run, look->over);
		plan->unread_s = plan->unread_run_s = 0;
		plan->seen_new = new_pages;
		plan->read_until_ns = until_ns;
	}
	if (!look->first_pass && !plan->log->clear_in_chunks)
		look->pending += plan->demand.new_rate * plan->unread_s;
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
	int r;

	if (!cursor)
		return dli_log_fail(plan->log, DLI_CURSOR_FREED, DLI_NO_NUMBER, -ECANCELED);
	dli_cursor_distribute(cursor);
	/* As a pass begins: what several slots map is sent once. */
	r = dli_aliases_move(cursor);
	if (r)
		return r;
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
	if (r || look->first_pass || look->pending > dli_law_fits(&plan->law))
		return r;
	/* This may be the last look: read what is still in the kernel. */
	r = collect(plan, now_ns, true);
	return r ? r : look_at_cursor(plan, unsent_bytes, look);
}

int dli_plan_measure(struct dl_plan *plan, uint64_t unsent_bytes, struct dli_law_look *look)
{
	struct dl_log *log = plan->log;
	uint64_t now_ns = dli_os_now_ns(log->vm.os);
	int r;

	/* First: it says what fits the downtime. */
	note_wire(plan, now_ns);
	r = measure_pending(plan, now_ns, unsent_bytes, look);
	if (r)
		return r;
	look->over = (double)(now_ns - plan->looked_at_ns) / DLI_SECOND_NS;
	plan->looked_at_ns = now_ns;
	look->at = (double)(now_ns - plan->begun_ns) / DLI_SECOND_NS;
	if (!dli_log_is_ring(log))
		note_vm(plan, look);
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
		note_vcpu(plan, vcpu, look);
	return 0;
}
