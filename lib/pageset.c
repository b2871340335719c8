/* SPDX-License-Identifier: MIT */
/*
 * Two sparse bitmaps with two summaries each.
 *
 * leaf: a bit a page. mid: a bit a leaf word. top: a bit for eight mid words, which is one chunk.
 * Whoever sets a bit does it bottom up, leaf, mid, top, each by an unconditional fetch_or. Whoever
 * takes goes top down, and each step removes the summary bit before it looks below. So a bit that
 * is set below while its summary is being taken gets a summary bit of its own afterwards: at worst
 * a summary leads to nothing; a page without a summary above it does not outlast its setter's call.
 * Testing a bit before setting it would save the write and lose marks: the page could be taken, and
 * read, between the test and the caller's conclusion that it is still pending.
 *
 * Memory order: the setter's fetch_or releases what it wrote into guest memory before; the taker's
 * exchange acquires it. By the same, whoever takes a summary bit sees the bits below that it stands
 * for: so the step at the top is an acquire too. No kernel partner: both sides are threads of this
 * process. Acknowledging orders nothing: the caller ends it before it ends the iteration.
 */

#include "pageset.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Mid words under one top bit. */
#define MID_GROUP 8u

struct bitmap {
	_Atomic uint64_t *leaf, *mid, *top;
	_Atomic int64_t pages;
};

struct dli_pageset {
	const struct dl_os *os;
	uint64_t pages, leaf_words, mid_words, top_words;
	void *memory;
	size_t memory_bytes;
	struct bitmap pending, taken;
};

static uint64_t divide_up(uint64_t n, uint64_t by)
{
	return n / by + (n % by != 0);
}

static void lay_out(struct bitmap *map, const struct dli_pageset *set, _Atomic uint64_t *at)
{
	map->leaf = at;
	map->mid = map->leaf + set->leaf_words;
	map->top = map->mid + set->mid_words;
}

