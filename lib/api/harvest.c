/* SPDX-License-Identifier: MIT */
/* dl_harvest(), dl_log_harvest_due(). */

#include "call.h"
#include "pages/bitmap_merge.h"
#include "ring/drain.h"
#include "slot_logging.h"

#include <errno.h>

/*
 * A ring lost entries, or a reset consumed entries without protecting their pages: unknown pages
 * may be writable without being logged. Re-protect all pages, and only then mark them: a page that
 * is marked first could be handed out and read while it can still be written unseen. The final pass
 * repairs too, although nothing writes then: the guest may be resumed.
 */
static int repair(struct dl_log *log)
{
	int r = dli_slot_logging_restart(log);

	if (r)
		return r;
	dli_mark_all_slots(log);
	dli_reset_repaired(&log->reset);
	return 0;
}

static int harvest_bitmap(struct dl_log *log, struct dli_slot *slot)
{
	uint64_t *words = dli_bitmap_at(&log->buffer, slot->pages), new_pages;
	int r = dli_bitmap_get(&log->vm, slot->slot, words);

	if (r < 0) {
		/* GET may fail after it has cleared the kernel's bits. */
		dli_log_note_failure(log, "the bitmap could not be read", slot->slot, r);
		dli_page_set_mark_all(slot->set);
		return r;
	}
	new_pages = dli_page_set_merge(slot->set, words);
	atomic_fetch_add_explicit(&log->bitmap_new_pages, new_pages, memory_order_relaxed);
	return 0;
}

/* Continues after a failure, and returns the first one. */
static int harvest_bitmaps(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;
	int first = 0;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		int r = slot->logged ? harvest_bitmap(log, slot) : 0;

		if (r && !first)
			first = r;
	}
	return first;
}

static uint64_t pending_bytes_of(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;
	uint64_t pages = 0;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		pages += dli_page_set_pending_pages(slot->set);
	for (slot = log->slots.retired; slot; slot = slot->next_retired)
		pages += dli_page_set_pending_pages(slot->set);
	return pages * log->caps.page_bytes;
}

/* After all rings are drained: records the pace, and repairs if that was requested. */
static int finish_rings(struct dl_log *log)
{
	dli_pace_note(&log->pace, &log->vcpus, false);
	return dli_reset_repair_needed(&log->reset) ? repair(log) : 0;
}

static int harvest(struct dl_log *log, bool last, int rings)
{
	int bitmaps = 0, missing;

	if (!dli_log_is_on(log))
		return -ECANCELED;
	missing = dli_slot_logging_resume(log);
	if (dli_log_is_ring(log) && !rings)
		rings = finish_rings(log);
	/* The backup bitmap comes last: its writers have no vCPU, and may write after the vCPUs. */
	if (!dli_log_is_ring(log) || (last && log->caps.backup))
		bitmaps = harvest_bitmaps(log);
	if (missing)
		return missing;
	return rings ? rings : bitmaps;
}

int dl_harvest(struct dl_log *log, uint32_t flags, uint64_t *pending_bytes)
{
	bool last = flags & DL_HARVEST_FINAL;
	struct dli_call call;
	int rings = 0, r;

	if (!log || flags & ~(uint32_t)DL_HARVEST_FINAL)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	/* Drain before taking the lock, so that concurrent harvests share the rings. */
	if (dli_log_is_ring(log) && dli_log_is_on(log))
		rings = dli_drain_all(&log->vcpus, &log->reset, last, &log->slots);
	pthread_mutex_lock(&log->lock);
	r = harvest(log, last, rings);
	if (!r && pending_bytes)
		*pending_bytes = pending_bytes_of(log);
	pthread_mutex_unlock(&log->lock);
	dli_call_end(&call);
	return r;
}

int dl_log_harvest_due(struct dl_log *log, uint64_t *from_now_ns)
{
	if (!log || !from_now_ns)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	if (!dli_log_is_on(log))
		return -ECANCELED;
	*from_now_ns = dli_pace_until_due(&log->pace, &log->vcpus);
	return 0;
}
