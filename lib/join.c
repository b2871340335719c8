/* SPDX-License-Identifier: MIT */
/* A cursor joins a log, or leaves it: logging is on for what some cursor covers. */

#include "coverage.h"
#include "missed.h"
#include "planner.h"
#include "ring/drain.h"
#include "slot_logging.h"
#include "throttle.h"
#include "vcpu_check.h"

#include <errno.h>

/* True if some cursor logs. */
static bool any_logs(const struct dl_log *log)
{
	const struct dl_cursor *cursor = log->cursors;

	while (cursor && dli_cursor_is_audit(cursor))
		cursor = cursor->next;
	return cursor;
}

/* Entries of before the first cursor, or after the last: nobody wants the pages. */
static int drain_rings(struct dl_log *log)
{
	if (!dli_log_is_ring(log))
		return 0;
	return dli_drain_all(&log->vcpus, &log->reset, false, &log->slots);
}

/*
 * A second dl_log_open() of a VM that has no vCPU yet can switch rings on under a log in bitmap
 * mode. With a backup bitmap KVM_GET_DIRTY_LOG goes on to answer, and misses what vCPUs write.
 */
static int check_rings_still_off(struct dl_log *log)
{
	bool on = false;
	int r;

	if (dli_log_is_ring(log) || !log->caps.ring_max_entries)
		return 0;
	r = dli_reset_probe(log->vm.os, log->vm.fd, &on);
	if (r)
		return dli_log_fail(log, DLI_RINGS_UNKNOWN, DLI_NO_NUMBER, r);
	return on ? dli_log_fail(log, DLI_RINGS_ON, DLI_NO_NUMBER, -EBUSY) : 0;
}

/* Before the first cursor: no slot is logged. */
static int prepare_log(struct dl_log *log, const struct dl_cursor *cursor)
{
	int r = check_rings_still_off(log);

	if (!r)
		r = dli_slot_logging_stop(log);
	if (!r)
		r = dli_set_manual_protect(log, cursor->flags & DL_CURSOR_CLEAN);
	if (r)
		return r;
	r = drain_rings(log);
	if (r)
		return dli_log_fail(log, DLI_RINGS_NOT_RESET, DLI_NO_NUMBER, r);
	/* Enabling logging write-protects every page, which covers any pending repair. */
	(void)dli_reset_repair_needed(&log->reset);
	return 0;
}

static int prepare_views(struct dl_cursor *cursor, struct dli_views *views)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&cursor->log->slots));
	struct dli_slot *slot;

	while ((slot = dli_slot_next(&walk))) {
		int r;

		if (!dli_cursor_covers(cursor, slot->slot, slot->flags))
			continue;
		r = dli_views_prepare(views, cursor, slot);
		if (r)
			return dli_log_fail(cursor->log, DLI_NO_MEMORY, slot->slot, r);
	}
	return 0;
}

static int switch_on(struct dl_log *log, const struct dli_views *views)
{
	for (struct dli_view *view = views->first; view; view = view->link) {
		int r = dli_slot_logging_on(log, view->slot);

		if (r)
			return r;
	}
	return 0;
}

/* After the ioctls: a page that is pending before it is protected could be read too early. */
static void set_pending(const struct dl_cursor *cursor, const struct dli_views *views)
{
	for (struct dli_view *view = views->first; view; view = view->link)
		if (cursor->flags & DL_CURSOR_CLEAN)
			dli_owed_mark(&view->slot->owed, view->set);
		else
			dli_page_set_mark_all(view->set);
}

/* Undoes what a failed join has switched on. */
static void undo(struct dl_log *log, struct dli_views *views)
{
	dli_views_drop(views);
	if (!any_logs(log))
		dli_slots_set_logging(&log->slots, false);
	(void)dli_slot_logging_stop(log);
	if (!any_logs(log))
		(void)drain_rings(log);
}

