/* SPDX-License-Identifier: MIT */
#ifndef DLI_PAGE_SET_MAPS_H
#define DLI_PAGE_SET_MAPS_H

/*
 * The inside of a page set, for page_set.c and page_set_take.c: two sparse bitmaps with two
 * summaries each.
 *
 * leaf: a bit a page. mid: a bit for 64 leaf words, a block. top: a bit a mid word. A setter goes
 * bottom up, and sets a summary bit only if it is not set. A taker clears a summary bit before it
 * looks below. The two agree because all of that is sequentially consistent: a setter that finds
 * the summary bit set had its leaf bit in place before it looked, and whoever clears the summary
 * bit afterwards finds the leaf bit. At worst a summary leads to nothing. A leaf bit is never
 * tested before it is set: the page could be taken, and read, between the test and the conclusion
 * that it is still pending.
 *
 * The setter's RMW of the leaf also releases what it wrote into guest memory before, and the
 * taker's exchange acquires it. There is no kernel partner: both are threads of this process.
 * Acknowledging orders nothing; its end comes before the end of the pass, by leave_ack().
 *
 * The two maps' leaf words of a block lie side by side: taking moves bits from one to the other,
 * and a few dirty pages far apart cost one page of memory each. A mid bit covers so much that the
 * summaries of any guest stay in the caches.
 *
 * Summaries of the in-flight map are for one thread at a time: the taker sets them, the end of the
 * pass clears them. They need no RMW.
 */

#include "pages/bits.h"
#include "pages/page_set.h"

#include <stdatomic.h>

enum {
	BLOCK_WORDS = 64,
	CHUNK_BLOCKS = PAGE_SET_CHUNK_WORDS / BLOCK_WORDS,
};

struct bitmap {
	_Atomic uint64_t *leaf, *mid, *top;
	/* On a cache line of its own: every marker reads the pointers. */
	char apart[64];
	_Atomic int64_t pages;
	char apart_too[64];
};

struct dli_page_set {
	const struct dl_os *os;
	uint64_t pages, mid_words, top_words;
	void *memory;
	size_t memory_bytes;
	struct bitmap pending, in_flight;
	/* A bit a page that was marked while it was pending; NULL: nobody wants to know. */
	_Atomic uint64_t *rewritten;
	_Atomic uint64_t watched; /* 1: still wanted */
};

/*
 * Notes pages that are pending already. Orders nothing: a page that is noted too late, or not at
 * all, is handed out once more than it must be.
 */
static inline void note_rewritten(struct dli_page_set *set, uint64_t word, uint64_t bits)
{
	if (bits && set->rewritten && atomic_load_explicit(&set->watched, memory_order_relaxed))
		atomic_fetch_or_explicit(&set->rewritten[word], bits, memory_order_relaxed);
}

/* The blocks of the two maps alternate. */
static inline _Atomic uint64_t *leaf_of(const struct bitmap *map, uint64_t word)
{
	return &map->leaf[word + word / BLOCK_WORDS * BLOCK_WORDS];
}

/*
 * Sets leaf bits. The exchange in claim_bits() acquires what this releases. The store also comes
 * before the load in set_summary(), which is the order that clear_summary() and load_below() rely
 * on.
 */
static inline uint64_t set_bits(_Atomic uint64_t *word, uint64_t bits)
{
	return atomic_fetch_or_explicit(word, bits, memory_order_seq_cst);
}

/* Pairs with clear_summary(), as the head of this file says. */
static inline void set_summary(_Atomic uint64_t *word, uint64_t bit)
{
	if (!(atomic_load_explicit(word, memory_order_seq_cst) & bit))
		atomic_fetch_or_explicit(word, bit, memory_order_seq_cst);
}

/* Pairs with set_summary(). Only load_below() looks below, and only after this. */
static inline uint64_t clear_summary(_Atomic uint64_t *word, uint64_t bits)
{
	return atomic_fetch_and_explicit(word, ~bits, memory_order_seq_cst) & bits;
}

static inline uint64_t load_below(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_seq_cst);
}

/* Pairs with set_bits(); when everything is forgotten, with is_in_flight() too. */
static inline uint64_t claim_bits(_Atomic uint64_t *word)
{
	return atomic_exchange_explicit(word, 0, memory_order_acq_rel);
}

static inline void add_pages(struct bitmap *map, int64_t pages)
{
	atomic_fetch_add_explicit(&map->pages, pages, memory_order_relaxed);
}

/*
 * Called after the block's leaf bits are set: a summary bit that comes first could be cleared by a
 * taker that finds no leaf bit yet, and the page would never be found again.
 */
static inline void set_block_summary(struct bitmap *map, uint64_t block)
{
	uint64_t mid = block / 64;

	set_summary(&map->mid[mid], UINT64_C(1) << block % 64);
	set_summary(&map->top[mid / 64], UINT64_C(1) << mid % 64);
}

/* For a map whose summaries no other thread changes. */
static inline void set_summary_alone(_Atomic uint64_t *word, uint64_t bit)
{
	uint64_t bits = atomic_load_explicit(word, memory_order_relaxed);

	if (!(bits & bit))
		atomic_store_explicit(word, bits | bit, memory_order_relaxed);
}

static inline void set_block_summary_alone(struct bitmap *map, uint64_t block)
{
	uint64_t mid = block / 64;

	set_summary_alone(&map->mid[mid], UINT64_C(1) << block % 64);
	set_summary_alone(&map->top[mid / 64], UINT64_C(1) << mid % 64);
}

/* Clears bits. Returns how many of them were set. */
static inline uint32_t clear_word(struct bitmap *map, uint64_t word, uint64_t bits)
{
	uint64_t before =
		atomic_fetch_and_explicit(leaf_of(map, word), ~bits, memory_order_relaxed);

	return count_bits(before & bits);
}

#endif
