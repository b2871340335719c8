/* SPDX-License-Identifier: MIT */
/* dl_cursor_read(): hands out the pages of a pass. */

#include "aliases.h"
#include "call.h"
#include "clear.h"

#include <errno.h>

/* An audit's findings are in the view's own set; the slot's fresh set has other pages. */
static bool take_pages(struct dl_cursor *cursor, struct dli_view *view, struct dli_batch *batch)
{
	uint64_t *block = &cursor->next_block;

	if (dli_cursor_is_audit(cursor))
		return dli_page_set_take(view->set, block, false, batch);
	return dli_view_take(view, block, view->slot->owed.any, batch);
}

/* Takes the next batch of one view. Returns 1, 0 at the slot's end, or an error. */
static int take_batch(struct dl_cursor *cursor, struct dli_view *view)
{
	struct dl_log *log = cursor->log;
	struct dli_batch *batch = &cursor->batch;
	uint64_t block = cursor->next_block;
	int r;

	do {
		if (!take_pages(cursor, view, batch))
			return 0;
		dli_alias_strip(cursor, view, batch);
		if (cursor->skips && !cursor->paused)
			dli_page_set_skip_rewritten(view->set, batch);
	} while (!batch->n);
	/*
	 * Owed pages may have been written again since a bitmap made them pending. CLEAR protects
	 * them: the caller reads the newest contents now, and a later write is seen.
	 */
	r = dli_cursor_is_audit(cursor) ? 0 : dli_clear_batch(log, view->slot, batch);
	if (!r)
		return 1;
	dli_page_set_unclaim(view->set, batch);
	cursor->next_block = block;
	batch->n = 0;
	return r;
}

/* Takes the next batch. Returns 1, 0 if no pages are left, or an error. */
static int next_batch(struct dl_cursor *cursor)
{
	/* Under the lock, the slot cannot change between the take and the end of the clear. */
	pthread_mutex_t *lock = &cursor->log->lock;
	int r = 0;

	cursor->word = cursor->batch.n = 0;
	pthread_mutex_lock(lock);
	while (cursor->at < cursor->n_order) {
		struct dli_view *view = cursor->order[cursor->at];

		r = view ? take_batch(cursor, view) : 0;
		if (r)
			break;
		cursor->at++;
		cursor->next_block = 0;
	}
	pthread_mutex_unlock(lock);
	return r;
}

/* The part that all extents of a slot share. */
struct extent_base {
	uint64_t gpa, hva, cookie, ticket;
	uint32_t slot, page_shift;
};

static struct extent_base base_of(const struct dl_cursor *cursor, const struct dli_view *view)
{
	const struct dli_slot *slot = view->slot;

	return (struct extent_base){
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.hva = slot->hva,
		.cookie = view->cookie,
		.ticket = dli_ticket(cursor, dli_cursor_pass(cursor), view->index),
		.slot = slot->slot,
		.page_shift = cursor->page_shift,
	};
}

static inline void put_extent(struct dl_extent *extent, const struct extent_base *base,
			      uint64_t first_page, uint64_t pages)
{
	uint64_t offset_bytes = first_page << base->page_shift;

	*extent = (struct dl_extent){
		.gpa = base->gpa + offset_bytes,
		.hva = base->hva + offset_bytes,
		.offset_bytes = offset_bytes,
		.bytes = pages << base->page_shift,
		.cookie = base->cookie,
		.ticket = base->ticket,
		.slot = base->slot,
	};
}

/*
 * A run reaches the end of word *at: returns the number of its pages in the words that follow. *at
 * becomes the last word of the run, *bits that word's bits past the run.
 */
static uint64_t extend_run(const struct dli_batch *batch, uint32_t *at, uint64_t *bits)
{
	uint64_t pages = 0;

	*bits = 0;
	while (*at + 1 < batch->n && batch->word[*at + 1] == batch->word[*at] + 1) {
		uint64_t next = batch->bits[*at + 1];

		if (!(next & 1))
			break;
		++*at;
		if (~next) {
			*bits = next & (next + 1);
			return pages + (uint64_t)__builtin_ctzll(~next);
		}
		pages += 64;
	}
	return pages;
}

/*
 * Cuts runs off the batch, and adds their pages. Returns their number, less than max_extents only
 * if that empties the batch.
 */