static int log_views(struct dl_cursor *cursor, struct dli_views *views)
{
	struct dl_log *log = cursor->log;
	bool first = !any_logs(log);
	int r;

	/* Record entries from here on; none is pushed before a flag is set below. */
	if (first)
		dli_slots_set_logging(&log->slots, true);
	dli_views_install(views, true);
	r = switch_on(log, views);
	if (r) {
		undo(log, views);
		return r;
	}
	if (first && dli_log_is_ring(log)) {
		dli_reset_repaired(&log->reset);
		dli_pace_note(&log->pace, &log->vcpus, dli_os_now_ns(log->vm.os), true);
		dli_reaper_arm(&log->reaper);
		dli_limits_begin(log);
	}
	set_pending(cursor, views);
	return 0;
}

/* Ids are for tickets: a cursor that comes 32,767 cursors later may have the same. */
static void link_cursor(struct dl_cursor *cursor)
{
	struct dl_log *log = cursor->log;

	cursor->id = log->next_cursor_id++ % 0x7fff + 1;
	cursor->next = log->cursors;
	log->cursors = cursor;
	cursor->attached = true;
}

/* In bitmap mode KVM_GET_DIRTY_LOG has the writes of every vCPU. */
static int check_vcpus(struct dl_log *log, uint32_t vcpus)
{
	uint32_t missing = DLI_NO_NUMBER, added = dli_vcpu_list_count(&log->vcpus);
	int r;

	if (!dli_log_is_ring(log))
		return 0;
	if (added < vcpus)
		return dli_log_fail(log, DLI_FEW_VCPUS, vcpus - added, -EBUSY);
	r = dli_vcpu_check(&missing);
	if (!r)
		return 0;
	return dli_log_fail(log, r == -EBUSY ? DLI_VCPUS_MISSING : DLI_NO_MEMORY, missing, r);
}

static int join_audits(struct dl_cursor *cursor)
{
	int r = dli_missed_join(cursor);

	if (r)
		return dli_log_fail(cursor->log, DLI_NO_MEMORY, DLI_NO_NUMBER, r);
	link_cursor(cursor);
	return 0;
}

int dli_join(struct dl_cursor *cursor, uint32_t vcpus)
{
	struct dl_log *log = cursor->log;
	struct dli_views views = { 0 };
	int r;

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (dli_cursor_is_audit(cursor))
		return join_audits(cursor);
	r = check_vcpus(log, vcpus);
	if (r)
		return r;
	if (!any_logs(log))
		r = prepare_log(log, cursor);
	if (!r)
		r = prepare_views(cursor, &views);
	if (r) {
		dli_views_abandon(&views);
		return r;
	}
	r = log_views(cursor, &views);
	if (!r)
		link_cursor(cursor);
	return r;
}

static void unlink_cursor(struct dl_cursor *cursor)
{
	struct dl_cursor **at = &cursor->log->cursors;

	while (*at != cursor)
		at = &(*at)->next;
	*at = cursor->next;
	cursor->attached = false;
}

void dli_leave(struct dl_cursor *cursor)
{
	struct dl_log *log = cursor->log;
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	struct dli_views views = { 0 };
	struct dli_slot *slot;

	dli_plan_forget_cursor(cursor);
	dli_pass_end(cursor, dli_pass_close(cursor), false);
	unlink_cursor(cursor);
	if (dli_cursor_is_audit(cursor)) {
		dli_missed_leave(cursor);
		return;
	}
	if (!any_logs(log)) {
		dli_slots_set_logging(&log->slots, false);
		dli_reaper_disarm(&log->reaper, dli_limits_may_kick(log));
	}
	while ((slot = dli_slot_next(&walk)))
		dli_views_collect(&views, cursor, slot);
	dli_views_drop(&views);
	(void)dli_slot_logging_stop(log);
	/* Clear the flags first; otherwise the rings would fill again after the drain. */
	if (!any_logs(log))
		(void)drain_rings(log);
}
