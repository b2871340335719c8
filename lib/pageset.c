/* SPDX-License-Identifier: MIT */
/*
 * Two sparse bitmaps, each with two summaries.
 *
 * leaf: a bit a page. mid: a bit for 64 leaf words, a block. top: a bit a mid word. Whoever sets a
 * bit does it bottom up, and a summary only where it is not set already. Whoever takes removes a
 * summary bit before it looks below. Both are right together because all of that is sequentially
 * consistent: a setter who finds the summary bit set has its leaf bit in place before that, and who
 * removes the summary bit afterwards finds the leaf bit. At worst a summary leads to nothing. The
 * leaf bit itself is never looked at before it is set: the page could be taken, and read, between
 * the look and the caller's conclusion that it is still pending.
 *
 * Beyond that, the setter's RMW of the leaf releases what it wrote into guest memory before, and the
 * taker's exchange acquires it. No kernel partner: both sides are threads of this process.
 * Acknowledging orders nothing: the caller ends it before it ends the iteration.
 *
 * The two maps' leaf words of a block lie side by side: taking moves bits from one to the other, and
 * a few dirty pages far apart cost one page of memory each. A mid bit covers so much that the summaries
 * of any guest stay in the caches.
 */

#include "pageset.h"

#include "bits.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

enum {
	BLOCK_WORDS = 64,
	CHUNK_BLOCKS = PAGESET_CHUNK_WORDS / BLOCK_WORDS,
	LINE_WORDS = 8,
};

#define CHUNK_MASK ((UINT64_C(1) << CHUNK_BLOCKS) - 1)

struct bitmap {
	_Atomic uint64_t *leaf, *mid, *top;
	/* Not beside what every marker reads. */
	char apart[64];
	_Atomic int64_t pages;
	char apart_too[64];
};

struct dli_pageset {
	const struct dl_os *os;
	uint64_t pages, mid_words, top_words;
	void *memory;
	size_t memory_bytes;
	struct bitmap pending, taken;
};

static void lay_out(struct bitmap *map, const struct dli_pageset *set, _Atomic uint64_t *leaf,
		    _Atomic uint64_t *mid)
{
	map->leaf = leaf;
	map->mid = mid;
	map->top = mid + set->mid_words;
}

int dli_pageset_new(const struct dl_os *os, uint64_t pages, struct dli_pageset **out)
{
	struct dli_pageset *set = dli_allocate(1, sizeof(*set));
	uint64_t blocks = divide_up(pages, BLOCK_WORDS * 64), leaf_words, summary_words;
	_Atomic uint64_t *words;
	int r;

	if (!set)
		return -ENOMEM;
	set->os = os;
	set->pages = pages;
	set->mid_words = divide_up(blocks, 64);
	set->top_words = divide_up(set->mid_words, 64);
	/* Whole chunks, so that one can be walked without asking where the set ends. */
	leaf_words = 2 * divide_up(blocks, CHUNK_BLOCKS) * PAGESET_CHUNK_WORDS;
	summary_words = set->mid_words + set->top_words;
	set->memory_bytes = (leaf_words + 2 * summary_words) * sizeof(uint64_t);
	r = dli_os_reserve(os, set->memory_bytes, &set->memory);
	if (r) {
		free(set);
		return r;
	}
	words = set->memory;
	lay_out(&set->pending, set, words, words + leaf_words);
	lay_out(&set->taken, set, words + BLOCK_WORDS, words + leaf_words + summary_words);
	*out = set;
	return 0;
}

void dli_pageset_free(struct dli_pageset *set)
{
	if (!set)
		return;
	dli_os_unmap(set->os, set->memory, set->memory_bytes);
	free(set);
}

/* Between two blocks of a map lies one of the other. */
static inline _Atomic uint64_t *leaf_of(const struct bitmap *map, uint64_t word)
{
	return &map->leaf[word + word / BLOCK_WORDS * BLOCK_WORDS];
}

/* Pairs with take_bits(), and by its place before summarize() with drop_summary(). */
static inline uint64_t set_bits(_Atomic uint64_t *word, uint64_t bits)
{
	return atomic_fetch_or_explicit(word, bits, memory_order_seq_cst);
}

/* Pairs with drop_summary(): see above. */
static inline void summarize(_Atomic uint64_t *word, uint64_t bits)
{
	if ((atomic_load_explicit(word, memory_order_seq_cst) & bits) != bits)
		atomic_fetch_or_explicit(word, bits, memory_order_seq_cst);
}

