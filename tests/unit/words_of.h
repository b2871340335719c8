/* SPDX-License-Identifier: MIT */
#ifndef UNIT_WORDS_OF_H
#define UNIT_WORDS_OF_H

/* Walks dirty words page by page. */

#include "pages/words.h"

/* Finds the next page and its slot; false at the end. *at and *bit are 0 at first. */
static inline bool next_page(const struct dli_dirty_word *words, uint32_t n, uint32_t *at,
			     uint32_t *bit, uint32_t *slot, uint64_t *page)
{
	for (; *at < n; ++*at, *bit = 0)
		for (; *bit < 64; ++*bit)
			if (words[*at].bits >> *bit & 1) {
				*slot = words[*at].slot;
				*page = words[*at].word * 64 + *bit;
				++*bit;
				return true;
			}
	return false;
}

/* Runs the body once for each page. */
#define FOR_EACH_PAGE(words, n, slot, page)                                     \
	for (uint32_t at_ = 0, bit_ = 0, slot = 0, once_ = 1; once_; once_ = 0) \
		for (uint64_t page = 0; next_page(words, n, &at_, &bit_, &slot, &page);)

#endif
