/* SPDX-License-Identifier: MIT */
/* Protects owed pages before their contents are handed out. */

#include "clear.h"

#include <endian.h>
#include <string.h>

/* Clears what log->clear_words holds, n words of pages from first_word on. */
static int clear_words(struct dl_log *log, struct dli_slot *slot, uint64_t first_word, uint32_t n)
{
	uint64_t first_page = first_word * 64, pages = n * UINT64_C(64);
	int r;

	if (first_page + pages > slot->pages)
		pages = slot->pages - first_page;
	r = dli_bitmap_clear(&log->vm, slot->slot, first_page, (uint32_t)pages, log->clear_words);
	if (r >= 0)
		return 0;
	/* It has made the words little-endian. */
	for (uint32_t i = 0; i < n; i++)
		log->clear_words[i] = le64toh(log->clear_words[i]);
	dli_owed_put_back(&slot->owed, first_word, n, log->clear_words);
	return dli_log_fail(log, DLI_BITMAP_NOT_CLEARED, slot->slot, r);
}

int dli_clear_batch(struct dl_log *log, struct dli_slot *slot, const struct dli_batch *batch)
{
	uint32_t first, n;

	if (!slot->owed.any || !batch->n)
		return 0;
	first = batch->word[0];
	n = batch->word[batch->n - 1] - first + 1;
	memset(log->clear_bits, 0, n * sizeof(log->clear_bits[0]));
	for (uint32_t i = 0; i < batch->n; i++)
		log->clear_bits[batch->word[i] - first] = batch->bits[i];
	if (!dli_owed_take(&slot->owed, first, n, log->clear_bits, log->clear_words))
		return 0;
	return clear_words(log, slot, first, n);
}

int dli_clear_range(struct dl_log *log, struct dli_slot *slot, uint64_t first_page, uint64_t pages)
{
	uint64_t end_word = (first_page + pages + 63) / 64;

	if (!slot->owed.any)
		return 0;
	for (uint64_t word = first_page / 64; word < end_word; word += PAGE_SET_CHUNK_WORDS) {
		uint32_t n = end_word - word < PAGE_SET_CHUNK_WORDS ? (uint32_t)(end_word - word)
								    : PAGE_SET_CHUNK_WORDS;
		int r = 0;

		if (dli_owed_take(&slot->owed, word, n, NULL, log->clear_words))
			r = clear_words(log, slot, word, n);
		if (r)
			return r;
	}
	return 0;
}