/* Pairs with summarize(); what is below is looked at only after it, by look_below(). */
static inline uint64_t drop_summary(_Atomic uint64_t *word, uint64_t bits)
{
	return atomic_fetch_and_explicit(word, ~bits, memory_order_seq_cst) & bits;
}

static inline uint64_t look_below(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_seq_cst);
}

/* Pairs with set_bits(), and, where all is forgotten, with the look of dli_pageset_ack(). */
static inline uint64_t take_bits(_Atomic uint64_t *word)
{
	return atomic_exchange_explicit(word, 0, memory_order_acq_rel);
}

static void add_pages(struct bitmap *map, int64_t pages)
{
	atomic_fetch_add_explicit(&map->pages, pages, memory_order_relaxed);
}

static uint64_t count_pages(const struct bitmap *map)
{
	int64_t pages = atomic_load_explicit(&map->pages, memory_order_relaxed);

	/* A taker can be faster to count than the marker was. */
	return pages < 0 ? 0 : (uint64_t)pages;
}

/* After the leaf bits of the block. */
static inline void summarize_block(struct bitmap *map, uint64_t block)
{
	uint64_t mid = block / 64;

	summarize(&map->mid[mid], UINT64_C(1) << block % 64);
	summarize(&map->top[mid / 64], UINT64_C(1) << mid % 64);
}

/* Returns how many of the bits were not set before. */
static inline uint32_t set_word(struct bitmap *map, uint64_t word, uint64_t bits)
{
	uint64_t before = set_bits(leaf_of(map, word), bits);

	summarize_block(map, word / BLOCK_WORDS);
	return count_bits(bits & ~before);
}

uint32_t dli_pageset_mark_word(struct dli_pageset *set, uint64_t word, uint64_t bits)
{
	return set_word(&set->pending, word, bits);
}

void dli_pageset_prefetch(const struct dli_pageset *set, uint64_t word)
{
	__builtin_prefetch(leaf_of(&set->pending, word), 1);
}

void dli_pageset_count(struct dli_pageset *set, uint64_t new_pages)
{
	if (new_pages)
		add_pages(&set->pending, (int64_t)new_pages);
}

/* Leaf words of one block get their summaries once, after the last of them. */
static uint64_t mark_in_block(struct bitmap *map, uint64_t first_word, uint64_t end_word,
			      uint64_t first_page, uint64_t end_page)
{
	uint64_t new_pages = 0;

	for (uint64_t word = first_word; word < end_word; word++) {
		uint64_t bits = range_bits(word, first_page, end_page);
		uint64_t before = set_bits(leaf_of(map, word), bits);

		new_pages += count_bits(bits & ~before);
	}
	summarize_block(map, first_word / BLOCK_WORDS);
	return new_pages;
}

uint64_t dli_pageset_mark_range(struct dli_pageset *set, uint64_t first_page, uint64_t pages)
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
	dli_pageset_count(set, new_pages);
	return new_pages;
}

uint64_t dli_pageset_mark_all(struct dli_pageset *set)
{
	return dli_pageset_mark_range(set, 0, set->pages);
}

/* Of a mid word that was found empty. A setter may just have gone by: then it is not. */
static void lower_top(struct bitmap *map, uint64_t mid)
{
	uint64_t bit = UINT64_C(1) << mid % 64;

	drop_summary(&map->top[mid / 64], bit);
	if (look_below(&map->mid[mid]))
		summarize(&map->top[mid / 64], bit);
}

/* The first mid word at or behind mid whose top bit is set, or UINT64_MAX. */
static uint64_t find_mid(const struct dli_pageset *set, const struct bitmap *map, uint64_t mid)
{
	uint64_t bits, word = mid / 64;

	if (mid >= set->mid_words)
		return UINT64_MAX;
	bits = atomic_load_explicit(&map->top[word], memory_order_relaxed);
	bits &= ~UINT64_C(0) << mid % 64;
	while (!bits) {
		if (++word == set->top_words)
			return UINT64_MAX;
		bits = atomic_load_explicit(&map->top[word], memory_order_relaxed);
	}
	return word * 64 + (uint64_t)__builtin_ctzll(bits);
}

/* The first chunk at or behind chunk that a summary leads to, or UINT64_MAX. */
static uint64_t find_chunk(const struct dli_pageset *set, struct bitmap *map, uint64_t chunk)
{
	uint64_t block = chunk * CHUNK_BLOCKS, mid;

	while ((mid = find_mid(set, map, block / 64)) != UINT64_MAX) {
		uint64_t bits = atomic_load_explicit(&map->mid[mid], memory_order_relaxed);

		if (!bits)
			lower_top(map, mid);
		if (mid == block / 64)
			bits &= ~UINT64_C(0) << block % 64;
		if (bits)
			return (mid * 64 + (uint64_t)__builtin_ctzll(bits)) / CHUNK_BLOCKS;
		block = (mid + 1) * 64;
	}
	return UINT64_MAX;
}

