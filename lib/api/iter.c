/* SPDX-License-Identifier: MIT */
/* dl_iter_*(): hands out pending pages as runs. */

#include "call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Used under log->reading. Pages are taken in batches. If the bitmap is cleared by hand, a batch is
 * at most one chunk, so that one KVM_CLEAR_DIRTY_LOG covers it. No run is longer than a batch.
 */
struct dl_iter {
	struct dl_log *log;
	uint64_t session;
	uint32_t at;	     /* index of the current slot */
	uint64_t next_block; /* in its page set */
	uint32_t word;	     /* index in the batch of the next word to hand out */
	struct dli_batch batch;
	uint64_t clear_words[PAGE_SET_CHUNK_WORDS];
	uint32_t n;
	struct dli_slot *slots[];
};

static uint32_t count_slots(const struct dl_log *log)
{
	uint32_t n = dli_slots_table(&log->slots)->n;

	for (struct dli_slot *slot = log->slots.retired; slot; slot = slot->next_retired)
		n++;
	return n;
}

static void hold_slots(struct dl_iter *iter)
{
	const struct dli_slot_table *table = dli_slots_table(&iter->log->slots);
	struct dli_slot *slot;

	/* Retired slots first: their memory is kept only to be handed out. */
	for (slot = iter->log->slots.retired; slot; slot = slot->next_retired)
		iter->slots[iter->n++] = slot;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		iter->slots[iter->n++] = slot;
	for (uint32_t i = 0; i < iter->n; i++)
		dli_slot_get(iter->slots[i]);
}

static int iter_new(struct dl_log *log, struct dl_iter **out)
{
	struct dl_iter *iter;

	if (!dli_log_is_on(log))
		return -ECANCELED;
	if (log->iter)
		return -EBUSY;
	iter = dli_allocate(1, sizeof(*iter) + count_slots(log) * sizeof(iter->slots[0]));
	if (!iter)
		return -ENOMEM;
	iter->log = log;
	iter->session = dli_log_session(log);
	hold_slots(iter);
	dli_log_get(log);
	log->iter = iter;
	*out = iter;
	return 0;
}

int dl_iter_new(struct dl_log *log, uint32_t flags, struct dl_iter **iter)
{
	struct dli_call call;
	int r;

	if (!log || !iter || flags)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	r = iter_new(log, iter);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	dli_call_end(&call);
	return r;
}

/* Logging stopped, or was restarted, since the iterator was created. */
static bool is_stale(const struct dl_iter *iter)
{
	return dli_log_session(iter->log) != iter->session || !dli_log_is_on(iter->log);
}

/* Fills clear_words with the batch, from its first word on. Returns the number of words. */
static uint32_t fill_clear_words(struct dl_iter *iter)
{
	const struct dli_batch *batch = &iter->batch;
	uint32_t first = batch->word[0];
	uint32_t words = batch->word[batch->n - 1] - first + 1;

	memset(iter->clear_words, 0, words * sizeof(iter->clear_words[0]));
	for (uint32_t i = 0; i < batch->n; i++)
		iter->clear_words[batch->word[i] - first] = batch->bits[i];
	return words;
}

static bool is_cleared_here(const struct dl_iter *iter, const struct dli_slot *slot)
{
	return iter->log->clear_in_chunks && slot->logged;
}

/*
 * The pages may have been written again since a bitmap, a mark or an unfinished iteration made them
 * pending. CLEAR re-protects those that are still dirty in the kernel: the caller reads the newest
 * contents now, and a later write is seen.
 */
static int clear_chunk(struct dl_iter *iter, const struct dli_slot *slot)
{
	struct dl_log *log = iter->log;
	uint64_t first_page = iter->batch.word[0] * UINT64_C(64), pages;
	int r;

	if (!is_cleared_here(iter, slot))
		return 0;
	pages = fill_clear_words(iter) * UINT64_C(64);
	if (first_page + pages > slot->pages)
		pages = slot->pages - first_page;
	r = dli_bitmap_clear(&log->vm, slot->slot, first_page, (uint32_t)pages, iter->clear_words);
	if (r < 0)
		dli_log_note_failure(log, "the bitmap could not be cleared", slot->slot, r);
	return r < 0 ? r : 0;
}

/* Takes the next batch of one slot. Returns 1, 0 at the slot's end, or an error. */
static int take_batch(struct dl_iter *iter, struct dli_slot *slot)
{
	uint64_t block = iter->next_block;
	int r;

	iter->word = 0;
	iter->batch.n = 0;
	if (slot->discarded || !dli_page_set_take(slot->set, &iter->next_block,
						  is_cleared_here(iter, slot), &iter->batch))
		return 0;
	r = clear_chunk(iter, slot);
	if (r) {
		dli_page_set_unclaim(slot->set, &iter->batch);
		iter->next_block = block;
		iter->batch.n = 0;
		return r;
	}
	return 1;
}

/* Takes the next batch. Returns 1, 0 if no pages are left, or an error. */
static int next_batch(struct dl_iter *iter)
{
	/* Under the lock, the slot cannot change between the take and the end of the clear. */
	pthread_mutex_t *lock = &iter->log->lock;
	int r = 0;

	pthread_mutex_lock(lock);
	while (iter->at < iter->n) {
		r = take_batch(iter, iter->slots[iter->at]);
		if (r)
			break;
		iter->at++;
		iter->next_block = 0;
	}
	pthread_mutex_unlock(lock);
	return r;
}

