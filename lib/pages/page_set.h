/* SPDX-License-Identifier: MIT */
#ifndef DLI_PAGE_SET_H
#define DLI_PAGE_SET_H

/*
 * The dirty pages of one slot: pending (known, not handed out) and taken (handed out, not
 * acknowledged). Each is a bitmap in reserved address space, with summaries above it that lead to
 * its dirty words, so that walking costs what is dirty, not what exists.
 *
 * Marking may be done by any thread at any time. Taking, giving back, folding back and clearing are
 * for one thread at a time, beside markers and acknowledgers.
 */

#include "kvm/os.h"

enum {
	PAGE_SET_WORD_PAGES = 64,
	/* What one KVM_CLEAR_DIRTY_LOG covers, and what is taken at once at most. */
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
 * pending before; whoever calls it adds them up for dli_page_set_count(), once a batch.
 */
uint32_t dli_page_set_mark_word(struct dli_page_set *set, uint64_t word, uint64_t bits);
void dli_page_set_count(struct dli_page_set *set, uint64_t new_pages);

/* Asks for the memory of a word that is to be marked soon. */
void dli_page_set_prefetch(const struct dli_page_set *set, uint64_t word);

/* These make pages pending, which must lie inside. They return how many are new, and count them. */
uint64_t dli_page_set_mark_batch(struct dli_page_set *set, const struct dli_batch *batch);
uint64_t dli_page_set_mark_range(struct dli_page_set *set, uint64_t first_page, uint64_t pages);
uint64_t dli_page_set_mark_all(struct dli_page_set *set);

/*
 * Moves what is pending at or behind *block (of 64 words; 0 at the beginning) to taken, as much as the
 * batch has room for, or of one_chunk. *block becomes the one to go on with. False: none is left.
 */
bool dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
		       struct dli_batch *batch);

/* Makes what was taken pending again. */
void dli_page_set_unclaim(struct dli_page_set *set, const struct dli_batch *batch);

/*
 * Forgets taken pages, and adds how many to *acked, for dli_page_set_count_acked(). False, and nothing is
 * forgotten, where one of them is not taken.
 */
bool dli_page_set_ack(struct dli_page_set *set, uint64_t first_page, uint64_t pages,
		      uint64_t *acked);
void dli_page_set_count_acked(struct dli_page_set *set, uint64_t acked);

/* Makes all that is taken pending again. */
void dli_page_set_requeue(struct dli_page_set *set);

/* Forgets everything, pending and taken. */
void dli_page_set_clear(struct dli_page_set *set);

uint64_t dli_page_set_pending_pages(const struct dli_page_set *set);
uint64_t dli_page_set_in_flight_pages(const struct dli_page_set *set);

#endif
