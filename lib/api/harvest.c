/* SPDX-License-Identifier: MIT */
/* dl_harvest(): collects, and begins a pass. */

#include "aliases.h"
#include "call.h"
#include "collect.h"
#include "kvm/trace.h"

#include <errno.h>

#define HARVEST_FLAGS (uint32_t)(DL_HARVEST_PAUSED | DL_HARVEST_ALL)

/* Whether the cursor can begin a pass. Under the cursor's lock. */
static int check_state(const struct dl_cursor *cursor)
{
	if (dli_log_is_closed(cursor->log))
		return dli_log_fail(cursor->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (dli_cursor_pass(cursor))
		return dli_log_fail(cursor->log, DLI_PASS_OPEN, DLI_NO_NUMBER, -EBUSY);
	return 0;
}

/* The view that a pass of the cursor walks. */
static struct dli_view *passed_view(const struct dl_cursor *cursor, const struct dli_slot *slot)
{
	struct dli_view *view = dli_cursor_view(cursor, slot);

	return view && !dli_alias_is_whole(cursor, slot) ? view : NULL;
}

static bool covers_something(const struct dl_cursor *cursor)
{
	return !(cursor->flags & DL_CURSOR_ONE_SLOT) ||
	       dli_slot_find(dli_slots_table(&cursor->log->slots), cursor->slot);
}

static void make_all_pending(struct dl_cursor *cursor)
{
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_page_set_mark_all(view->set);
	}
}

static void join_pass(struct dl_cursor *cursor, struct dli_view *view, uint64_t pass)
{
	view->cookie = view->slot->cookie;
	/* Read by acknowledgements of extents, which are handed out later and under a lock. */
	atomic_store_explicit(&view->pass, pass, memory_order_relaxed);
	view->position = cursor->n_order;
	cursor->order[cursor->n_order++] = view;
}

/*
 * Opens a pass over everything that is pending. Slots whose pages are all at home elsewhere have
 * nothing to hand out.
 */
static void open_pass(struct dl_cursor *cursor, bool paused)
{
	uint64_t pass = ++cursor->last_pass & PASS_MASK;
	const struct dli_slot_table *table = dli_slots_table(&cursor->log->slots);
	struct dli_slot *slot;

	/* 0 is no pass. */
	if (!pass)
		pass = ++cursor->last_pass & PASS_MASK;
	cursor->n_order = cursor->at = 0;
	cursor->next_block = 0;
	cursor->word = cursor->batch.n = 0;
	cursor->held.pages = 0;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		struct dli_view *view = passed_view(cursor, slot);

		if (view)
			join_pass(cursor, view, pass);
	}
	cursor->paused = paused;
	if (paused)
		atomic_fetch_add_explicit(&cursor->log->paused_passes, 1, memory_order_relaxed);
	atomic_store_explicit(&cursor->pass, pass, memory_order_relaxed);
	atomic_fetch_add_explicit(&cursor->passes, 1, memory_order_relaxed);
}

/* Under both locks. rings: the result of draining them. */
static int begin_pass(struct dl_cursor *cursor, uint32_t flags, int rings)
{
	const struct dli_scope scope = { .cursor = cursor };
	bool last = flags & DL_HARVEST_PAUSED;
	int r;

	if (!covers_something(cursor))
		return dli_log_fail(cursor->log, DLI_NO_SLOT, cursor->slot, -ENOENT);
	r = dli_collect(cursor->log, &scope, last, rings);
	if (r)
		return r;
	if (flags & DL_HARVEST_ALL)
		make_all_pending(cursor);
	/* Aliases' pages are moved between the views' own sets. */
	if (cursor->log->aliased)
		dli_cursor_distribute(cursor);
	else
		dli_cursor_catch_up(cursor);
	r = dli_aliases_move(cursor);
	if (!r)
		open_pass(cursor, last);
	return r;
}

/* Under the cursor's lock. */
static int harvest(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes)
{
	struct dl_log *log = cursor->log;
	int r = check_state(cursor), rings;

	if (r)
		return r;
	rings = dli_cursor_is_audit(cursor) ? 0 : dli_collect_rings(log, flags & DL_HARVEST_PAUSED);
	pthread_mutex_lock(&log->lock);
	r = begin_pass(cursor, flags, rings);
	if (!r && pending_bytes)
		*pending_bytes = dli_cursor_pending_pages(cursor) << cursor->page_shift;
	pthread_mutex_unlock(&log->lock);
	return r;
}

int dl_harvest(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes)
{
	struct dli_call call;
	int r;

	if (!cursor)
		return -EINVAL;
	if (flags & ~HARVEST_FLAGS || (flags & DL_HARVEST_ALL && dli_cursor_is_audit(cursor)))
		return dli_log_fail(cursor->log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	r = dli_cursor_enter(&call, cursor);
	if (r)
		return r;
	DLI_TRACE_HARVEST_BEGIN(cursor->log, cursor, flags);
	r = harvest(cursor, flags, pending_bytes);
	DLI_TRACE_HARVEST_END(cursor->log, cursor, r,
			      r || !pending_bytes ? UINT64_MAX : *pending_bytes);
	dli_cursor_leave(&call, cursor);
	return r;
}
