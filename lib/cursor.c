/* SPDX-License-Identifier: MIT */
/* One consumer: its views, and its pass. */

#include "cursor.h"

#include "pages/rcu.h"
#include "slot_logging.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The registry and the order. Address space: it gets memory as views come. */
static int reserve_views(struct dl_cursor *cursor, const struct dl_os *os)
{
	size_t bytes = MAX_VIEWS * sizeof(struct dli_view *);
	int r = dli_os_reserve(os, 2 * bytes, &cursor->memory);

	if (r)
		return r;
	cursor->memory_bytes = 2 * bytes;
	cursor->views = cursor->memory;
	cursor->order = (struct dli_view **)((char *)cursor->memory + bytes);
	return 0;
}

/* Rounds a size down to pages, at least one; 0 means no limit. */
static uint64_t max_pages(uint64_t bytes, uint32_t page_shift)
{
	if (!bytes)
		return UINT64_MAX;
	return bytes >> page_shift ? bytes >> page_shift : 1;
}

int dli_cursor_new(struct dl_log *log, const struct dl_cursor_options *options,
		   struct dl_cursor **out)
{
	struct dl_cursor *cursor = dli_allocate(1, sizeof(*cursor));
	int r;

	if (!cursor)
		return -ENOMEM;
	cursor->log = log;
	cursor->flags = options->flags;
	cursor->slot = options->slot;
	/* A bitmap does not say that a page was written twice. */
	cursor->skips = options->flags & DL_CURSOR_SKIP_REWRITTEN && dli_log_is_ring(log);
	cursor->page_shift = (uint32_t)__builtin_ctz(log->caps.page_bytes);
	cursor->coalesce_pages = options->coalesce_bytes >> cursor->page_shift;
	cursor->max_pages = max_pages(options->max_extent_bytes, cursor->page_shift);
	r = reserve_views(cursor, log->vm.os);
	if (r)
		goto no_views;
	r = -pthread_mutex_init(&cursor->lock, NULL);
	if (r)
		goto no_lock;
	dli_log_get(log);
	*out = cursor;
	return 0;
no_lock:
	dli_os_unmap(log->vm.os, cursor->memory, cursor->memory_bytes);
no_views:
	free(cursor);
	return r;
}

void dli_cursor_delete(struct dl_cursor *cursor)
{
	struct dl_log *log = cursor->log;

	dli_os_unmap(log->vm.os, cursor->memory, cursor->memory_bytes);
	pthread_mutex_destroy(&cursor->lock);
	free(cursor);
	dli_log_put(log);
}

bool dli_cursor_covers(const struct dl_cursor *cursor, uint32_t slot, uint32_t flags)
{
	return !dli_cursor_is_audit(cursor) && dli_cursor_wants(cursor, slot, flags);
}

bool dli_cursor_wants(const struct dl_cursor *cursor, uint32_t slot, uint32_t flags)
{
	if (flags & DL_SLOT_NO_LOG)
		return false;
	if (cursor->flags & DL_CURSOR_ONE_SLOT)
		return slot == cursor->slot;
	return !(cursor->flags & DL_CURSOR_WANTED) || flags & DL_SLOT_WANTED;
}

int dli_cursor_register(struct dl_cursor *cursor, struct dli_view *view)
{
	uint32_t n = dli_cursor_count(cursor), i = cursor->first_free;

	while (i < n && dli_cursor_view_at(cursor, i))
		i++;
	if (i == MAX_VIEWS)
		return -ENOMEM;
	view->index = i;
	cursor->first_free = i + 1;
	/* Both pair with their readers above. */
	atomic_store_explicit(&cursor->views[i], view, memory_order_release);
	if (i == n)
		atomic_store_explicit(&cursor->n_views, n + 1, memory_order_release);
	return 0;
}

void dli_cursor_unregister(struct dl_cursor *cursor, struct dli_view *view)
{
	atomic_store_explicit(&cursor->views[view->index], NULL, memory_order_relaxed);
	if (view->index < cursor->first_free)
		cursor->first_free = view->index;
}

uint64_t dli_cursor_pending_pages(const struct dl_cursor *cursor)
{
	uint64_t pages = 0;

	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		const struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (!view)
			continue;
		/* An audit's findings are in the view's own set alone. */
		pages += dli_cursor_is_audit(cursor) ? dli_page_set_pending_pages(view->set)
						     : dli_view_pending_pages(view);
	}
	return pages;
}

uint64_t dli_cursor_in_flight_pages(const struct dl_cursor *cursor)
{
	uint64_t pages = 0;

	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		const struct dli_view *view = dli_cursor_view_at(cursor, i);

		pages += view ? dli_page_set_in_flight_pages(view->set) : 0;
	}
	return pages;
}

void dli_changes_begin(struct dl_log *log)
{
	pthread_mutex_lock(&log->changes);
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		pthread_mutex_lock(&cursor->lock);
	pthread_mutex_lock(&log->lock);
}

