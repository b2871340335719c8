/* SPDX-License-Identifier: MIT */
#ifndef DLI_BITS_H
#define DLI_BITS_H

/* Arithmetic of bitmaps of 64-bit words. */

#include <stdint.h>

static inline uint64_t divide_up(uint64_t n, uint64_t by)
{
	return n / by + (n % by != 0);
}

/* __builtin_popcountll() is a function call where the baseline has no such instruction. */
static inline uint32_t count_bits(uint64_t bits)
{
	/* Most words have one bit. */
	if (!(bits & (bits - 1)))
		return bits != 0;
	if (!~bits)
		return 64;
	bits -= bits >> 1 & UINT64_C(0x5555555555555555);
	bits = (bits & UINT64_C(0x3333333333333333)) + (bits >> 2 & UINT64_C(0x3333333333333333));
	bits = (bits + (bits >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
	return (uint32_t)(bits * UINT64_C(0x0101010101010101) >> 56);
}

/* The bits of a word that lie in [first_page, end_page). */
static inline uint64_t range_bits(uint64_t word, uint64_t first_page, uint64_t end_page)
{
	uint64_t bits = ~UINT64_C(0), begin = word * 64;

	if (first_page > begin)
		bits &= ~UINT64_C(0) << (first_page - begin);
	if (end_page < begin + 64)
		bits &= ~UINT64_C(0) >> (begin + 64 - end_page);
	return bits;
}

#endif
