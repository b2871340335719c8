/* SPDX-License-Identifier: MIT */
/* The memory of the guest, and each consumer's copy of it. */
#include <stdalign.h>
#include <string.h>

#include "world.h"

enum { SPOILT = 0xee };

alignas(PAGE_BYTES) uint8_t memory[PLAN_BLOCKS][BLOCK_BYTES];

/* A receiver that knows memory by its block, not by its guest address. */
alignas(8) static uint8_t by_block[CONSUMERS][PLAN_BLOCKS][BLOCK_BYTES];

void receivers_begin(void)
{
	for (uint32_t b = 0; b < world.plan->block_count; b++) {
		memset(memory[b], (int)b + 1, world.plan->block_pages[b] * PAGE_BYTES);
		receivers_spoil(ALL_CONSUMERS, b, 0, world.plan->block_pages[b]);
	}
}

void receivers_copy(uint32_t consumers, uint32_t block, uint32_t first_page, uint32_t pages)
{
	enum { PIECE_BYTES = PAGE_BYTES / 2 };
	size_t at = (size_t)first_page * PAGE_BYTES, end = at + (size_t)pages * PAGE_BYTES;

	for (; at < end; at += PIECE_BYTES) {
		sim_point(SIM_SITE("contents are copied"));
		for (int c = 0; c < CONSUMERS; c++)
			if (consumers >> c & 1)
				memcpy(by_block[c][block] + at, memory[block] + at, PIECE_BYTES);
	}
}

void receivers_spoil(uint32_t consumers, uint32_t block, uint32_t first_page, uint32_t pages)
{
	for (int c = 0; c < CONSUMERS; c++)
		if (consumers >> c & 1)
			memset(by_block[c][block] + first_page * PAGE_BYTES, SPOILT,
			       (size_t)pages * PAGE_BYTES);
}

void receivers_get(uint32_t consumer, const struct message *message, uint32_t at, uint32_t bytes)
{
	memcpy(by_block[consumer][message->block] + message->page * PAGE_BYTES + at,
	       message->bytes + at, bytes);
}

bool receivers_differ(uint32_t consumer, uint32_t block, uint32_t page)
{
	return memcmp(by_block[consumer][block] + page * PAGE_BYTES,
		      memory[block] + page * PAGE_BYTES, PAGE_BYTES);
}