static uint32_t cut_runs(struct dl_cursor *cursor, struct dl_extent *extents, uint32_t max_extents,
			 uint64_t *all_pages)
{
	struct dli_batch *batch = &cursor->batch;
	const struct extent_base base = base_of(cursor, cursor->order[cursor->at]);
	uint32_t at = cursor->word, n = 0;
	uint64_t bits = batch->bits[at], sum = 0;

	while (n < max_extents) {
		uint64_t page = batch->word[at] * UINT64_C(64);
		uint64_t first = (uint64_t)__builtin_ctzll(bits), pages;
		/* The carry ripples through the run into the bit after it, or out of the word. */
		uint64_t carry = bits + (bits & -bits);

		if (carry) {
			pages = (uint64_t)__builtin_ctzll(carry) - first;
			bits &= carry;
		} else {
			pages = 64 - first + extend_run(batch, &at, &bits);
		}
		put_extent(&extents[n++], &base, page + first, pages);
		sum += pages;
		if (bits)
			continue;
		if (++at == batch->n)
			break;
		bits = batch->bits[at];
	}
	cursor->word = at;
	if (at < batch->n)
		batch->bits[at] = bits;
	*all_pages += sum;
	return n;
}

/* The next run of a batch, or the rest of one that was too long. False: the batch is empty. */
static bool next_run(struct dl_cursor *cursor, struct dli_run *run)
{
	struct dl_extent extent;
	uint64_t pages = 0;

	if (cursor->held.pages) {
		*run = cursor->held;
		cursor->held.pages = 0;
		return true;
	}
	if (cursor->word == cursor->batch.n || !cut_runs(cursor, &extent, 1, &pages))
		return false;
	run->first_page = extent.offset_bytes >> cursor->page_shift;
	run->pages = extent.bytes >> cursor->page_shift;
	return true;
}

/* Joins a run with those that follow it over small gaps. True if there was a gap. */
static bool join_runs(struct dl_cursor *cursor, struct dli_run *run)
{
	struct dli_page_set *set = cursor->order[cursor->at]->set;
	bool padded = false;
	struct dli_run next;

	while (run->pages < cursor->max_pages && next_run(cursor, &next)) {
		uint64_t end = run->first_page + run->pages, gap = next.first_page - end;

		if (gap > cursor->coalesce_pages ||
		    run->pages + gap + next.pages > cursor->max_pages) {
			cursor->held = next;
			break;
		}
		if (gap)
			dli_page_set_pad(set, end, gap);
		padded |= gap != 0;
		run->pages += gap + next.pages;
	}
	return padded;
}

/* Like cut_runs(), with the cursor's wishes. */
static uint32_t cut_extents(struct dl_cursor *cursor, struct dl_extent *extents,
			    uint32_t max_extents, uint64_t *all_pages)
{
	const struct extent_base base = base_of(cursor, cursor->order[cursor->at]);
	struct dli_run run;
	uint32_t n = 0;

	while (n < max_extents && next_run(cursor, &run)) {
		bool padded = cursor->coalesce_pages && join_runs(cursor, &run);

		if (run.pages > cursor->max_pages) {
			cursor->held.first_page = run.first_page + cursor->max_pages;
			cursor->held.pages = run.pages - cursor->max_pages;
			run.pages = cursor->max_pages;
		}
		put_extent(&extents[n], &base, run.first_page, run.pages);
		extents[n++].flags = padded ? DL_EXTENT_PADDED : 0;
		*all_pages += run.pages;
	}
	return n;
}

static bool is_plain(const struct dl_cursor *cursor)
{
	return !cursor->coalesce_pages && cursor->max_pages == UINT64_MAX;
}

static int read_extents(struct dl_cursor *cursor, struct dl_extent *extents, uint32_t max_extents,
			uint64_t *pages)
{
	uint32_t n = 0;

	while (n < max_extents) {
		if (cursor->word == cursor->batch.n && !cursor->held.pages) {
			int r = next_batch(cursor);

			/* Return the good extents; the next call meets the failure again. */
			if (r <= 0)
				return n ? (int)n : r;
		}
		n += is_plain(cursor) ? cut_runs(cursor, extents + n, max_extents - n, pages)
				      : cut_extents(cursor, extents + n, max_extents - n, pages);
	}
	return (int)n;
}

static int read_pass(struct dl_cursor *cursor, struct dl_extent *extents, uint32_t max_extents)
{
	uint64_t pages = 0;
	int n;

	if (dli_log_is_closed(cursor->log))
		return dli_log_fail(cursor->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (!dli_cursor_pass(cursor))
		return dli_log_fail(cursor->log, DLI_NO_PASS, DLI_NO_NUMBER, -EBUSY);
	n = read_extents(cursor, extents, max_extents, &pages);
	if (pages)
		atomic_fetch_add_explicit(&cursor->read_pages, pages, memory_order_relaxed);
	return n;
}

int dl_cursor_read(struct dl_cursor *cursor, struct dl_extent *extents, uint32_t max_extents)
{
	struct dli_call call;
	int r;

	if (!cursor)
		return -EINVAL;
	if (!extents || !max_extents || max_extents > INT32_MAX)
		return dli_log_fail(cursor->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	r = dli_cursor_enter(&call, cursor);
	if (r)
		return r;
	r = read_pass(cursor, extents, max_extents);
	dli_cursor_leave(&call, cursor);
	return r;
}
