/* SPDX-License-Identifier: MIT */
#include "pages.h"

#include <string.h>

bool page_is_zero(const void *page, size_t bytes)
{
	const char *at = page;
	uint64_t words[8];
	size_t i;

	for (i = 0; i < bytes; i += sizeof(words)) {
		memcpy(words, at + i, sizeof(words));
		if (words[0] | words[1] | words[2] | words[3] | words[4] | words[5] | words[6] |
		    words[7])
			return false;
	}
	return true;
}

static uint64_t mix(uint64_t lane, uint64_t word)
{
	lane = (lane ^ word) * UINT64_C(0xff51afd7ed558ccd);
	return lane << 31 | lane >> 33;
}

/* Four lanes keep four multiplications in flight. */
uint64_t page_hash(const void *page, size_t bytes)
{
	uint64_t lanes[4] = { bytes, 1, 2, 3 }, words[4];
	const char *at = page;
	uint64_t hash;
	size_t i;

	for (i = 0; i < bytes; i += sizeof(words)) {
		memcpy(words, at + i, sizeof(words));
		lanes[0] = mix(lanes[0], words[0]);
		lanes[1] = mix(lanes[1], words[1]);
		lanes[2] = mix(lanes[2], words[2]);
		lanes[3] = mix(lanes[3], words[3]);
	}
	hash = mix(mix(mix(lanes[0], lanes[1]), lanes[2]), lanes[3]);
	return hash ^ hash >> 29;
}
