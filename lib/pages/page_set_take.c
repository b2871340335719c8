/* SPDX-License-Identifier: MIT */
/* Taking from a page set, and the ways back: unclaim, requeue, clear. */

#include "pages/page_set_maps.h"

/* Claimed blocks: their summary bits are cleared, their words are taken next. */
struct blocks {
	uint32_t n;
	uint64_t block[CHUNK_BLOCKS];
};

/* Clears the top bit of an empty mid word, then rechecks: a setter may have raced. */
static void clear_top(struct bitmap *map, uint64_t mid)
{
	uint64_t bit = UINT64_C(1) << mid % 64;

	clear_summary(&map->top[mid / 64], bit);
	if (load_below(&map->mid[mid]))
		set_summary(&map->top[mid / 64], bit);
}

/* The first mid word at or after mid whose top bit is set, or UINT64_MAX. */
static uint64_t find_mid(const struct dli_page_set *set, const struct bitmap *map, uint64_t mid)
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

/* A mid word's bits for the blocks in [from, end). */
static uint64_t mid_bits(const struct bitmap *map, uint64_t mid, uint64_t from, uint64_t end)
{
	return atomic_load_explicit(&map->mid[mid], memory_order_relaxed) &
	       range_bits(mid, from, end);
}

/* The first block at or after block that a summary leads to, or UINT64_MAX. */
static uint64_t find_block(const struct dli_page_set *set, struct bitmap *map, uint64_t block)
{
	uint64_t mid = block / 64;

	while ((mid = find_mid(set, map, mid)) != UINT64_MAX) {
		uint64_t bits = mid_bits(map, mid, block, UINT64_MAX);

		if (bits)
			return mid * 64 + (uint64_t)__builtin_ctzll(bits);
		if (!atomic_load_explicit(&map->mid[mid], memory_order_relaxed))
			clear_top(map, mid);
		mid++;
	}
	return UINT64_MAX;
}

/* The n lowest of bits, or all of them. */
static uint64_t lowest_bits(uint64_t bits, uint32_t n)
{
	uint64_t rest = bits;

	while (rest && n--)
		rest &= rest - 1;
	return bits & ~rest;
}

/* Starts all cache misses of a block at once. */
static void prefetch_block(const struct bitmap *map, uint64_t block)
{
	_Atomic uint64_t *leaf = leaf_of(map, block * BLOCK_WORDS);

	for (uint64_t i = 0; i < BLOCK_WORDS; i += PAGE_SET_LINE_WORDS)
		__builtin_prefetch(&leaf[i], 1);
}

/*
 * Prefetches the next n blocks at or after *ahead, which moves past them. Looks only: a block that
 * is missed here is claimed all the same.
 */
static void prefetch_blocks(const struct dli_page_set *set, const struct bitmap *map,
			    uint64_t *ahead, uint32_t n)
{
	while (n) {
		uint64_t mid = find_mid(set, map, *ahead / 64), bits;

		if (mid == UINT64_MAX)
			return;
		bits = mid_bits(map, mid, *ahead, UINT64_MAX);
		*ahead = (mid + 1) * 64;
		for (; bits && n; bits &= bits - 1, n--) {
			uint64_t block = mid * 64 + (uint64_t)__builtin_ctzll(bits);

			prefetch_block(map, block);
			*ahead = block + 1;
		}
	}
}

/* Claims blocks of one mid word. */
static void claim_blocks_of_mid(struct bitmap *map, uint64_t mid, uint64_t bits,
				struct blocks *blocks)
{
	bits = clear_summary(&map->mid[mid], bits);
	if (!atomic_load_explicit(&map->mid[mid], memory_order_relaxed))
		clear_top(map, mid);
	for (; bits; bits &= bits - 1) {
		uint64_t block = mid * 64 + (uint64_t)__builtin_ctzll(bits);

		blocks->block[blocks->n++] = block;
	}
}

/* Claims the next blocks in [*from, end), at most room. Moves *from past the last of them. */
static void claim_blocks(const struct dli_page_set *set, struct bitmap *map, uint64_t *from,
			 uint64_t end, uint32_t room, struct blocks *blocks)
{
	blocks->n = 0;
	while (blocks->n < room) {
		uint64_t block = find_block(set, map, *from), mid = block / 64, bits;

		if (block >= end)
			return;
		bits = lowest_bits(mid_bits(map, mid, block, end), room - blocks->n);
		claim_blocks_of_mid(map, mid, bits, blocks);
		*from = mid * 64 + 64 - (uint64_t)__builtin_clzll(bits);
	}
}

static inline uint64_t load_line(const _Atomic uint64_t *leaf)
{
	return load_below(&leaf[0]) | load_below(&leaf[1]) | load_below(&leaf[2]) |
	       load_below(&leaf[3]) | load_below(&leaf[4]) | load_below(&leaf[5]) |
	       load_below(&leaf[6]) | load_below(&leaf[7]);
}

