/* SPDX-License-Identifier: MIT */
/* Hands pages that an audit found unmarked to DL_CURSOR_MISSED cursors. */

#include "missed.h"

#include "pages/bits.h"
#include "pages/rcu.h"

static int cover(struct dl_cursor *cursor, struct dli_slot *slot)
{
	struct dli_view *view;
	int r;

	if (!dli_cursor_is_audit(cursor) || !dli_slot_audit(slot) ||
	    !dli_cursor_wants(cursor, slot->slot, slot->flags))
		return 0;
	r = dli_view_new(slot, cursor, cursor->log->vm.os, false, &view);
	if (r)
		return r;
	r = dli_cursor_register(cursor, view);
	if (r) {
		dli_view_free(view);
		return r;
	}
	view->next = slot->missed;
	slot->missed = view;
	return 0;
}

/* Takes a cursor's view of a slot off it, onto a list. */
static void unlink_view(struct dli_slot *slot, struct dl_cursor *cursor, struct dli_view **list)
{
	struct dli_view **at = &slot->missed, *view;

	while (*at && (*at)->cursor != cursor)
		at = &(*at)->next;
	view = *at;
	if (!view)
		return;
	dli_pass_leave(cursor, view);
	*at = view->next;
	dli_cursor_unregister(cursor, view);
	view->link = *list;
	*list = view;
}

/* Statistics and acknowledgements may have found them. */
static void free_views(struct dli_view *list)
{
	if (list)
		dli_rcu_synchronize();
	while (list) {
		struct dli_view *view = list;

		list = view->link;
		dli_view_free(view);
	}
}

int dli_missed_join(struct dl_cursor *cursor)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&cursor->log->slots));
	struct dli_slot *slot;
	int r = 0;

	while (!r && (slot = dli_slot_next(&walk)))
		r = cover(cursor, slot);
	if (r)
		dli_missed_leave(cursor);
	return r;
}

void dli_missed_leave(struct dl_cursor *cursor)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&cursor->log->slots));
	struct dli_view *list = NULL;
	struct dli_slot *slot;

	while ((slot = dli_slot_next(&walk)))
		unlink_view(slot, cursor, &list);
	free_views(list);
}

int dli_missed_cover(struct dl_log *log, struct dli_slot *slot)
{
	struct dl_cursor *cursor = log->cursors;
	int r = 0;

	for (; !r && cursor; cursor = cursor->next)
		r = cover(cursor, slot);
	return r;
}

void dli_missed_uncover(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_view *list = NULL;

	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		unlink_view(slot, cursor, &list);
	free_views(list);
}

void dli_missed_restart(struct dl_log *log, struct dli_slot *slot)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		struct dli_view *view = dli_slot_missed_view(slot, cursor);

		if (!view)
			continue;
		dli_pass_leave(cursor, view);
		dli_page_set_requeue(view->set);
	}
}

uint32_t dli_missed_show(const struct dli_slot *slot, uint64_t word, uint64_t bits)
{
	for (const struct dli_view *view = slot->missed; view; view = view->next)
		dli_page_set_mark_and_count(view->set, word, bits);
	return count_bits(bits);
}
