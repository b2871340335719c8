/* SPDX-License-Identifier: MIT */
/* Rings, repairs and bitmaps become pending pages. */

#include "collect.h"

#include "aliases.h"
#include "kvm/trace.h"
#include "throttle.h"
#include "pages/bitmap_merge.h"
#include "ring/drain.h"
#include "slot_logging.h"
#include "watch.h"

int dli_collect_rings(struct dl_log *log, bool last)
{
	uint64_t began_ns;
	int r;

	if (!dli_log_is_ring(log) || !dli_log_is_on(log))
		return 0;
	began_ns = dli_os_now_ns(log->vm.os);
	r = dli_drain_all(&log->vcpus, &log->reset, last, &log->slots);
	if (r)
		return dli_log_fail(log, DLI_RINGS_NOT_RESET, DLI_NO_NUMBER, r);
	dli_pace_note(&log->pace, &log->vcpus, began_ns, false);
	(void)dli_limits_look(log, true);
	return 0;
}

/*
 * A ring lost entries, or a reset consumed entries without protecting their pages: unknown pages
 * may be writable without being logged. Re-protect all pages, and only then mark them: a page that
 * is marked first could be handed out and read while it can still be written unseen. A harvest with
 * the vCPUs stopped repairs too, although nothing writes then: the guest may be resumed.
 */
static int repair(struct dl_log *log)
{
	int r = dli_slot_logging_restart(log);
	uint64_t pages = r ? 0 : dli_mark_all_slots(log);

	DLI_TRACE_REPAIR(log, r, pages);
	if (r)
		return r;
	atomic_fetch_add_explicit(&log->repair_pages, pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&log->repairs, 1, memory_order_relaxed);
	dli_reset_repaired(&log->reset);
	return 0;
}

int dli_collect_bitmap(struct dl_log *log, struct dli_slot *slot)
{
	uint64_t *words = dli_bitmap_at(&log->buffer, slot->pages), new_pages;
	int r = dli_bitmap_get(&log->vm, slot->slot, words);

	if (r < 0) {
		/* GET may fail after it has cleared the kernel's bits. */
		(void)dli_slot_mark_all(slot);
		return dli_log_fail(log, DLI_BITMAP_NOT_READ, slot->slot, r);
	}
	slot->read_ns = dli_os_now_ns(log->vm.os);
	new_pages = dli_slot_merge(slot, words);
	if (!dli_slots_count_new(&log->slots, slot))
		return 0;
	atomic_fetch_add_explicit(&log->bitmap_new_pages, new_pages, memory_order_relaxed);
	return 0;
}

/* Reads a slot's bitmap and scans its watch. */
static int collect_slot(struct dl_log *log, const struct dl_cursor *cursor, bool bitmaps,
			struct dli_slot *slot)
{
	int bitmap = 0, watch = 0;

	if (bitmaps && slot->logged && dli_slot_view(slot, cursor))
		bitmap = dli_collect_bitmap(log, slot);
	if (slot->watched_at && dli_cursor_view(cursor, slot))
		watch = dli_watch_scan(log, slot);
	return bitmap ? bitmap : watch;
}

static int collect_slots(struct dl_log *log, const struct dl_cursor *cursor, bool bitmaps)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	struct dli_slot *slot;
	int first = 0;

	while ((slot = dli_slot_next(&walk))) {
		int r = collect_slot(log, cursor, bitmaps, slot);

		first = first ? first : r;
	}
	return first;
}

/* A slot's pages can be found in younger slots over the same memory, and then move to it. */
static int collect_for(struct dl_log *log, const struct dl_cursor *cursor, bool bitmaps,
		       const struct dli_slot *home)
{
	struct dli_slot_hva_walk walk = dli_alias_walk(log, home);
	struct dli_slot *slot;
	int first = 0;

	while ((slot = dli_slot_hva_next(&walk))) {
		bool in_scope = slot == home || dli_alias_shares(slot, home);
		int r = in_scope ? collect_slot(log, cursor, bitmaps, slot) : 0;

		first = first ? first : r;
	}
	return first;
}

/* Whoever writes, and whether the guest runs, bitmaps do not say. */
static void sample_bitmaps(struct dl_log *log)
{
	uint64_t now_ns = dli_os_now_ns(log->vm.os);
	uint64_t pages = atomic_load_explicit(&log->bitmap_new_pages, memory_order_relaxed);
	const struct dli_sample sample = {
		.at_ns = now_ns, .ran_ns = now_ns, .new_pages = pages, .entries = pages
	};

	dli_window_add(&log->window, &sample);
}

int dli_collect(struct dl_log *log, const struct dli_scope *scope, bool last, int rings)
{
	const struct dl_cursor *cursor = scope->cursor;
	bool bitmaps = dli_collects_bitmaps(log, last);
	int slots = 0;

	if (dli_log_is_ring(log) && !dli_cursor_is_audit(cursor) && !rings &&
	    dli_reset_repair_needed(&log->reset))
		rings = repair(log);
	/* The backup bitmap comes last: its writers have no vCPU, and may write after the vCPUs. */
	if (bitmaps || log->watcher.watches)
		slots = scope->slot ? collect_for(log, cursor, bitmaps, scope->slot)
				    : collect_slots(log, cursor, bitmaps);
	if (!dli_log_is_ring(log) && !dli_cursor_is_audit(cursor))
		sample_bitmaps(log);
	return rings ? rings : slots;
}