/* The part that all runs of a slot share. */
struct run_base {
	uint64_t gpa, hva;
	uint32_t slot, at, page_shift;
};

static struct run_base run_base_of(const struct dl_iter *iter)
{
	const struct dli_slot *slot = iter->slots[iter->at];

	return (struct run_base){
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.hva = slot->hva,
		.slot = slot->slot,
		.at = iter->at,
		.page_shift = (uint32_t)__builtin_ctz(iter->log->caps.page_bytes),
	};
}

static inline void put_run(struct dl_run *run, const struct run_base *base, uint64_t first_page,
			   uint64_t pages)
{
	uint64_t offset_bytes = first_page << base->page_shift;

	run->gpa = base->gpa + offset_bytes;
	run->hva = base->hva + offset_bytes;
	run->offset_bytes = offset_bytes;
	run->bytes = pages << base->page_shift;
	run->slot = base->slot;
	run->reserved = base->at;
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

/* Cuts runs off the batch. Returns their number, less than max_runs only if that empties it. */
static uint32_t cut_runs(struct dl_iter *iter, struct dl_run *runs, uint32_t max_runs)
{
	struct dli_batch *batch = &iter->batch;
	const struct run_base base = run_base_of(iter);
	uint32_t at = iter->word, n = 0;
	uint64_t bits = batch->bits[at];

	while (n < max_runs) {
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
		put_run(&runs[n++], &base, page + first, pages);
		if (bits)
			continue;
		if (++at == batch->n)
			break;
		bits = batch->bits[at];
	}
	iter->word = at;
	if (at < batch->n)
		batch->bits[at] = bits;
	return n;
}

static int read_runs(struct dl_iter *iter, struct dl_run *runs, uint32_t max_runs)
{
	uint32_t n = 0;

	while (n < max_runs) {
		if (iter->word == iter->batch.n || iter->slots[iter->at]->discarded) {
			int r = next_batch(iter);

			/* Return the runs that are good; the next call meets the failure again. */
			if (r <= 0)
				return n ? (int)n : r;
		}
		n += cut_runs(iter, runs + n, max_runs - n);
	}
	return (int)n;
}

int dl_iter_read(struct dl_iter *iter, struct dl_run *runs, uint32_t max_runs)
{
	struct dli_call call;
	int r;

	if (!iter || !runs || !max_runs || max_runs > INT32_MAX)
		return -EINVAL;
	r = dli_call_begin(&call, iter->log);
	if (r)
		return r;
	pthread_mutex_lock(&iter->log->reading);
	r = is_stale(iter) ? -ECANCELED : read_runs(iter, runs, max_runs);
	pthread_mutex_unlock(&iter->log->reading);
	dli_call_end(&call);
	return r;
}

/* The acknowledged pages of one slot, which are counted together. */
struct acked {
	struct dli_slot *slot;
	uint64_t pages;
};

static void count_acked(struct acked *acked)
{
	if (acked->pages)
		dli_page_set_count_acked(acked->slot->set, acked->pages);
	acked->pages = 0;
}

static bool ack_run(const struct dl_iter *iter, const struct dl_run *run, struct acked *acked)
{
	uint32_t page_bytes = iter->log->caps.page_bytes;
	uint32_t page_shift = (uint32_t)__builtin_ctz(page_bytes);
	struct dli_slot *slot;

	if (run->reserved >= iter->n || !run->bytes ||
	    (run->offset_bytes | run->bytes) & (page_bytes - 1))
		return false;
	slot = iter->slots[run->reserved];
	if (slot->slot != run->slot || run->offset_bytes >= slot->bytes ||
	    run->bytes > slot->bytes - run->offset_bytes)
		return false;
	if (slot != acked->slot)
		count_acked(acked);
	acked->slot = slot;
	return dli_page_set_ack(slot->set, run->offset_bytes >> page_shift,
				run->bytes >> page_shift, &acked->pages);
}

int dl_iter_ack(struct dl_iter *iter, const struct dl_run *runs, uint32_t n_runs)
{
	struct acked acked = { 0 };
	uint32_t i = 0;

	if (!iter || (!runs && n_runs))
		return -EINVAL;
	if (dli_log_in_child(iter->log))
		return -EIO;
	if (is_stale(iter))
		return -ECANCELED;
	while (i < n_runs && ack_run(iter, &runs[i], &acked))
		i++;
	count_acked(&acked);
	if (i == n_runs)
		return 0;
	/* A stop may have taken the pages meanwhile; if so, it made the iterator stale first. */
	return is_stale(iter) ? -ECANCELED : -EINVAL;
}

/* Requeues the pages that were not acknowledged, and drops the slots. */
static void release_slots(struct dl_iter *iter)
{
	bool stale = is_stale(iter);

	for (uint32_t i = 0; i < iter->n; i++) {
		if (!stale && !iter->slots[i]->discarded)
			dli_page_set_requeue(iter->slots[i]->set);
		dli_slot_put(iter->slots[i]);
	}
	dli_slots_sweep(&iter->log->slots, false);
	iter->log->iter = NULL;
}

void dl_iter_free(struct dl_iter *iter)
{
	struct dli_call call;
	struct dl_log *log;

	if (!iter || dli_log_in_child(iter->log))
		return;
	log = iter->log;
	(void)dli_call_begin(&call, log);
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	release_slots(iter);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	free(iter);
	dli_call_end(&call);
	dli_log_put(log);
}
