/* SPDX-License-Identifier: MIT */
/* The views of a slot: who gets the pages that are marked. */

#include "pages/view.h"

#include <errno.h>
#include <stdlib.h>

int dli_view_new(struct dli_slot *slot, const struct dl_cursor *cursor, const struct dl_os *os,
		 bool shared, struct dli_view **out)
{
	struct dli_view *view;
	int r = 0;

	if (shared && !slot->fresh)
		r = dli_page_set_new(os, slot->pages, &slot->fresh);
	if (r)
		return r;
	view = dli_allocate(1, sizeof(*view));
	if (!view)
		return -ENOMEM;
	r = dli_page_set_new(os, slot->pages, &view->set);
	if (r) {
		free(view);
		return r;
	}
	view->slot = slot;
	view->cursor = cursor;
	*out = view;
	return 0;
}

void dli_view_free(struct dli_view *view)
{
	dli_page_set_free(view->set);
	free(view);
}

/* Pairs with dli_slot_target(): the set is complete. */
static void set_target(struct dli_slot *slot, struct dli_page_set *set)
{
	atomic_store_explicit(&slot->target, set, memory_order_release);
}

void dli_slot_share(struct dli_slot *slot)
{
	set_target(slot, slot->fresh);
}

void dli_view_attach(struct dli_view *view)
{
	struct dli_slot *slot = view->slot;

	view->next = slot->views;
	slot->views = view;
	if (!dli_slot_target(slot))
		set_target(slot, view->set);
}

void dli_view_detach(struct dli_view *view)
{
	struct dli_slot *slot = view->slot;
	struct dli_view **at = &slot->views;

	dli_slot_distribute(slot);
	while (*at != view)
		at = &(*at)->next;
	*at = view->next;
	if (atomic_load_explicit(&slot->planned, memory_order_relaxed) == view->set)
		dli_view_set_planned(view, false);
	if (!slot->views)
		set_target(slot, NULL);
	else if (!slot->views->next)
		set_target(slot, slot->views->set);
}

void dli_view_set_planned(struct dli_view *view, bool planned)
{
	/* Pairs with dli_slot_planned(). */
	atomic_store_explicit(&view->slot->planned, planned ? view->set : NULL,
			      memory_order_release);
}

static struct dli_view *find(struct dli_view *view, const struct dl_cursor *cursor)
{
	while (view && view->cursor != cursor)
		view = view->next;
	return view;
}

struct dli_view *dli_slot_view(const struct dli_slot *slot, const struct dl_cursor *cursor)
{
	return find(slot->views, cursor);
}

struct dli_view *dli_slot_missed_view(const struct dli_slot *slot, const struct dl_cursor *cursor)
{
	return find(slot->missed, cursor);
}

/*
 * Markers use the fresh set, so that nothing else marks the views' sets while the log's lock is
 * held. Otherwise they use the only view's set, and fresh has what late ones left there.
 */
static bool is_shared(const struct dli_slot *slot)
{
	return slot->fresh && dli_slot_target(slot) == slot->fresh;
}

void dli_slot_distribute(struct dli_slot *slot)
{
	bool alone = is_shared(slot);
	struct dli_batch batch;
	uint64_t block = 0, pages;

	if (!slot->fresh)
		return;
	while ((pages = dli_page_set_move(slot->fresh, &block, &batch))) {
		for (struct dli_view *view = slot->views; view; view = view->next)
			if (alone)
				dli_page_set_mark_alone(view->set, &batch);
			else
				(void)dli_page_set_mark_batch(view->set, &batch);
		dli_page_set_moved(slot->fresh, pages);
	}
}

uint64_t dli_view_pending_pages(const struct dli_view *view)
{
	uint64_t pages = dli_page_set_pending_pages(view->set);
	const struct dli_page_set *target = dli_slot_target(view->slot);

	if (pages || !target)
		return pages;
	pages = dli_page_set_pending_pages(target);
	/* Pages that have just left the fresh set are in the own one by now. */
	return pages ? pages : dli_page_set_pending_pages(view->set);
}

void dli_view_catch_up(struct dli_view *view)
{
	if (dli_page_set_pending_pages(view->set))
		dli_slot_distribute(view->slot);
}

/* Takes from the fresh set. The other views get the pages too: they have not seen them. */
static bool take_fresh(struct dli_view *view, uint64_t *block, bool one_chunk,
		       struct dli_batch *batch)
{
	struct dli_slot *slot = view->slot;
	uint64_t pages = dli_page_set_take_from(view->set, slot->fresh, block, one_chunk, batch);

	if (!pages)
		return false;
	for (struct dli_view *other = slot->views; other; other = other->next)
		if (other != view)
			dli_page_set_mark_alone(other->set, batch);
	dli_page_set_moved(slot->fresh, pages);
	return true;
}

bool dli_view_take(struct dli_view *view, uint64_t *block, bool one_chunk, struct dli_batch *batch)
{
	bool alone = is_shared(view->slot);

	if (alone && !dli_page_set_pending_pages(view->set))
		return take_fresh(view, block, one_chunk, batch);
	if (alone)
		dli_slot_distribute(view->slot);
	return dli_page_set_take(view->set, block, one_chunk, batch);
}

uint64_t dli_slot_mark_all(struct dli_slot *slot)
{
	struct dli_page_set *target = dli_slot_target(slot);

	return target ? dli_page_set_mark_all(target) : 0;
}

void dli_slot_move_to_words(struct dli_slot *slot, uint64_t *words)
{
	dli_slot_distribute(slot);
	for (struct dli_view *view = slot->views; view; view = view->next)
		dli_page_set_move_to_words(view->set, words);
}
