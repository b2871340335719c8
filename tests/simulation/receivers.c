/* SPDX-License-Identifier: MIT */
/* The memory of the guest, and each consumer's copy of it. */
#include <stdalign.h>
#include <string.h>

#include "world.h"

enum { SPOILT = 0xee, PIECE_BYTES = PAGE_BYTES / 2, GPA_PAGES = 512 * PLAN_SLOTS + 512 };

alignas(PAGE_BYTES) uint8_t memory[PLAN_BLOCKS][BLOCK_BYTES];

/*
 * Each consumer has two receivers: one that knows memory by its block, and one that knows it by its
 * guest address, and maps memory of several slots as the guest does.
 */
alignas(8) static uint8_t by_block[CONSUMERS][PLAN_BLOCKS][BLOCK_BYTES];
alignas(8) static uint8_t by_gpa[CONSUMERS][GPA_PAGES][PAGE_BYTES];

void receivers_begin(void)
{
	for (uint32_t b = 0; b < world.plan->block_count; b++)
		memset(memory[b], (int)b + 1, world.plan->block_pages[b] * PAGE_BYTES);
	receivers_spoil_all(ALL_CONSUMERS);
}

void receivers_copy_block(uint32_t consumers, uint32_t block, uint32_t first_page, uint32_t pages)
{
	size_t at = (size_t)first_page * PAGE_BYTES, end = at + (size_t)pages * PAGE_BYTES;

	for (; at < end; at += PIECE_BYTES) {
		sim_point(SIM_SITE("contents are copied"));
		for (int c = 0; c < CONSUMERS; c++)
			if (consumers >> c & 1)
				memcpy(by_block[c][block] + at, memory[block] + at, PIECE_BYTES);
	}
}

void receivers_copy_gpa(uint32_t consumers, const struct place *place, uint64_t gpa_page)
{
	const uint8_t *from = memory[place->block] + place->first_page * PAGE_BYTES;

	for (size_t at = 0; at < (size_t)place->pages * PAGE_BYTES; at += PIECE_BYTES) {
		sim_point(SIM_SITE("contents are copied to their address"));
		for (int c = 0; c < CONSUMERS; c++)
			if (consumers >> c & 1)
				memcpy(by_gpa[c][gpa_page] + at, from + at, PIECE_BYTES);
	}
}

void receivers_copy_place(uint32_t consumers, const struct place *place, uint64_t gpa_page)
{
	receivers_copy_block(consumers, place->block, place->first_page, place->pages);
	receivers_copy_gpa(consumers, place, gpa_page);
}

static void spoil_gpa(uint32_t consumers, uint64_t gpa_page, uint32_t pages)
{
	for (int c = 0; c < CONSUMERS; c++)
		if (consumers >> c & 1)
			memset(by_gpa[c][gpa_page], SPOILT, (size_t)pages * PAGE_BYTES);
}

static void spoil_block(uint32_t consumers, uint32_t block, uint32_t first_page, uint32_t pages)
{
	for (int c = 0; c < CONSUMERS; c++)
		if (consumers >> c & 1)
			memset(by_block[c][block] + first_page * PAGE_BYTES, SPOILT,
			       (size_t)pages * PAGE_BYTES);
}

void receivers_spoil_place(uint32_t consumers, const struct place *place, uint64_t gpa_page)
{
	spoil_block(consumers, place->block, place->first_page, place->pages);
	spoil_gpa(consumers, gpa_page, place->pages);
}

void receivers_spoil_all(uint32_t consumers)
{
	const struct plan *plan = world.plan;

	for (uint32_t b = 0; b < plan->block_count; b++)
		spoil_block(consumers, b, 0, plan->block_pages[b]);
	for (uint32_t p = 0; p < plan->place_count; p++)
		for (uint32_t i = 0; i < 2; i++)
			spoil_gpa(consumers, plan->places[p].gpa_pages[i], plan->places[p].pages);
}

void receivers_get(uint32_t consumer, const struct message *message, uint32_t at, uint32_t bytes)
{
	memcpy(by_block[consumer][message->block] + message->page * PAGE_BYTES + at,
	       message->bytes + at, bytes);
	memcpy(by_gpa[consumer][message->gpa_page] + at, message->bytes + at, bytes);
}

bool receivers_differ(uint32_t consumer, uint32_t block, uint32_t page)
{
	return memcmp(by_block[consumer][block] + page * PAGE_BYTES,
		      memory[block] + page * PAGE_BYTES, PAGE_BYTES);
}

bool receivers_differ_at(uint32_t consumer, uint32_t block, uint32_t page, uint64_t gpa_page)
{
	return memcmp(by_gpa[consumer][gpa_page], memory[block] + page * PAGE_BYTES, PAGE_BYTES);
}