void dli_changes_end(struct dl_log *log)
{
	pthread_mutex_unlock(&log->lock);
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		pthread_mutex_unlock(&cursor->lock);
	pthread_mutex_unlock(&log->changes);
}

bool dli_any_pass_open(const struct dl_log *log)
{
	for (const struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		if (dli_cursor_pass(cursor))
			return true;
	return false;
}

void dli_cursor_catch_up(struct dl_cursor *cursor)
{
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_view_catch_up(view);
	}
}

void dli_cursor_set_planned(struct dl_cursor *cursor, bool planned)
{
	cursor->planned = planned;
	/* Pairs with nothing: see dli_slots_count_new(). */
	atomic_store_explicit(&cursor->log->slots.planned, planned, memory_order_relaxed);
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_view_set_planned(view, planned);
	}
}

void dli_cursor_distribute(struct dl_cursor *cursor)
{
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_slot_distribute(view->slot);
	}
}

/* Makes pages pending again that were read ahead of what was handed out. */
static void unclaim_rest(struct dl_cursor *cursor)
{
	struct dli_batch *batch = &cursor->batch;
	uint32_t n = batch->n - cursor->word;
	struct dli_run *held = &cursor->held;
	struct dli_page_set *set;
	uint64_t pages = 0;

	if (!n && !held->pages)
		return;
	set = cursor->order[cursor->at]->set;
	memmove(batch->word, batch->word + cursor->word, n * sizeof(batch->word[0]));
	memmove(batch->bits, batch->bits + cursor->word, n * sizeof(batch->bits[0]));
	batch->n = n;
	dli_page_set_unclaim(set, batch);
	if (held->pages) {
		dli_page_set_mark_range(set, held->first_page, held->pages);
		(void)dli_page_set_ack(set, held->first_page, held->pages, &pages);
		dli_page_set_count_acked(set, pages);
	}
	held->pages = 0;
	cursor->word = batch->n = 0;
}

uint64_t dli_pass_close(struct dl_cursor *cursor)
{
	uint64_t pass = dli_cursor_pass(cursor);

	/*
	 * Pairs with enter_ack(): one of the two sees the other. And with leave_ack(): what an
	 * acknowledgement that is over has cleared was cleared before the next pass.
	 */
	atomic_store_explicit(&cursor->pass, 0, memory_order_seq_cst);
	/* Most passes end with no acknowledgement in progress, and need no grace period. */
	if (atomic_load_explicit(&cursor->acks, memory_order_seq_cst))
		dli_rcu_synchronize();
	return pass;
}

/* The first pass is over: what it left out is handed out by the next one. */
static void stop_skipping(struct dl_cursor *cursor)
{
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_page_set_unwatch(view->set);
	}
	cursor->skips = false;
}

void dli_pass_end(struct dl_cursor *cursor, uint64_t pass, bool commit)
{
	uint64_t committed = 0;

	unclaim_rest(cursor);
	for (uint32_t i = 0; i < cursor->n_order; i++) {
		struct dli_view *view = cursor->order[i];

		if (!view || atomic_load_explicit(&view->pass, memory_order_relaxed) != pass)
			continue;
		atomic_store_explicit(&view->pass, 0, memory_order_relaxed);
		committed += dli_page_set_in_flight_pages(view->set);
		if (commit)
			dli_page_set_commit(view->set);
		else
			dli_page_set_requeue(view->set);
	}
	if (commit)
		atomic_fetch_add_explicit(&cursor->acked_pages, committed, memory_order_relaxed);
	if (cursor->paused)
		atomic_fetch_sub_explicit(&cursor->log->paused_passes, 1, memory_order_relaxed);
	cursor->paused = false;
	cursor->n_order = cursor->at = 0;
	if (pass && cursor->skips)
		stop_skipping(cursor);
}

void dli_pass_leave(struct dl_cursor *cursor, struct dli_view *view)
{
	uint64_t pass = dli_cursor_pass(cursor);

	if (!pass || atomic_load_explicit(&view->pass, memory_order_relaxed) != pass)
		return;
	atomic_store_explicit(&view->pass, 0, memory_order_relaxed);
	cursor->order[view->position] = NULL;
	if (view->position == cursor->at) {
		cursor->word = cursor->batch.n = 0;
		cursor->held.pages = 0;
		cursor->next_block = 0;
	}
}

void dli_pass_restart_view(struct dl_cursor *cursor, struct dli_view *view)
{
	dli_pass_leave(cursor, view);
	dli_page_set_requeue(view->set);
	dli_page_set_mark_all(view->set);
}

void dli_pass_restart_slot(struct dl_log *log, struct dli_slot *slot)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		struct dli_view *view = dli_slot_view(slot, cursor);

		if (view)
			dli_pass_restart_view(cursor, view);
	}
}
