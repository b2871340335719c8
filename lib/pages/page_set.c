/* SPDX-License-Identifier: MIT */
/* Making, marking and acknowledging a page set. */

#include "pages/page_set_maps.h"

#include <errno.h>
#include <stdlib.h>

static void lay_out(struct bitmap *map, const struct dli_page_set *set, _Atomic uint64_t *leaf,
		    _Atomic uint64_t *mid)
{
	map->leaf = leaf;
	map->mid = mid;
	map->top = mid + set->mid_words;
}

int dli_page_set_new(const struct dl_os *os, uint64_t pages, struct dli_page_set **out)
{
	struct dli_page_set *set = dli_allocate(1, sizeof(*set));
	uint64_t blocks = divide_up(pages, BLOCK_WORDS * 64), leaf_words, summary_words;
	_Atomic uint64_t *words;
	int r;

	if (!set)
		return -ENOMEM;
	set->os = os;
	set->pages = pages;
	set->mid_words = divide_up(blocks, 64);
	set->top_words = divide_up(set->mid_words, 64);
	leaf_words = 2 * blocks * BLOCK_WORDS;
	summary_words = set->mid_words + set->top_words;
	set->memory_bytes = (leaf_words + 2 * summary_words) * sizeof(uint64_t);
	r = dli_os_reserve(os, set->memory_bytes, &set->memory);
	if (r) {
		free(set);
		return r;
	}
	words = set->memory;
	lay_out(&set->pending, set, words, words + leaf_words);
	lay_out(&set->in_flight, set, words + BLOCK_WORDS, words + leaf_words + summary_words);
	*out = set;
	return 0;
}

static size_t rewritten_bytes(const struct dli_page_set *set)
{
	return divide_up(set->pages, 64) * sizeof(uint64_t);
}

void dli_page_set_free(struct dli_page_set *set)
{
	if (!set)
		return;
	dli_os_unmap(set->os, set->memory, set->memory_bytes);
	dli_os_unmap(set->os, set->rewritten, rewritten_bytes(set));
	free(set);
}

int dli_page_set_watch(struct dli_page_set *set)
{
	void *memory;
	int r = dli_os_reserve(set->os, rewritten_bytes(set), &memory);

	if (r)
		return r;
	set->rewritten = memory;
	atomic_store_explicit(&set->watched, 1, memory_order_relaxed);
	return 0;
}

void dli_page_set_unwatch(struct dli_page_set *set)
{
	atomic_store_explicit(&set->watched, 0, memory_order_relaxed);
}

uint64_t dli_page_set_pages(const struct dli_page_set *set)
{
	return set->pages;
}

/* Returns how many of the pages are new. The caller sets the summaries afterwards. */
static inline uint32_t mark_bits(struct dli_page_set *set, uint64_t word, uint64_t bits)
{
	uint64_t before = set_bits(leaf_of(&set->pending, word), bits);

	note_rewritten(set, word, bits & before);
	return count_bits(bits & ~before);
}

uint32_t dli_page_set_mark_word(struct dli_page_set *set, uint64_t word, uint64_t bits)
{
	uint32_t new_pages = mark_bits(set, word, bits);

	set_block_summary(&set->pending, word / BLOCK_WORDS);
	return new_pages;
}

void dli_page_set_prefetch(const struct dli_page_set *set, uint64_t word)
{
	__builtin_prefetch(leaf_of(&set->pending, word), 1);
}

void dli_page_set_count(struct dli_page_set *set, uint64_t new_pages)
{
	if (new_pages)
		add_pages(&set->pending, (int64_t)new_pages);
}

void dli_page_set_mark_and_count(struct dli_page_set *set, uint64_t word, uint64_t bits)
{
	dli_page_set_count(set, dli_page_set_mark_word(set, word, bits));
}

