/* SPDX-License-Identifier: MIT */
/* dl_cursor_take(), dl_slot_clear(): pending pages as a bitmap of the caller's. */

#include "aliases.h"
#include "call.h"
#include "clear.h"
#include "collect.h"
#include "pages/bits.h"

#include <endian.h>
#include <errno.h>

#define TAKE_FLAGS (uint32_t)(DL_TAKE_PAUSED | DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR | DL_TAKE_LE)

/* The words of a caller, and what went there. */
struct taker {
	uint64_t *words;
	uint32_t flags;
	uint64_t pages;
};

/* Ors a batch of pages into the words. */
static void give(struct taker *taker, const struct dli_batch *batch)
{
	uint64_t *words = taker->words, pages = 0;

	for (uint32_t i = 0; i < batch->n; i++) {
		uint64_t bits = batch->bits[i];

		words[batch->word[i]] |= taker->flags & DL_TAKE_LE ? htole64(bits) : bits;
		pages += count_bits(bits);
	}
	taker->pages += pages;
}

/*
 * Takes all that is pending, chunk by chunk: a chunk is cleared, then given. After an error the
 * rest is pending still. Pages that are in flight stay so.
 */
static int take_pages(struct dl_cursor *cursor, struct dli_view *view, struct taker *taker)
{
	struct dl_log *log = cursor->log;
	bool clear = view->slot->owed.any && !(taker->flags & DL_TAKE_NO_CLEAR) &&
		     !dli_cursor_is_audit(cursor);
	struct dli_batch batch;
	uint64_t block = 0;

	while (dli_page_set_extract(view->set, &block, clear, &batch)) {
		int r;

		dli_alias_exclude(cursor, view, &batch);
		r = clear ? dli_clear_batch(log, view->slot, &batch) : 0;
		if (r) {
			dli_page_set_mark_batch(view->set, &batch);
			return r;
		}
		give(taker, &batch);
	}
	return 0;
}

/* Under both locks. rings: the result of draining them. */
static int take(struct dl_cursor *cursor, uint32_t number, uint64_t n_words, int rings,
		struct taker *taker)
{
	struct dl_log *log = cursor->log;
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	struct dli_scope scope = { .cursor = cursor, .slot = slot };
	struct dli_view *view;
	int r = 0;

	if (!slot)
		return dli_log_fail(log, DLI_NO_SLOT, number, -ENOENT);
	if (n_words < divide_up(slot->pages, 64))
		return dli_log_fail(log, DLI_BAD_WORDS, number, -EINVAL);
	if (taker->flags & DL_TAKE_HARVEST)
		r = dli_collect(log, &scope, taker->flags & DL_TAKE_PAUSED, rings);
	view = dli_cursor_view(cursor, slot);
	if (r || !view)
		return r;
	r = dli_aliases_gather(cursor, slot);
	return r ? r : take_pages(cursor, view, taker);
}

static int harvest_and_take(struct dl_cursor *cursor, uint32_t number, uint64_t n_words,
			    struct taker *taker)
{
	struct dl_log *log = cursor->log;
	int rings = 0, r;

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (taker->flags & DL_TAKE_HARVEST && !dli_cursor_is_audit(cursor))
		rings = dli_collect_rings(log, taker->flags & DL_TAKE_PAUSED);
	pthread_mutex_lock(&log->lock);
	r = take(cursor, number, n_words, rings, taker);
	pthread_mutex_unlock(&log->lock);
	atomic_fetch_add_explicit(&cursor->read_pages, taker->pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&cursor->acked_pages, taker->pages, memory_order_relaxed);
	return r;
}

int dl_cursor_take(struct dl_cursor *cursor, uint32_t slot, uint32_t flags, uint64_t *words,
		   uint64_t n_words, uint64_t *taken_bytes)
{
	struct taker taker = { .words = words, .flags = flags };
	struct dli_call call;
	int r;

	if (!cursor)
		return -EINVAL;
	if (flags & ~TAKE_FLAGS)
		return dli_log_fail(cursor->log, DLI_BAD_FLAGS, slot, -EINVAL);
	if (flags & DL_TAKE_PAUSED && !(flags & DL_TAKE_HARVEST))
		return dli_log_fail(cursor->log, DLI_BAD_PAUSED, slot, -EINVAL);
	if (!words)
		return dli_log_fail(cursor->log, DLI_BAD_COUNT, slot, -EINVAL);
	r = dli_cursor_enter(&call, cursor);
	if (r)
		return r;
	r = harvest_and_take(cursor, slot, n_words, &taker);
	dli_cursor_leave(&call, cursor);
	if (taken_bytes)
		*taken_bytes = taker.pages << cursor->page_shift;
	return r;
}

static int clear_bytes(struct dl_log *log, uint32_t number, uint64_t offset_bytes, uint64_t bytes)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	uint32_t page_bytes = log->caps.page_bytes;
	uint64_t first_page = offset_bytes / page_bytes;

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, number, -ECANCELED);
	if (!slot)
		return dli_log_fail(log, DLI_NO_SLOT, number, -ENOENT);
	if (offset_bytes + bytes > slot->bytes)
		return dli_log_fail(log, DLI_BAD_SLOT_RANGE, number, -EINVAL);
	if (!bytes)
		return 0;
	return dli_clear_range(log, slot, first_page,
			       divide_up(offset_bytes + bytes, page_bytes) - first_page);
}

int dl_slot_clear(struct dl_log *log, uint32_t slot, uint64_t offset_bytes, uint64_t bytes)
{
	struct dli_call call;
	int r;

	if (!log)
		return -EINVAL;
	if (offset_bytes + bytes < bytes)
		return dli_log_fail(log, DLI_BAD_RANGE, slot, -EINVAL);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&log->lock);
	r = clear_bytes(log, slot, offset_bytes, bytes);
	pthread_mutex_unlock(&log->lock);
	dli_call_end(&call);
	return r;
}