/* A bit for each word of a cache line that has pages. */
static inline uint64_t dirty_in_line(const _Atomic uint64_t *leaf)
{
	uint64_t clean = !load_below(&leaf[7]);

	clean = 2 * clean + !load_below(&leaf[6]);
	clean = 2 * clean + !load_below(&leaf[5]);
	clean = 2 * clean + !load_below(&leaf[4]);
	clean = 2 * clean + !load_below(&leaf[3]);
	clean = 2 * clean + !load_below(&leaf[2]);
	clean = 2 * clean + !load_below(&leaf[1]);
	clean = 2 * clean + !load_below(&leaf[0]);
	return ~clean & 0xff;
}

/*
 * A bit for each word of a block that has pages. There is no branch for a word: no processor can
 * predict which words of a line are dirty. next: where the words go, or NULL.
 */
static inline uint64_t dirty_words(const _Atomic uint64_t *leaf, const _Atomic uint64_t *next)
{
	uint64_t words = 0;

	for (uint64_t i = 0; i < BLOCK_WORDS; i += PAGE_SET_LINE_WORDS) {
		if (!load_line(&leaf[i]))
			continue;
		if (next)
			__builtin_prefetch(&next[i], 1);
		words |= dirty_in_line(&leaf[i]) << i;
	}
	return words;
}

/* next: the map that the words go to, or NULL. Returns the number of pages. */
static uint64_t claim_block(struct bitmap *map, const struct bitmap *next, uint64_t block,
			    struct dli_batch *batch)
{
	uint64_t first = block * BLOCK_WORDS, pages = 0;
	_Atomic uint64_t *leaf = leaf_of(map, first);
	uint64_t words = dirty_words(leaf, next ? leaf_of(next, first) : NULL);
	uint32_t n = batch->n;

	for (; words; words &= words - 1) {
		uint64_t i = (uint64_t)__builtin_ctzll(words), bits = claim_bits(&leaf[i]);

		/* In the in-flight map, another thread may just have acknowledged it. */
		if (!bits)
			continue;
		batch->word[n] = (uint32_t)(first + i);
		batch->bits[n++] = bits;
		pages += count_bits(bits);
	}
	batch->n = n;
	return pages;
}

/*
 * Empties blocks of a map in [*from, end) into the batch, as many as are sure to fit. Returns the
 * number of pages, which the map still counts: 0 only if there are none.
 */
static uint64_t claim_batch(const struct dli_page_set *set, struct bitmap *map,
			    const struct bitmap *next, uint64_t *from, uint64_t end,
			    struct dli_batch *batch)
{
	enum { AHEAD = 8 };
	struct blocks blocks;
	uint64_t pages = 0, ahead = *from;

	batch->n = 0;
	prefetch_blocks(set, map, &ahead, AHEAD);
	do {
		claim_blocks(set, map, from, end, (PAGE_SET_CHUNK_WORDS - batch->n) / BLOCK_WORDS,
			     &blocks);
		for (uint32_t i = 0; i < blocks.n; i++) {
			prefetch_blocks(set, map, &ahead, 1);
			pages += claim_block(map, next, blocks.block[i], batch);
		}
	} while (blocks.n && dli_batch_has_room(batch, BLOCK_WORDS));
	return pages;
}

/* No other thread sets bits of this map, or changes a word that has none: a plain store will do. */
static void make_in_flight(struct dli_page_set *set, const struct dli_batch *batch, uint64_t pages)
{
	struct bitmap *map = &set->in_flight;
	uint64_t block = UINT64_MAX;

	for (uint32_t i = 0; i < batch->n; i++) {
		_Atomic uint64_t *word = leaf_of(map, batch->word[i]);
		uint64_t bits = batch->bits[i];

		if (!atomic_load_explicit(word, memory_order_relaxed))
			atomic_store_explicit(word, bits, memory_order_relaxed);
		else
			pages -= count_bits(
				bits & atomic_fetch_or_explicit(word, bits, memory_order_relaxed));
		if (batch->word[i] / BLOCK_WORDS == block)
			continue;
		block = batch->word[i] / BLOCK_WORDS;
		set_block_summary_alone(map, block);
	}
	add_pages(map, (int64_t)pages);
}

/* Claims from the first chunk at or after *block that has pages. Returns their number. */
static uint64_t claim_chunk(struct dli_page_set *set, const struct bitmap *next, uint64_t *block,
			    struct dli_batch *batch)
{
	uint64_t pages = 0, first;

	while (!pages && (first = find_block(set, &set->pending, *block)) != UINT64_MAX) {
		/* Not from the old *block: a page of an earlier chunk may be marked by now. */
		*block = first;
		pages = claim_batch(set, &set->pending, next, block,
				    (first / CHUNK_BLOCKS + 1) * CHUNK_BLOCKS, batch);
	}
	return pages;
}

static uint64_t claim(struct dli_page_set *set, const struct bitmap *next, uint64_t *block,
		      bool one_chunk, struct dli_batch *batch)
{
	return one_chunk ? claim_chunk(set, next, block, batch)
			 : claim_batch(set, &set->pending, next, block, UINT64_MAX, batch);
}

uint64_t dli_page_set_move(struct dli_page_set *from, uint64_t *block, struct dli_batch *batch)
{
	return claim(from, NULL, block, false, batch);
}

