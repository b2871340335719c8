/* SPDX-License-Identifier: MIT */
/* Views come and go: with a cursor, with a slot, with DL_SLOT_WANTED. */

#include "coverage.h"

#include "pages/rcu.h"
#include "slot_logging.h"

static void append(struct dli_views *views, struct dli_view *view)
{
	view->link = NULL;
	if (views->last)
		views->last->link = view;
	else
		views->first = view;
	views->last = view;
}

int dli_views_prepare(struct dli_views *views, struct dl_cursor *cursor, struct dli_slot *slot)
{
	const struct dl_os *os = cursor->log->vm.os;
	/* A list is of one cursor or of one slot. */
	bool shared = slot->views || (views->first && views->first->slot == slot);
	struct dli_view *view;
	int r = dli_reserve_bitmap(cursor->log, slot->pages);

	if (!r && cursor->log->clear_in_chunks)
		r = dli_owed_init(&slot->owed, os, slot->pages);
	if (!r)
		r = dli_view_new(slot, cursor, os, shared, &view);
	if (r)
		return r;
	if (cursor->skips)
		r = dli_page_set_watch(view->set);
	if (!r)
		r = dli_cursor_register(cursor, view);
	if (r) {
		dli_view_free(view);
		return r;
	}
	append(views, view);
	return 0;
}

/* True if the slot gets its second view with this one or with the next. */
static bool must_be_shared(const struct dli_view *view)
{
	if (view->slot->views)
		return !view->slot->views->next;
	return view->link && view->link->slot == view->slot;
}

void dli_views_install(struct dli_views *views, bool live)
{
	bool shared = false;

	for (struct dli_view *view = views->first; view; view = view->link) {
		if (must_be_shared(view))
			dli_slot_share(view->slot);
		shared |= view->slot->views != NULL;
	}
	/* A marker that still uses the only view's set would not mark for the new views. */
	if (live && shared)
		dli_rcu_synchronize();
	for (struct dli_view *view = views->first; view; view = view->link) {
		/* Pages that were marked before the view is attached go to the other views only. */
		dli_slot_distribute(view->slot);
		dli_view_attach(view);
		if (view->cursor->planned)
			dli_view_set_planned(view, true);
	}
}

/* The cursor is constant for markers, and theirs to change under the log's lock. */
static struct dl_cursor *owner(const struct dli_view *view)
{
	return (struct dl_cursor *)view->cursor;
}

static void free_views(struct dli_views *views)
{
	while (views->first) {
		struct dli_view *view = views->first;

		views->first = view->link;
		dli_view_free(view);
	}
	views->last = NULL;
}

void dli_views_abandon(struct dli_views *views)
{
	if (!views->first)
		return;
	for (struct dli_view *view = views->first; view; view = view->link)
		dli_cursor_unregister(owner(view), view);
	/* dl_cursor_stats() may have found them. */
	dli_rcu_synchronize();
	free_views(views);
}

void dli_views_collect(struct dli_views *views, struct dl_cursor *cursor, struct dli_slot *slot)
{
	struct dli_view *view = dli_slot_view(slot, cursor);

	if (view)
		append(views, view);
}

void dli_views_drop(struct dli_views *views)
{
	if (!views->first)
		return;
	for (struct dli_view *view = views->first; view; view = view->link) {
		dli_view_detach(view);
		dli_cursor_unregister(owner(view), view);
	}
	dli_rcu_synchronize();
	/* Markers that had begun before may have marked the fresh set once more. */
	for (struct dli_view *view = views->first; view; view = view->link)
		dli_slot_distribute(view->slot);
	free_views(views);
}
