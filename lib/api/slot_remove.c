/* SPDX-License-Identifier: MIT */
/* dl_slot_remove(): a memslot goes, and its pages with it. */

#include "aliases.h"
#include "call.h"
#include "collect.h"
#include "coverage.h"
#include "kvm/memslot.h"
#include "pages/bits.h"
#include "ring/drain.h"
#include "watch.h"

#include <errno.h>

static int delete_from_kvm(struct dl_log *log, const struct dli_slot *slot)
{
	const struct dli_memslot memslot = {
		.slot = slot->slot,
		.kvm_flags = slot->kvm_flags,
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.hva = slot->hva,
	};
	int r = dli_memslot_delete(&log->vm, &memslot);

	return r < 0 ? dli_log_fail(log, DLI_REGION_NOT_DELETED, slot->slot, r) : 0;
}

/*
 * Reads ring entries that name this slot while the table still has it: the number may be reused for
 * another slot. False if some of them are not known: they are read again later, and then skipped or
 * over-reported. With the vCPUs paused a dirty cell that is left shows that a ring is out of sync.
 */
static bool collect_rings(struct dl_log *log, bool paused)
{
	if (!dli_log_is_ring(log) || !dli_log_is_on(log))
		return true;
	return !dli_drain_all(&log->vcpus, &log->reset, paused, &log->slots) &&
	       !dli_reset_repair_needed(&log->reset);
}

/* The last pages that the kernel knows of. What cannot be read is wholly dirty. */
static void collect_bitmap(struct dl_log *log, struct dli_slot *slot)
{
	if (slot->watched_at)
		(void)dli_watch_scan(log, slot);
	if (slot->logged && slot->views && dli_collects_bitmaps(log, true))
		(void)dli_collect_bitmap(log, slot);
}

static void leave_passes(struct dl_log *log, struct dli_slot *slot)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		struct dli_view *view = dli_slot_view(slot, cursor);

		if (view)
			dli_pass_leave(cursor, view);
	}
}

/* Memory that older slots map too is still the guest's. */
static void leave_to_older(struct dl_log *log, struct dli_slot *slot, bool known)
{
	dli_slot_distribute(slot);
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		dli_aliases_inherit(cursor, slot, known);
}

static void drop_slot(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_views views = { 0 };

	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		dli_views_collect(&views, cursor, slot);
	dli_views_drop(&views);
	dli_slot_free(slot);
}

/* known: nothing that was written is missing in the sets. */
static void fill_words(struct dli_slot *slot, bool known, uint64_t *words)
{
	uint64_t n = divide_up(slot->pages, 64);

	if (known) {
		dli_slot_move_to_words(slot, words);
		return;
	}
	for (uint64_t word = 0; word < n; word++)
		words[word] |= range_bits(word, 0, slot->pages);
}

static int remove_slot(struct dl_log *log, struct dli_slot *slot, uint32_t flags, uint64_t *words)
{
	struct dli_slot_table *table = dli_slots_prepare(&log->slots, slot, NULL, 0);
	bool paused = flags & DL_REMOVE_PAUSED, known;
	int r;

	if (!table)
		return dli_log_fail(log, DLI_NO_MEMORY, slot->slot, -ENOMEM);
	if (paused && (words || slot->n_aliases))
		collect_bitmap(log, slot);
	r = delete_from_kvm(log, slot);
	if (r) {
		dli_slot_table_free(table);
		return r;
	}
	known = collect_rings(log, paused);
	dli_watch_end(log, slot, false);
	leave_passes(log, slot);
	dli_aliases_remove(log, slot);
	/* No marker finds the slot after this. */
	dli_slot_table_free(dli_slots_publish(&log->slots, table));
	leave_to_older(log, slot, known && paused);
	/* With running vCPUs a write between the last look and the delete is recorded nowhere. */
	if (words && slot->views)
		fill_words(slot, known && paused, words);
	drop_slot(log, slot);
	return 0;
}

static int find_and_remove(struct dl_log *log, uint32_t number, uint32_t flags, uint64_t *words,
			   uint64_t n_words)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, number, -ECANCELED);
	if (!slot)
		return dli_log_fail(log, DLI_NO_SLOT, number, -ENOENT);
	if (words && n_words < divide_up(slot->pages, 64))
		return dli_log_fail(log, DLI_BAD_WORDS, number, -EINVAL);
	return remove_slot(log, slot, flags, words);
}

int dl_slot_remove(struct dl_log *log, uint32_t slot, uint32_t flags, uint64_t *words,
		   uint64_t n_words)
{
	struct dli_call call;
	int r;

	if (!log)
		return -EINVAL;
	if (flags & ~(uint32_t)DL_REMOVE_PAUSED)
		return dli_log_fail(log, DLI_BAD_FLAGS, slot, -EINVAL);
	if (!words && n_words)
		return dli_log_fail(log, DLI_BAD_WORDS, slot, -EINVAL);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	dli_changes_begin(log);
	r = find_and_remove(log, slot, flags, words, n_words);
	dli_changes_end(log);
	dli_call_end(&call);
	return r;
}
