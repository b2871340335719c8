/* SPDX-License-Identifier: MIT */
#ifndef DLI_PAGE_SET_H
#define DLI_PAGE_SET_H

/*
 * The dirty pages of one slot: pending (known, not handed out) and in flight (handed out, not
 * acknowledged). Each is a bitmap in reserved address space, with summaries above it that lead to
 * its dirty words: a walk costs what is dirty, not what exists.
 *
 * Any thread may mark at any time, and acknowledge. Everything else that changes the set is for one
 * thread at a time, beside those.
 */

#include "kvm/os.h"

enum {
	PAGE_SET_WORD_PAGES = 64,
	/* Covered by one KVM_CLEAR_DIRTY_LOG; also the most words that one batch holds. */
	PAGE_SET_CHUNK_WORDS = 512,
	PAGE_SET_LINE_WORDS = 8, /* a cache line */
	PAGE_SET_CHUNK_PAGES = PAGE_SET_CHUNK_WORDS * PAGE_SET_WORD_PAGES,
};

struct dli_page_set;

/* Words with dirty pages, in rising order. */
struct dli_batch {
	uint32_t n;
	uint32_t word[PAGE_SET_CHUNK_WORDS]; /* page / 64 */
	uint64_t bits[PAGE_SET_CHUNK_WORDS]; /* never 0 */
};

static inline bool dli_batch_has_room(const struct dli_batch *batch, uint32_t words)
{
	return batch->n + words <= PAGE_SET_CHUNK_WORDS;
}

/* pages: 2^38 at most. KVM has less than 2^31 in a slot. */
int dli_page_set_new(const struct dl_os *os, uint64_t pages, struct dli_page_set **set);
void dli_page_set_free(struct dli_page_set *set);
uint64_t dli_page_set_pages(const struct dli_page_set *set);

/*
 * Makes pages pending: bits of the word that begins at page word * 64. Returns how many were not
 * pending before; the caller passes their sum to dli_page_set_count(), once a batch.
 */
uint32_t dli_page_set_mark_word(struct dli_page_set *set, uint64_t word, uint64_t bits);
void dli_page_set_count(struct dli_page_set *set, uint64_t new_pages);
void dli_page_set_mark_and_count(struct dli_page_set *set, uint64_t word, uint64_t bits);

/* Prefetches a word that is marked soon. */
void dli_page_set_prefetch(const struct dli_page_set *set, uint64_t word);

/* The pending pages of the word that begins at page word * 64, as of some moment of late. */
uint64_t dli_page_set_pending_bits(const struct dli_page_set *set, uint64_t word);

/* Make pages pending, which must lie inside the set. Return how many are new, and count them. */
uint64_t dli_page_set_mark_batch(struct dli_page_set *set, const struct dli_batch *batch);
uint64_t dli_page_set_mark_range(struct dli_page_set *set, uint64_t first_page, uint64_t pages);
uint64_t dli_page_set_mark_all(struct dli_page_set *set);

/* Like dli_page_set_mark_batch(), while no other thread marks: plain stores. */
void dli_page_set_mark_alone(struct dli_page_set *set, const struct dli_batch *batch);

/*
 * Moves pending pages at or after *block (of 64 words; 0 to begin) to in flight: as many as the
 * batch has room for, or those of one chunk. *block becomes the block to continue at. False: none
 * are left.
 */
bool dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
		       struct dli_batch *batch);

/*
 * Move pending pages of from elsewhere: into the batch only, or to in flight of a set of the same
 * size. Return their number, 0: none are left. from counts them until dli_page_set_moved(), so that
 * whoever adds the pages of sets finds them somewhere.
 */
uint64_t dli_page_set_move(struct dli_page_set *from, uint64_t *block, struct dli_batch *batch);
uint64_t dli_page_set_take_from(struct dli_page_set *set, struct dli_page_set *from,
				uint64_t *block, bool one_chunk, struct dli_batch *batch);
void dli_page_set_moved(struct dli_page_set *from, uint64_t pages);

/*
 * Like dli_page_set_take(), but the pages leave the set: they are the caller's, who puts them back
 * with dli_page_set_mark_batch().
 */
bool dli_page_set_extract(struct dli_page_set *set, uint64_t *block, bool one_chunk,
			  struct dli_batch *batch);

/*
 * From now on the set knows which pages are marked while they are pending already, by words and
 * batches; until dli_page_set_unwatch(). Before any marker knows the set. -ENOMEM.
 */
int dli_page_set_watch(struct dli_page_set *set);
void dli_page_set_unwatch(struct dli_page_set *set);

/* Takes such pages out of a batch that was taken: they are pending again. */
void dli_page_set_skip_rewritten(struct dli_page_set *set, struct dli_batch *batch);

/* Undoes a take: the batch is pending again. */
void dli_page_set_unclaim(struct dli_page_set *set, const struct dli_batch *batch);

/*
 * Forgets pages in flight and adds their number to *acked, for dli_page_set_count_acked(). False if
 * one of them is not in flight; then nothing is forgotten.
 */
bool dli_page_set_ack(struct dli_page_set *set, uint64_t first_page, uint64_t pages,
		      uint64_t *acked);
void dli_page_set_count_acked(struct dli_page_set *set, uint64_t acked);

/* True if all of the pages are in flight. */
bool dli_page_set_in_flight(const struct dli_page_set *set, uint64_t first_page, uint64_t pages);

/* Makes clean pages in flight that are handed out because their neighbours are dirty. */
void dli_page_set_pad(struct dli_page_set *set, uint64_t first_page, uint64_t pages);

/* Forgets everything in flight. */
void dli_page_set_commit(struct dli_page_set *set);

/* Ors everything, pending and in flight, into the words of a bitmap, and forgets it. */
void dli_page_set_move_to_words(struct dli_page_set *set, uint64_t *words);

/* Makes everything in flight pending again. */
void dli_page_set_requeue(struct dli_page_set *set);

/* Forgets everything, pending and in flight. */
void dli_page_set_clear(struct dli_page_set *set);

uint64_t dli_page_set_pending_pages(const struct dli_page_set *set);
uint64_t dli_page_set_in_flight_pages(const struct dli_page_set *set);

#endif