/* The summary bits of a chunk's blocks, which are removed. */
static uint64_t take_blocks(struct bitmap *map, uint64_t chunk)
{
	uint64_t block = chunk * CHUNK_BLOCKS, mid = block / 64, shift = block % 64;
	uint64_t blocks = drop_summary(&map->mid[mid], CHUNK_MASK << shift) >> shift;

	if (!atomic_load_explicit(&map->mid[mid], memory_order_relaxed))
		lower_top(map, mid);
	return blocks;
}

/* Adds the words of one cache line of leaf words to out. Returns the number of pages. */
static uint64_t take_line(_Atomic uint64_t *leaf, uint64_t index, struct dli_chunk *out)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < LINE_WORDS; i++) {
		uint64_t bits = look_below(&leaf[i]);

		if (bits)
			bits = take_bits(&leaf[i]);
		/* Of the taken map another thread may just have acknowledged it. */
		if (!bits)
			continue;
		out->index[out->words] = (uint16_t)(index + i);
		out->bits[out->words++] = bits;
		pages += count_bits(bits);
	}
	return pages;
}

static inline bool is_line_clean(const _Atomic uint64_t *leaf)
{
	uint64_t bits = 0;

	for (uint64_t i = 0; i < LINE_WORDS; i++)
		bits |= look_below(&leaf[i]);
	return !bits;
}

static uint64_t take_block(struct bitmap *map, uint64_t chunk, uint64_t block,
			   struct dli_chunk *out)
{
	uint64_t index = block * BLOCK_WORDS, pages = 0;
	_Atomic uint64_t *leaf = leaf_of(map, chunk * PAGESET_CHUNK_WORDS + index);

	for (uint64_t i = 0; i < BLOCK_WORDS; i += LINE_WORDS)
		if (!is_line_clean(&leaf[i]))
			pages += take_line(&leaf[i], index + i, out);
	return pages;
}

/* All misses of a block at once, while somebody works on the one before. */
static void prefetch_block(const struct bitmap *map, uint64_t block)
{
	_Atomic uint64_t *leaf = leaf_of(map, block * BLOCK_WORDS);

	for (uint64_t i = 0; i < BLOCK_WORDS; i += LINE_WORDS)
		__builtin_prefetch(&leaf[i], 1);
}

/* Empties one chunk of a map into out, top down. Returns the number of pages. */
static uint64_t take_chunk(struct bitmap *map, uint64_t chunk, struct dli_chunk *out)
{
	uint64_t blocks = take_blocks(map, chunk), pages = 0;

	out->first_page = chunk * PAGESET_CHUNK_PAGES;
	out->words = 0;
	while (blocks) {
		uint64_t block = (uint64_t)__builtin_ctzll(blocks);

		blocks &= blocks - 1;
		if (blocks)
			prefetch_block(map,
				       chunk * CHUNK_BLOCKS + (uint64_t)__builtin_ctzll(blocks));
		pages += take_block(map, chunk, block, out);
	}
	add_pages(map, -(int64_t)pages);
	return pages;
}

/* After the leaf bits: the summaries of the blocks that the chunk has words in. */
static void summarize_chunk(struct bitmap *map, const struct dli_chunk *chunk)
{
	uint64_t block = chunk->first_page / 64 / BLOCK_WORDS, mid = block / 64, blocks = 0;

	for (uint32_t i = 0; i < chunk->words; i++)
		blocks |= UINT64_C(1) << chunk->index[i] / BLOCK_WORDS;
	summarize(&map->mid[mid], blocks << block % 64);
	summarize(&map->top[mid / 64], UINT64_C(1) << mid % 64);
}

/* The block that will be taken next, while the caller works on this chunk. */
static void prefetch_next(const struct dli_pageset *set, uint64_t chunk)
{
	const struct bitmap *map = &set->pending;
	uint64_t block = chunk * CHUNK_BLOCKS, mid = find_mid(set, map, block / 64), bits;

	if (mid == UINT64_MAX)
		return;
	bits = atomic_load_explicit(&map->mid[mid], memory_order_relaxed);
	if (mid == block / 64)
		bits &= ~UINT64_C(0) << block % 64;
	if (bits)
		prefetch_block(map, mid * 64 + (uint64_t)__builtin_ctzll(bits));
}