uint64_t dli_page_set_take_from(struct dli_page_set *set, struct dli_page_set *from,
				uint64_t *block, bool one_chunk, struct dli_batch *batch)
{
	uint64_t pages = claim(from, &set->in_flight, block, one_chunk, batch);

	if (pages)
		make_in_flight(set, batch, pages);
	return pages;
}

void dli_page_set_moved(struct dli_page_set *from, uint64_t pages)
{
	/* Pairs with count_pages(), which then finds the pages in the other set. */
	atomic_fetch_sub_explicit(&from->pending.pages, (int64_t)pages, memory_order_release);
}

bool dli_page_set_extract(struct dli_page_set *set, uint64_t *block, bool one_chunk,
			  struct dli_batch *batch)
{
	uint64_t pages = claim(set, NULL, block, one_chunk, batch);

	dli_page_set_moved(set, pages);
	return pages;
}

bool dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
		       struct dli_batch *batch)
{
	uint64_t pages = dli_page_set_take_from(set, set, block, one_chunk, batch);

	dli_page_set_moved(set, pages);
	return pages;
}

void dli_page_set_unclaim(struct dli_page_set *set, const struct dli_batch *batch)
{
	uint64_t pages = 0;

	dli_page_set_mark_batch(set, batch);
	for (uint32_t i = 0; i < batch->n; i++)
		pages += clear_word(&set->in_flight, batch->word[i], batch->bits[i]);
	add_pages(&set->in_flight, -(int64_t)pages);
}

void dli_page_set_skip_rewritten(struct dli_page_set *set, struct dli_batch *batch)
{
	struct dli_batch skipped = { .n = 0 };
	uint32_t kept = 0;

	if (!set->rewritten)
		return;
	for (uint32_t i = 0; i < batch->n; i++) {
		uint32_t word = batch->word[i];
		uint64_t bits = batch->bits[i], again;

		again = bits & atomic_load_explicit(&set->rewritten[word], memory_order_relaxed);
		if (again) {
			skipped.word[skipped.n] = word;
			skipped.bits[skipped.n++] = again;
		}
		batch->word[kept] = word;
		batch->bits[kept] = bits & ~again;
		kept += (bits & ~again) != 0;
	}
	batch->n = kept;
	dli_page_set_unclaim(set, &skipped);
}

/* Empties a map; its pages are marked pending, or forgotten. */
static void empty(struct dli_page_set *set, struct bitmap *map, bool mark)
{
	struct dli_batch batch;
	uint64_t from = 0, pages;

	while ((pages = claim_batch(set, map, NULL, &from, UINT64_MAX, &batch))) {
		add_pages(map, -(int64_t)pages);
		if (mark)
			dli_page_set_mark_batch(set, &batch);
	}
}

/* For an in-flight map whose pages are all acknowledged. */
static void clear_summaries(const struct dli_page_set *set, struct bitmap *map)
{
	for (uint64_t mid = 0; (mid = find_mid(set, map, mid)) != UINT64_MAX; mid++) {
		uint64_t top = atomic_load_explicit(&map->top[mid / 64], memory_order_relaxed);

		atomic_store_explicit(&map->mid[mid], 0, memory_order_relaxed);
		atomic_store_explicit(&map->top[mid / 64], top & ~(UINT64_C(1) << mid % 64),
				      memory_order_relaxed);
	}
}

void dli_page_set_requeue(struct dli_page_set *set)
{
	/* The count goes down after the bits, so no bit is left. */
	if (!atomic_load_explicit(&set->in_flight.pages, memory_order_relaxed))
		clear_summaries(set, &set->in_flight);
	else
		empty(set, &set->in_flight, true);
}

void dli_page_set_commit(struct dli_page_set *set)
{
	empty(set, &set->in_flight, false);
}

/* Other threads acknowledge meanwhile, but only pages that are in flight already. */
void dli_page_set_pad(struct dli_page_set *set, uint64_t first_page, uint64_t pages)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64);
	struct dli_batch batch = { .n = 1 };

	for (uint64_t word = first_page / 64; word < end_word; word++) {
		batch.word[0] = (uint32_t)word;
		batch.bits[0] = range_bits(word, first_page, end_page);
		make_in_flight(set, &batch, count_bits(batch.bits[0]));
	}
}

static void move_map_to_words(struct dli_page_set *set, struct bitmap *map, uint64_t *words)
{
	struct dli_batch batch;
	uint64_t from = 0, pages;

	while ((pages = claim_batch(set, map, NULL, &from, UINT64_MAX, &batch))) {
		add_pages(map, -(int64_t)pages);
		for (uint32_t i = 0; i < batch.n; i++)
			words[batch.word[i]] |= batch.bits[i];
	}
}

void dli_page_set_move_to_words(struct dli_page_set *set, uint64_t *words)
{
	move_map_to_words(set, &set->pending, words);
	move_map_to_words(set, &set->in_flight, words);
}

void dli_page_set_clear(struct dli_page_set *set)
{
	empty(set, &set->pending, false);
	empty(set, &set->in_flight, false);
}