/* Sets the summaries of a block once, after the last of its leaf words. */
uint64_t dli_page_set_mark_batch(struct dli_page_set *set, const struct dli_batch *batch)
{
	enum { AHEAD = 8 };
	uint64_t new_pages = 0;

	for (uint32_t i = 0; i < batch->n; i++) {
		uint32_t word = batch->word[i];

		if (i + AHEAD < batch->n)
			dli_page_set_prefetch(set, batch->word[i + AHEAD]);
		new_pages += mark_bits(set, word, batch->bits[i]);
		if (i + 1 == batch->n || batch->word[i + 1] / BLOCK_WORDS != word / BLOCK_WORDS)
			set_block_summary(&set->pending, word / BLOCK_WORDS);
	}
	dli_page_set_count(set, new_pages);
	return new_pages;
}

static void note_rewritten_batch(struct dli_page_set *set, const struct dli_batch *batch)
{
	for (uint32_t i = 0; i < batch->n; i++) {
		_Atomic uint64_t *leaf = leaf_of(&set->pending, batch->word[i]);
		uint64_t before = atomic_load_explicit(leaf, memory_order_relaxed);

		note_rewritten(set, batch->word[i], batch->bits[i] & before);
	}
}

enum { GROUP_WORDS = 8 };

/* The pages of a word of the batch that are not pending. */
static inline uint64_t new_bits(const struct bitmap *map, const struct dli_batch *batch, uint32_t i)
{
	return batch->bits[i] &
	       ~atomic_load_explicit(leaf_of(map, batch->word[i]), memory_order_relaxed);
}

/* True if a page of the group that begins with word i is not pending: one branch for all words. */
static inline bool group_has_new(const struct bitmap *map, const struct dli_batch *batch,
				 uint32_t i)
{
	return new_bits(map, batch, i) | new_bits(map, batch, i + 1) | new_bits(map, batch, i + 2) |
	       new_bits(map, batch, i + 3) | new_bits(map, batch, i + 4) |
	       new_bits(map, batch, i + 5) | new_bits(map, batch, i + 6) |
	       new_bits(map, batch, i + 7);
}

static inline void prefetch_group(const struct bitmap *map, const struct dli_batch *batch,
				  uint32_t i)
{
	for (uint32_t end = i + GROUP_WORDS; i < end; i++)
		__builtin_prefetch(leaf_of(map, batch->word[i]), 1);
}

/* Marks words [i, end) of the batch. Returns how many of their pages are new. */
static uint64_t mark_words_alone(struct bitmap *map, const struct dli_batch *batch, uint32_t i,
				 uint32_t end)
{
	uint64_t new_pages = 0;

	for (; i < end; i++) {
		_Atomic uint64_t *leaf = leaf_of(map, batch->word[i]);
		uint64_t before = atomic_load_explicit(leaf, memory_order_relaxed);

		if (!(batch->bits[i] & ~before))
			continue;
		atomic_store_explicit(leaf, before | batch->bits[i], memory_order_relaxed);
		set_block_summary_alone(map, batch->word[i] / BLOCK_WORDS);
		new_pages += count_bits(batch->bits[i] & ~before);
	}
	return new_pages;
}

/* Often nothing is new: an idle cursor has the hot pages already. */
void dli_page_set_mark_alone(struct dli_page_set *set, const struct dli_batch *batch)
{
	enum { AHEAD = 2 * GROUP_WORDS };
	struct bitmap *map = &set->pending;
	uint64_t new_pages = 0;
	uint32_t i = 0, n = batch->n;

	if (set->rewritten)
		note_rewritten_batch(set, batch);
	for (; i + GROUP_WORDS <= n; i += GROUP_WORDS) {
		if (i + AHEAD + GROUP_WORDS <= n)
			prefetch_group(map, batch, i + AHEAD);
		if (group_has_new(map, batch, i))
			new_pages += mark_words_alone(map, batch, i, i + GROUP_WORDS);
	}
	new_pages += mark_words_alone(map, batch, i, n);
	dli_page_set_count(set, new_pages);
}