int dli_pageset_new(const struct dl_os *os, uint64_t pages, struct dli_pageset **out)
{
	struct dli_pageset *set = dli_allocate(1, sizeof(*set));
	uint64_t words;
	int r;

	if (!set)
		return -ENOMEM;
	set->os = os;
	set->pages = pages;
	set->leaf_words = divide_up(pages, 64);
	/* Whole groups, so that a group can be walked without asking where the set ends. */
	set->mid_words = divide_up(divide_up(set->leaf_words, 64), MID_GROUP) * MID_GROUP;
	set->top_words = divide_up(set->mid_words / MID_GROUP, 64);
	words = set->leaf_words + set->mid_words + set->top_words;
	set->memory_bytes = 2 * words * sizeof(uint64_t);
	r = dli_os_reserve(os, set->memory_bytes, &set->memory);
	if (r) {
		free(set);
		return r;
	}
	lay_out(&set->pending, set, set->memory);
	lay_out(&set->taken, set, (_Atomic uint64_t *)set->memory + words);
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

/* Pairs with take_bits() and take_chunk(). */
static uint64_t set_bits(_Atomic uint64_t *word, uint64_t bits)
{
	return atomic_fetch_or_explicit(word, bits, memory_order_release);
}

/* Pairs with set_bits(), and, where all is forgotten, with the look of dli_pageset_ack(). */
static uint64_t take_bits(_Atomic uint64_t *word)
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

/* Returns how many of the bits were not set before. */
static uint32_t set_word(struct bitmap *map, uint64_t word, uint64_t bits)
{
	uint64_t before = set_bits(&map->leaf[word], bits);
	uint64_t mid = word / 64, group = mid / MID_GROUP;

	set_bits(&map->mid[mid], UINT64_C(1) << word % 64);
	set_bits(&map->top[group / 64], UINT64_C(1) << group % 64);
	return (uint32_t)__builtin_popcountll(bits & ~before);
}

uint32_t dli_pageset_mark_word(struct dli_pageset *set, uint64_t word, uint64_t bits)
{
	return set_word(&set->pending, word, bits);
}

void dli_pageset_count(struct dli_pageset *set, uint64_t new_pages)
{
	if (new_pages)
		add_pages(&set->pending, (int64_t)new_pages);
}

/* The bits of a word that lie in [first_page, end_page). */
static uint64_t range_bits(uint64_t word, uint64_t first_page, uint64_t end_page)
{
	uint64_t bits = ~UINT64_C(0), begin = word * 64;

	if (first_page > begin)
		bits &= ~UINT64_C(0) << (first_page - begin);
	if (end_page < begin + 64)
		bits &= ~UINT64_C(0) >> (begin + 64 - end_page);
	return bits;
}

/* Leaf words that share a mid word get their summaries once, after the last of them. */
static uint64_t mark_under_one_mid(struct bitmap *map, uint64_t first_word, uint64_t end_word,
				   uint64_t first_page, uint64_t end_page)
{
	uint64_t mid = first_word / 64, group = mid / MID_GROUP, new_pages = 0;

	for (uint64_t word = first_word; word < end_word; word++) {
		uint64_t bits = range_bits(word, first_page, end_page);

		new_pages +=
			(uint64_t)__builtin_popcountll(bits & ~set_bits(&map->leaf[word], bits));
	}
	set_bits(&map->mid[mid], range_bits(mid, first_word, end_word));
	set_bits(&map->top[group / 64], UINT64_C(1) << group % 64);
	return new_pages;
}

uint64_t dli_pageset_mark_range(struct dli_pageset *set, uint64_t first_page, uint64_t pages)
{
	uint64_t end_page = first_page + pages, end_word = divide_up(end_page, 64);
	uint64_t word = first_page / 64, new_pages = 0;

	while (pages && word < end_word) {
		uint64_t next = (word / 64 + 1) * 64;

		if (next > end_word)
			next = end_word;
		new_pages += mark_under_one_mid(&set->pending, word, next, first_page, end_page);
		word = next;
	}
	dli_pageset_count(set, new_pages);
	return new_pages;
}

uint64_t dli_pageset_mark_all(struct dli_pageset *set)
{
	return dli_pageset_mark_range(set, 0, set->pages);
}

/* The first chunk at or behind chunk whose top bit is set, or UINT64_MAX. */
static uint64_t find_chunk(const struct dli_pageset *set, const struct bitmap *map, uint64_t chunk)
{
	uint64_t word = chunk / 64, bits;

	if (word >= set->top_words)
		return UINT64_MAX;
	bits = atomic_load_explicit(&map->top[word], memory_order_relaxed);
	bits &= ~UINT64_C(0) << chunk % 64;
	while (!bits) {
		if (++word == set->top_words)
			return UINT64_MAX;
		bits = atomic_load_explicit(&map->top[word], memory_order_relaxed);
	}
	return word * 64 + (uint64_t)__builtin_ctzll(bits);
}

/* Empties one chunk of a map into out, top down. Returns the number of pages. */
static uint64_t take_chunk(struct bitmap *map, uint64_t chunk, struct dli_chunk *out)
{
	uint64_t pages = 0;

	out->first_page = chunk * PAGESET_CHUNK_PAGES;
	out->words = 0;
	/* Pairs with set_bits(). */
	atomic_fetch_and_explicit(&map->top[chunk / 64], ~(UINT64_C(1) << chunk % 64),
				  memory_order_acquire);
	for (uint64_t mid = 0; mid < MID_GROUP; mid++) {
		uint64_t summary = take_bits(&map->mid[chunk * MID_GROUP + mid]);

		for (; summary; summary &= summary - 1) {
			uint64_t index = mid * 64 + (uint64_t)__builtin_ctzll(summary);
			uint64_t bits = take_bits(&map->leaf[chunk * PAGESET_CHUNK_WORDS + index]);

			if (!bits)
				continue;
			out->index[out->words] = (uint16_t)index;
			out->bits[out->words++] = bits;
			pages += (uint64_t)__builtin_popcountll(bits);
		}
	}
	add_pages(map, -(int64_t)pages);
	return pages;
}

static void put_chunk(struct bitmap *map, const struct dli_chunk *chunk)
{
	uint64_t first_word = chunk->first_page / 64, new_pages = 0;

	for (uint32_t i = 0; i < chunk->words; i++)
		new_pages += set_word(map, first_word + chunk->index[i], chunk->bits[i]);
	add_pages(map, (int64_t)new_pages);
}

bool dli_pageset_take(struct dli_pageset *set, uint64_t *chunk, struct dli_chunk *out)
{
	for (;;) {
		*chunk = find_chunk(set, &set->pending, *chunk);
		if (*chunk == UINT64_MAX)
			return false;
		if (take_chunk(&set->pending, *chunk, out))
			break;
	}
	put_chunk(&set->taken, out);
	return true;
}

/* Returns how many of the bits were set. */
static uint32_t clear_word(struct bitmap *map, uint64_t word, uint64_t bits)
{
	uint64_t before = atomic_fetch_and_explicit(&map->leaf[word], ~bits, memory_order_relaxed);

	return (uint32_t)__builtin_popcountll(before & bits);
}

void dli_pageset_give_back(struct dli_pageset *set, const struct dli_chunk *chunk)
{
	uint64_t first_word = chunk->first_page / 64, gone = 0;

	put_chunk(&set->pending, chunk);
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
		if (bits & ~atomic_load_explicit(&set->taken.leaf[word], memory_order_acquire))
			return false;
	}
	for (uint64_t word = first_page / 64; word < end_word; word++)
		gone += clear_word(&set->taken, word, range_bits(word, first_page, end_page));
	add_pages(&set->taken, -(int64_t)gone);
	return true;
}

void dli_pageset_fold_back(struct dli_pageset *set)
{
	struct dli_chunk chunk;
	uint64_t at = 0;

	while ((at = find_chunk(set, &set->taken, at)) != UINT64_MAX)
		if (take_chunk(&set->taken, at, &chunk))
			put_chunk(&set->pending, &chunk);
}

void dli_pageset_clear(struct dli_pageset *set)
{
	struct dli_chunk chunk;
	uint64_t at;

	for (at = 0; (at = find_chunk(set, &set->pending, at)) != UINT64_MAX;)
		take_chunk(&set->pending, at, &chunk);
	for (at = 0; (at = find_chunk(set, &set->taken, at)) != UINT64_MAX;)
		take_chunk(&set->taken, at, &chunk);
}

uint64_t dli_pageset_pending_pages(const struct dli_pageset *set)
{
	return count_pages(&set->pending);
}

uint64_t dli_pageset_taken_pages(const struct dli_pageset *set)
{
	return count_pages(&set->taken);
}
