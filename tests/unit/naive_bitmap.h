/* SPDX-License-Identifier: MIT */
#ifndef UNIT_NAIVE_BITMAP_H
#define UNIT_NAIVE_BITMAP_H

/*
 * What dl_mark_bitmap() has to do, page by page and bit by bit: slow, and too simple to be wrong in
 * the same way.
 */

#include <stdbool.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

enum { NAIVE_SLOTS = 8, NAIVE_SLOT_PAGES = 4096 };

struct naive_slot {
	uint32_t as_id;
	uint64_t gpa, pages;
	bool covered; /* by some cursor */
	bool dirty[NAIVE_SLOT_PAGES];
};

struct naive {
	uint32_t page_bytes; /* the host's */
	bool logging;	     /* some cursor exists */
	uint32_t n;
	struct naive_slot slots[NAIVE_SLOTS];
};

bool naive_bit(const uint64_t *words, uint64_t bit, bool little_endian);
void naive_set_bit(uint64_t *words, uint64_t bit, bool little_endian, bool set);

/*
 * Marks as dl_mark_bitmap() of a valid bitmap. Changes words as it does, and returns its result.
 * Pages that are dirty already count as marked.
 */
int naive_mark(struct naive *naive, const struct dl_bitmap *bitmap, uint64_t *words,
	       uint64_t *marked_bytes);

/* Expects that the cursor has exactly the slot's dirty pages pending, and forgets both. */
bool naive_matches(struct naive *naive, uint32_t which, struct dl_cursor *cursor, uint32_t slot);

#endif