/* Marks words of one block, then its summaries. */
static uint64_t mark_in_block(struct bitmap *map, uint64_t first_word, uint64_t end_word,
			      uint64_t first_page, uint64_t end_page)
{
	uint64_t new_pages = 0;

	for (uint64_t word = first_word; word < end_word; word++) {
		uint64_t bits = range_bits(word, first_page, end_page);
		uint64_t before = set_bits(leaf_of(map, word), bits);

		new_pages += count_bits(bits & ~before);
	}
	set_block_summary(map, first_word / BLOCK_WORDS);
	return new_pages;
}

uint64_t dli_page_set_mark_range(struct dli_page_set *set, uint64_t first_page, uint64_t pages)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64);
	uint64_t word = first_page / 64, new_pages = 0;

	while (pages && word < end_word) {
		uint64_t next = (word / BLOCK_WORDS + 1) * BLOCK_WORDS;

		if (next > end_word)
			next = end_word;
		new_pages += mark_in_block(&set->pending, word, next, first_page, end_page);
		word = next;
	}
	dli_page_set_count(set, new_pages);
	return new_pages;
}

uint64_t dli_page_set_mark_all(struct dli_page_set *set)
{
	return dli_page_set_mark_range(set, 0, set->pages);
}

static inline bool is_in_flight(const struct bitmap *map, uint64_t word, uint64_t bits)
{
	/*
	 * Pairs with claim_bits(): a thread that finds a page gone also sees that its slot has left
	 * the pass.
	 */
	return !(bits & ~atomic_load_explicit(leaf_of(map, word), memory_order_acquire));
}

/* Most runs lie in one word. */
static inline bool ack_in_word(struct bitmap *map, uint64_t first_page, uint64_t pages,
			       uint64_t *acked)
{
	uint64_t word = first_page / 64, bits = ~UINT64_C(0) >> (64 - pages) << first_page % 64;

	if (!is_in_flight(map, word, bits))
		return false;
	*acked += clear_word(map, word, bits);
	return true;
}

bool dli_page_set_in_flight(const struct dli_page_set *set, uint64_t first_page, uint64_t pages)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64);

	for (uint64_t word = first_page / 64; word < end_word; word++)
		if (!is_in_flight(&set->in_flight, word, range_bits(word, first_page, end_page)))
			return false;
	return true;
}

bool dli_page_set_ack(struct dli_page_set *set, uint64_t first_page, uint64_t pages,
		      uint64_t *acked)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64);
	struct bitmap *map = &set->in_flight;

	if (pages && first_page % 64 + pages <= 64)
		return ack_in_word(map, first_page, pages, acked);
	for (uint64_t word = first_page / 64; word < end_word; word++)
		if (!is_in_flight(map, word, range_bits(word, first_page, end_page)))
			return false;
	for (uint64_t word = first_page / 64; word < end_word; word++)
		*acked += clear_word(map, word, range_bits(word, first_page, end_page));
	return true;
}

void dli_page_set_count_acked(struct dli_page_set *set, uint64_t acked)
{
	add_pages(&set->in_flight, -(int64_t)acked);
}

static uint64_t count_pages(const struct bitmap *map)
{
	/* Pairs with dli_page_set_moved(): pages that are gone from here are counted elsewhere. */
	int64_t pages = atomic_load_explicit(&map->pages, memory_order_acquire);

	/* The taker may count before the marker has. */
	return pages < 0 ? 0 : (uint64_t)pages;
}

uint64_t dli_page_set_pending_bits(const struct dli_page_set *set, uint64_t word)
{
	return atomic_load_explicit(leaf_of(&set->pending, word), memory_order_relaxed);
}

uint64_t dli_page_set_pending_pages(const struct dli_page_set *set)
{
	return count_pages(&set->pending);
}

uint64_t dli_page_set_in_flight_pages(const struct dli_page_set *set)
{
	return count_pages(&set->in_flight);
}