static void make_pending(struct dli_pageset *set, const struct dli_chunk *chunk)
{
	uint64_t first_word = chunk->first_page / 64, new_pages = 0;

	for (uint32_t i = 0; i < chunk->words; i++) {
		uint64_t bits = chunk->bits[i];
		uint64_t before =
			set_bits(leaf_of(&set->pending, first_word + chunk->index[i]), bits);

		new_pages += count_bits(bits & ~before);
	}
	summarize_chunk(&set->pending, chunk);
	add_pages(&set->pending, (int64_t)new_pages);
}

/* Nobody else sets bits of this map, and nobody clears bits of a word that has none: that is stored. */
static void make_taken(struct dli_pageset *set, const struct dli_chunk *chunk, uint64_t pages)
{
	uint64_t first_word = chunk->first_page / 64;

	for (uint32_t i = 0; i < chunk->words; i++) {
		_Atomic uint64_t *word = leaf_of(&set->taken, first_word + chunk->index[i]);

		if (!atomic_load_explicit(word, memory_order_relaxed)) {
			atomic_store_explicit(word, chunk->bits[i], memory_order_relaxed);
			continue;
		}
		pages -=
			count_bits(chunk->bits[i] & atomic_fetch_or_explicit(word, chunk->bits[i],
									     memory_order_relaxed));
	}
	summarize_chunk(&set->taken, chunk);
	add_pages(&set->taken, (int64_t)pages);
}

bool dli_pageset_take(struct dli_pageset *set, uint64_t *chunk, struct dli_chunk *out)
{
	uint64_t pages;

	do {
		*chunk = find_chunk(set, &set->pending, *chunk);
		if (*chunk == UINT64_MAX)
			return false;
		pages = take_chunk(&set->pending, *chunk, out);
	} while (!pages);
	make_taken(set, out, pages);
	prefetch_next(set, *chunk + 1);
	return true;
}

/* Returns how many of the bits were set. */
static uint32_t clear_word(struct bitmap *map, uint64_t word, uint64_t bits)
{
	uint64_t before =
		atomic_fetch_and_explicit(leaf_of(map, word), ~bits, memory_order_relaxed);

	return count_bits(before & bits);
}

void dli_pageset_give_back(struct dli_pageset *set, const struct dli_chunk *chunk)
{
	uint64_t first_word = chunk->first_page / 64, gone = 0;

	make_pending(set, chunk);
	for (uint32_t i = 0; i < chunk->words; i++)
		gone += clear_word(&set->taken, first_word + chunk->index[i], chunk->bits[i]);
	add_pages(&set->taken, -(int64_t)gone);
}

bool dli_pageset_ack(struct dli_pageset *set, uint64_t first_page, uint64_t pages)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64), gone = 0;

	for (uint64_t word = first_page / 64; word < end_word; word++) {
		uint64_t bits = range_bits(word, first_page, end_page);

		/* Pairs with take_bits(): who finds that a page is gone sees why. */
		if (bits & ~atomic_load_explicit(leaf_of(&set->taken, word), memory_order_acquire))
			return false;
	}
	for (uint64_t word = first_page / 64; word < end_word; word++)
		gone += clear_word(&set->taken, word, range_bits(word, first_page, end_page));
	add_pages(&set->taken, -(int64_t)gone);
	return true;
}

/* Empties a map chunk by chunk; what was in it goes to a function, if one is given. */
static void empty(struct dli_pageset *set, struct bitmap *map,
		  void (*to)(struct dli_pageset *, const struct dli_chunk *))
{
	struct dli_chunk chunk;

	for (uint64_t at = 0; (at = find_chunk(set, map, at)) != UINT64_MAX;)
		if (take_chunk(map, at, &chunk) && to)
			to(set, &chunk);
}

/* Removes the summaries of a map without pages, as acknowledging leaves them. */
static void forget_summaries(struct dli_pageset *set, struct bitmap *map)
{
	for (uint64_t at = 0; (at = find_chunk(set, map, at)) != UINT64_MAX;)
		take_blocks(map, at);
}

void dli_pageset_fold_back(struct dli_pageset *set)
{
	/* Counted down behind the bits, so there are none. */
	if (!atomic_load_explicit(&set->taken.pages, memory_order_relaxed))
		forget_summaries(set, &set->taken);
	else
		empty(set, &set->taken, make_pending);
}

void dli_pageset_clear(struct dli_pageset *set)
{
	empty(set, &set->pending, NULL);
	empty(set, &set->taken, NULL);
}

uint64_t dli_pageset_pending_pages(const struct dli_pageset *set)
{
	return count_pages(&set->pending);
}

uint64_t dli_pageset_taken_pages(const struct dli_pageset *set)
{
	return count_pages(&set->taken);
}
