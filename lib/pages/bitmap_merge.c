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

static uint64_t mark(struct dli_page_set *set, struct dli_owed *owed, const struct dli_batch *batch)
{
	dli_owed_add(owed, batch);
	return dli_page_set_mark_batch(set, batch);
}

uint64_t dli_page_set_merge(struct dli_page_set *set, struct dli_owed *owed, uint64_t *words)
{
	uint64_t pages = dli_page_set_pages(set), n = dli_bitmap_words(pages);
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
		new_pages += mark(set, owed, &batch);
		batch.n = 0;
	}
	append_words(&batch, words, lines * PAGE_SET_LINE_WORDS, n % PAGE_SET_LINE_WORDS);
	return new_pages + mark(set, owed, &batch);
}
