/* SPDX-License-Identifier: MIT */
#include "naive_bitmap.h"

#include <errno.h>
#include <string.h>

static void find_bit(const uint64_t *words, uint64_t bit, bool little_endian, uint8_t **byte,
		     uint8_t *mask)
{
	const uint16_t one = 1;
	bool host_is_little = *(const uint8_t *)&one;
	uint64_t at = bit / 8;

	if (!little_endian && !host_is_little)
		at = bit / 64 * 8 + 7 - bit % 64 / 8;
	*byte = (uint8_t *)words + at;
	*mask = (uint8_t)(1u << bit % 8);
}

bool naive_bit(const uint64_t *words, uint64_t bit, bool little_endian)
{
	uint8_t *byte, mask;

	find_bit(words, bit, little_endian, &byte, &mask);
	return *byte & mask;
}

void naive_set_bit(uint64_t *words, uint64_t bit, bool little_endian, bool set)
{
	uint8_t *byte, mask;

	find_bit(words, bit, little_endian, &byte, &mask);
	*byte = (uint8_t)(set ? *byte | mask : *byte & ~mask);
}

/* The host page and the foreign page have a byte in common. */
static bool touches(uint64_t host, uint32_t host_bytes, uint64_t foreign, uint64_t foreign_bytes)
{
	return host <= foreign + (foreign_bytes - 1) && foreign <= host + (host_bytes - 1);
}

struct touched {
	bool any, covered;
};

static struct touched touch(struct naive *naive, uint32_t as_id, uint64_t gpa, uint64_t bytes,
			    bool *marked[], uint64_t *n)
{
	struct touched touched = { 0 };

	for (uint32_t i = 0; i < naive->n; i++) {
		struct naive_slot *slot = &naive->slots[i];

		for (uint64_t page = 0; page < slot->pages && slot->as_id == as_id; page++) {
			if (!touches(slot->gpa + page * naive->page_bytes, naive->page_bytes, gpa,
				     bytes))
				continue;
			touched.any = true;
			touched.covered |= slot->covered;
			if (slot->covered)
				marked[(*n)++] = &slot->dirty[page];
		}
	}
	return touched;
}

int naive_mark(struct naive *naive, const struct dl_bitmap *b, uint64_t *words,
	       uint64_t *marked_bytes)
{
	static bool *marked[NAIVE_SLOTS * NAIVE_SLOT_PAGES];
	bool *last = NULL, le = b->flags & DL_BITMAP_LE;
	uint64_t pages = 0;
	int r = 0;

	*marked_bytes = 0;
	if (!naive->logging)
		return 0;
	for (uint64_t bit = 0; bit < b->bytes / b->page_bytes + (b->bytes % b->page_bytes != 0);
	     bit++) {
		uint64_t n = 0;
		struct touched touched;

		if (!naive_bit(words, bit, le))
			continue;
		touched = touch(naive, b->as_id, b->gpa + bit * b->page_bytes, b->page_bytes,
				marked, &n);
		if (!touched.any)
			r = -ENOENT;
		if (touched.covered && b->flags & DL_BITMAP_TAKE)
			naive_set_bit(words, bit, le, false);
		for (uint64_t i = 0; i < n; i++) {
			pages += marked[i] != last;
			last = marked[i];
			*last = true;
		}
	}
	*marked_bytes = pages * naive->page_bytes;
	return r;
}

bool naive_matches(struct naive *naive, uint32_t which, struct dl_cursor *cursor, uint32_t number)
{
	struct naive_slot *slot = &naive->slots[which];
	uint64_t words[NAIVE_SLOT_PAGES / 64] = { 0 };
	bool same = true;

	if (dl_cursor_take(cursor, number, 0, words, NAIVE_SLOT_PAGES / 64, NULL))
		return false;
	for (uint64_t page = 0; page < slot->pages; page++) {
		same &= slot->dirty[page] == (words[page / 64] >> page % 64 & 1);
		slot->dirty[page] = false;
	}
	return same;
}
