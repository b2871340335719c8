/* SPDX-License-Identifier: MIT */
#ifndef DLI_WORDS_H
#define DLI_WORDS_H

#include <stdbool.h>
#include <stdint.h>

/* Dirty pages of a slot that share a word of its bitmap: what rings hand on, and sets take. */
struct dli_dirty_word {
	uint32_t slot, reserved;
	uint64_t word; /* page / 64 */
	uint64_t bits;
};

/* What became of them. The rest were pending already. */
struct dli_sunk {
	uint32_t new_pages, stale;
	/*
	 * One named a page behind its slot's end. The kernel protects nothing of a batch that has
	 * such a page in it.
	 */
	bool outside;
};

#endif
