/* SPDX-License-Identifier: MIT */
#ifndef DLI_WORDS_H
#define DLI_WORDS_H

#include <stdbool.h>
#include <stdint.h>

/* Dirty pages of a slot that share one word of its bitmap. */
struct dli_dirty_word {
	uint32_t slot, reserved;
	uint64_t word; /* page / 64 */
	uint64_t bits;
};

#endif
