/* SPDX-License-Identifier: MIT */
/* Pages that the kernel may still leave writable. */

#include "pages/owed.h"

#include "pages/bits.h"

#include <string.h>

int dli_owed_init(struct dli_owed *owed, const struct dl_os *os, uint64_t pages)
{
	uint64_t n_words = divide_up(pages, PAGE_SET_WORD_PAGES);
	void *memory;
	int r;

	if (owed->words)
		return 0;
	r = dli_os_reserve(os, n_words * sizeof(uint64_t), &memory);
	if (r)
		return r;
	*owed = (struct dli_owed){ os, memory, n_words * sizeof(uint64_t), pages, false };
	return 0;
}

void dli_owed_fini(struct dli_owed *owed)
{
	if (owed->words)
		dli_os_unmap(owed->os, owed->words, owed->bytes);
	owed->words = NULL;
}

void dli_owed_add(struct dli_owed *owed, const struct dli_batch *batch)
{
	if (!owed->words)
		return;
	for (uint32_t i = 0; i < batch->n; i++)
		owed->words[batch->word[i]] |= batch->bits[i];
	owed->any |= batch->n != 0;
}

void dli_owed_add_all(struct dli_owed *owed)
{
	uint64_t n_words = owed->bytes / sizeof(uint64_t);

	if (!owed->words)
		return;
	for (uint64_t word = 0; word < n_words; word++)
		owed->words[word] = range_bits(word, 0, owed->pages);
	owed->any = true;
}

void dli_owed_forget(struct dli_owed *owed)
{
	if (!owed->any)
		return;
	memset(owed->words, 0, owed->bytes);
	owed->any = false;
}

bool dli_owed_take(struct dli_owed *owed, uint64_t first_word, uint32_t n, const uint64_t *bits,
		   uint64_t *taken)
{
	uint64_t all = 0;

	if (!owed->any)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		taken[i] = owed->words[first_word + i] & (bits ? bits[i] : ~UINT64_C(0));
		all |= taken[i];
	}
	if (!all)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (taken[i])
			owed->words[first_word + i] &= ~taken[i];
	return true;
}

void dli_owed_put_back(struct dli_owed *owed, uint64_t first_word, uint32_t n,
		       const uint64_t *taken)
{
	for (uint32_t i = 0; i < n; i++)
		owed->words[first_word + i] |= taken[i];
}

void dli_owed_mark(const struct dli_owed *owed, struct dli_page_set *set)
{
	uint64_t n_words = owed->bytes / sizeof(uint64_t);
	struct dli_batch batch = { .n = 0 };

	if (!owed->any)
		return;
	for (uint64_t word = 0; word < n_words; word++) {
		if (!owed->words[word])
			continue;
		batch.word[batch.n] = (uint32_t)word;
		batch.bits[batch.n++] = owed->words[word];
		if (dli_batch_has_room(&batch, 1))
			continue;
		dli_page_set_mark_batch(set, &batch);
		batch.n = 0;
	}
	dli_page_set_mark_batch(set, &batch);
}
