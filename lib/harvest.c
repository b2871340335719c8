/* SPDX-License-Identifier: MIT */
/* dl_harvest: what was dirtied since the last one becomes pending. */

#include "bits.h"
#include "drain.h"
#include "protect.h"
#include "publish.h"

#include <errno.h>

/*
 * A ring lost entries, or had them taken back unprotected: pages may be writable now and nobody
 * knows which. So all are protected anew, and only then marked: a page that is marked first could
 * be handed out and read while it can still be written unseen. In the final pass too, though nobody
 * writes then: the guest may be resumed.
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

enum { LINE_WORDS = 8 };

/*
 * Words [from, from + n), LINE_WORDS at most, are added to a batch that has room for them. Every one is
 * stored and only those with bits are kept: whether the next has any is what no processor can guess.
 */
static inline void gather(struct dli_batch *batch, const uint64_t *words, uint64_t from, uint64_t n)
{
	for (uint64_t i = from; i < from + n; i++) {
		uint64_t bits = dli_bitmap_word(words[i]);

		batch->word[batch->n] = (uint32_t)i;
		batch->bits[batch->n] = bits;
		batch->n += bits != 0;
	}
}

static bool has_room(const struct dli_batch *batch)
{
	return batch->n + LINE_WORDS <= PAGE_SET_CHUNK_WORDS;
}

/* Most of a bitmap is clean, and is looked at by the cache line. */
static uint64_t merge(struct dli_slot *slot, uint64_t *words)
{
	uint64_t n = dli_bitmap_words(slot->pages), lines = n / LINE_WORDS, new_pages = 0;
	struct dli_batch batch;

	batch.n = 0;
	/* A kernel has no bits behind the end; should one, they would be pages of nobody. */
	words[n - 1] &= dli_bitmap_word(range_bits(n - 1, 0, slot->pages));
	for (uint64_t line = 0; line < lines; line++) {
		const uint64_t *w = words + line * LINE_WORDS;

		if (!(w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]))
			continue;
		gather(&batch, words, line * LINE_WORDS, LINE_WORDS);
		if (has_room(&batch))
			continue;
		new_pages += dli_page_set_mark_batch(slot->set, &batch);
		batch.n = 0;
	}
	gather(&batch, words, lines * LINE_WORDS, n % LINE_WORDS);
	return new_pages + dli_page_set_mark_batch(slot->set, &batch);
}

static int harvest_bitmap(struct dl_log *log, struct dli_slot *slot)
{
	uint64_t begin_ns = dli_os_now_ns(), new_pages;
	int r = dli_bitmap_get(log->os, log->vm_fd, slot->slot, log->buffer.words);

	atomic_fetch_add_explicit(&log->slot_ioctl_ns, dli_os_now_ns() - begin_ns,
				  memory_order_relaxed);
	if (r < 0) {
		/* It may have failed after it cleared the kernel's bits. */
		dli_log_note_failure(log, "the bitmap could not be read", slot->slot, r);
		dli_page_set_mark_all(slot->set);
		return r;
	}
	new_pages = merge(slot, log->buffer.words);
	atomic_fetch_add_explicit(&log->bitmap_new_pages, new_pages, memory_order_relaxed);
	return 0;
}

/* Every slot's, whatever becomes of one; returns the first failure. */
static int harvest_bitmaps(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	int first = 0;

	for (uint32_t i = 0; i < table->n; i++) {
		struct dli_slot *slot = table->ranges[i].slot;
		int r = slot->logged ? harvest_bitmap(log, slot) : 0;

		if (r && !first)
			first = r;
	}
	return first;
}

static uint64_t pending_bytes_of(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	uint64_t pages = 0;

	for (uint32_t i = 0; i < table->n; i++)
		pages += dli_page_set_pending_pages(table->ranges[i].slot->set);
	for (struct dli_slot *slot = log->slots.retired; slot; slot = slot->next_retired)
		pages += dli_page_set_pending_pages(slot->set);
	return pages * log->caps.page_bytes;
}

/* What the rings left to do. */
static int settle_rings(struct dl_log *log)
{
	dli_log_note_pace(log, false);
	return dli_reset_repair_needed(&log->reset) ? repair(log) : 0;
}

static int harvest(struct dl_log *log, bool last, int rings)
{
	int bitmaps = 0, missing;

	if (!dli_log_is_on(log))
		return -ECANCELED;
	missing = dli_slot_logging_resume(log);
	if (dli_log_is_ring(log) && !rings)
		rings = settle_rings(log);
	/* The backup bitmap after the rings: who writes it has no vCPU, and writes last. */
	if (!dli_log_is_ring(log) || (last && log->caps.backup))
		bitmaps = harvest_bitmaps(log);
	if (missing)
		return missing;
	return rings ? rings : bitmaps;
}

int dl_harvest(struct dl_log *log, uint32_t flags, uint64_t *pending_bytes)
{
	bool last = flags & DL_HARVEST_FINAL;
	int rings = 0, r;

	if (!log || flags & ~(uint32_t)DL_HARVEST_FINAL)
		return -EINVAL;
	/* Several threads at once share the rings, so before the lock. */
	if (dli_log_is_ring(log) && dli_log_is_on(log))
		rings = dli_drain_all(&log->vcpus, &log->reset, last, &log->slots);
	pthread_mutex_lock(&log->lock);
	r = harvest(log, last, rings);
	if (!r && pending_bytes)
		*pending_bytes = pending_bytes_of(log);
	pthread_mutex_unlock(&log->lock);
	return r;
}
