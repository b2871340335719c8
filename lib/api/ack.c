/* SPDX-License-Identifier: MIT */
/* dl_cursor_ack(), dl_cursor_end(): what becomes of pages that were handed out. */

#include "call.h"
#include "cursor.h"
#include "pages/rcu.h"

#include <errno.h>

/* Finds whose extents are acknowledged: neighbours mostly have the same ticket. */
struct finder {
	const struct dl_cursor *cursor;
	uint64_t pass, mask;
	uint64_t ticket;       /* of the last extent */
	struct dli_view *view; /* of that ticket; NULL: there is nothing to forget */
};

/* One extent of an acknowledgement. */
struct ack {
	struct dli_view *view; /* NULL: there is nothing to forget */
	uint64_t first_page, pages;
};

static struct finder finder_of(const struct dl_cursor *cursor, const struct dl_extent *extents)
{
	return (struct finder){
		.cursor = cursor,
		.pass = dli_cursor_pass(cursor),
		.mask = (UINT64_C(1) << cursor->page_shift) - 1,
		.ticket = ~extents->ticket, /* another than the first one's */
	};
}

/* Inside a read section: the view may be on its way out. */
static enum dli_failure find_view(struct finder *finder, uint64_t ticket)
{
	const struct dl_cursor *cursor = finder->cursor;
	uint32_t index = ticket & ((UINT32_C(1) << TICKET_INDEX_BITS) - 1);

	if (dli_ticket_cursor(ticket) != cursor->id || index >= dli_cursor_count(cursor))
		return DLI_BAD_TICKET;
	finder->ticket = ticket;
	finder->view = NULL;
	if (finder->pass && dli_ticket_pass(ticket) == finder->pass)
		finder->view = dli_cursor_view_at(cursor, index);
	return DLI_FAILED_NOTHING;
}

/*
 * Finds what an extent acknowledges. Returns 0 with no view for an extent of an earlier pass, or of
 * a slot that has changed since.
 */
static inline enum dli_failure find_ack(struct finder *finder, const struct dl_extent *extent,
					struct ack *ack)
{
	uint32_t page_shift = finder->cursor->page_shift;
	struct dli_view *view;

	ack->view = NULL;
	if (extent->ticket != finder->ticket && find_view(finder, extent->ticket))
		return DLI_BAD_TICKET;
	if ((extent->offset_bytes | extent->bytes) & finder->mask)
		return DLI_BAD_ALIGNMENT;
	if (!extent->bytes)
		return DLI_BAD_EXTENT;
	view = finder->view;
	/* For each extent: a slot may change, or the pass end, at any moment. */
	if (!view || atomic_load_explicit(&view->pass, memory_order_relaxed) != finder->pass)
		return DLI_FAILED_NOTHING;
	if (extent->offset_bytes >= view->slot->bytes ||
	    extent->bytes > view->slot->bytes - extent->offset_bytes)
		return DLI_BAD_EXTENT;
	ack->view = view;
	ack->first_page = extent->offset_bytes >> page_shift;
	ack->pages = extent->bytes >> page_shift;
	return DLI_FAILED_NOTHING;
}

/*
 * True if pages of the pass are not in flight. A change of their slot may have taken them just now:
 * it takes the view out of the pass first, and whoever finds the pages gone also sees that.
 */
static bool is_unknown(const struct finder *finder, const struct ack *ack)
{
	return !dli_page_set_in_flight(ack->view->set, ack->first_page, ack->pages) &&
	       atomic_load_explicit(&ack->view->pass, memory_order_relaxed) == finder->pass;
}

static enum dli_failure check_extents(const struct dl_cursor *cursor,
				      const struct dl_extent *extents, uint32_t n_extents)
{
	struct finder finder = finder_of(cursor, extents);

	for (uint32_t i = 0; i < n_extents; i++) {
		struct ack ack;
		enum dli_failure wrong = find_ack(&finder, &extents[i], &ack);

		if (wrong)
			return wrong;
		if (ack.view && is_unknown(&finder, &ack))
			return DLI_BAD_EXTENT;
	}
	return DLI_FAILED_NOTHING;
}

/* The pages of one view are counted together. */
static uint64_t commit_extents(const struct dl_cursor *cursor, const struct dl_extent *extents,
			       uint32_t n_extents)
{
	struct finder finder = finder_of(cursor, extents);
	struct dli_view *view = NULL;
	uint64_t pages = 0, all = 0;

	for (uint32_t i = 0; i < n_extents; i++) {
		struct ack ack;

		if (find_ack(&finder, &extents[i], &ack) || !ack.view)
			continue;
		if (view && view != ack.view) {
			dli_page_set_count_acked(view->set, pages);
			all += pages;
			pages = 0;
		}
		view = ack.view;
		(void)dli_page_set_ack(view->set, ack.first_page, ack.pages, &pages);
	}
	if (view)
		dli_page_set_count_acked(view->set, pages);
	return all + pages;
}

/* Pairs with dli_pass_close(): it waits, or this finds no pass. */
static void enter_ack(struct dl_cursor *cursor)
{
	dli_rcu_read_lock();
	atomic_fetch_add_explicit(&cursor->acks, 1, memory_order_seq_cst);
}

/* Pairs with dli_pass_close(): the pages are forgotten before an end that does not wait goes on. */
static void leave_ack(struct dl_cursor *cursor)
{
	atomic_fetch_sub_explicit(&cursor->acks, 1, memory_order_release);
	dli_rcu_read_unlock();
}

int dl_cursor_ack(struct dl_cursor *cursor, const struct dl_extent *extents, uint32_t n_extents)
{
	enum dli_failure wrong;
	uint64_t pages = 0;

	if (!cursor)
		return -EINVAL;
	if (!extents && n_extents)
		return dli_log_fail(cursor->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(cursor->log))
		return -EIO;
	enter_ack(cursor);
	if (dli_log_is_closed(cursor->log)) {
		leave_ack(cursor);
		return dli_log_fail(cursor->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	}
	wrong = n_extents ? check_extents(cursor, extents, n_extents) : DLI_FAILED_NOTHING;
	if (!wrong && n_extents)
		pages = commit_extents(cursor, extents, n_extents);
	leave_ack(cursor);
	if (pages)
		atomic_fetch_add_explicit(&cursor->acked_pages, pages, memory_order_relaxed);
	return wrong ? dli_log_fail(cursor->log, wrong, DLI_NO_NUMBER, -EINVAL) : 0;
}

int dl_cursor_end(struct dl_cursor *cursor, uint32_t flags)
{
	struct dli_call call;
	uint64_t pass;
	int r;

	if (!cursor)
		return -EINVAL;
	if (flags & ~(uint32_t)DL_END_COMMIT)
		return dli_log_fail(cursor->log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	r = dli_cursor_enter(&call, cursor);
	if (r)
		return r;
	pass = dli_pass_close(cursor);
	if (pass) {
		pthread_mutex_lock(&cursor->log->lock);
		dli_pass_end(cursor, pass, flags & DL_END_COMMIT);
		pthread_mutex_unlock(&cursor->log->lock);
	}
	dli_cursor_leave(&call, cursor);
	return 0;
}
