/* SPDX-License-Identifier: MIT */
/* KVM's bitmap of a slot becomes pending pages. */

#include "pages/bitmap_merge.h"

#include "kvm/bitmap.h"
#include "pages/bits.h"

/*
 * Appends words [from, from + n), at most a cache line of them, to a batch that has room for them.
 * Each is stored and only those with bits are kept: no processor can predict whether the next has
 * any.
 */
static inline void append_words(struct dli_batch *batch, const uint64_t *words, uint64_t from,
				uint64_t n)
{
	for (uint64_t i = from; i < from + n; i++) {
		uint64_t bits = dli_bitmap_word(words[i]);

		batch->word[batch->n] = (uint32_t)i;
		batch->bits[batch->n] = bits;
		batch->n += bits != 0;
	}
}

/* How many pages neither of the sets has. */
static uint64_t count_new(const struct dli_page_set *set, const struct dli_page_set *planned,
			  const struct dli_batch *batch)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < batch->n; i++) {
		uint64_t known = dli_page_set_pending_bits(set, batch->word[i]) |
				 dli_page_set_pending_bits(planned, batch->word[i]);

		pages += count_bits(batch->bits[i] & ~known);
	}
	return pages;
}

static uint64_t mark(struct dli_slot *slot, const struct dli_batch *batch)
{
	struct dli_page_set *set = dli_slot_target(slot), *planned = dli_slot_planned(slot, set);
	uint64_t new_pages = planned ? count_new(set, planned, batch) : 0, marked;

	dli_owed_add(&slot->owed, batch);
	marked = dli_page_set_mark_batch(set, batch);
	return planned ? new_pages : marked;
}

uint64_t dli_slot_merge(struct dli_slot *slot, uint64_t *words)
{
	uint64_t pages = slot->pages, n = dli_bitmap_words(pages);
	uint64_t lines = n / PAGE_SET_LINE_WORDS, new_pages = 0;
	struct dli_batch batch;

	batch.n = 0;
	/* A kernel sets no bits past the end; if one did, they would be pages of no slot. */
	words[n - 1] &= dli_bitmap_word(range_bits(n - 1, 0, pages));
	for (uint64_t line = 0; line < lines; line++) {
		const uint64_t *w = words + line * PAGE_SET_LINE_WORDS;

		/* Most of a bitmap is clean: look at it by the cache line. */
		if (!(w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]))
			continue;
		append_words(&batch, words, line * PAGE_SET_LINE_WORDS, PAGE_SET_LINE_WORDS);
		if (dli_batch_has_room(&batch, PAGE_SET_LINE_WORDS))
			continue;
		new_pages += mark(slot, &batch);
		batch.n = 0;
	}
	append_words(&batch, words, lines * PAGE_SET_LINE_WORDS, n % PAGE_SET_LINE_WORDS);
	return new_pages + mark(slot, &batch);
}
