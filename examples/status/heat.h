/* SPDX-License-Identifier: MIT */
#ifndef STATUS_HEAT_H
#define STATUS_HEAT_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * A coarse map of guest memory: how many dirty pages each part of it has had. The parts are at most
 * HEAT_CELLS cells of equal size, over the slots one after another. Whoever sends extents notes
 * them here, which costs an addition a cell; the counters only grow, so each reader can have the
 * map of an interval of its own, as the difference of two.
 */

enum { HEAT_CELLS = 1024, HEAT_SLOTS = 64 };

struct heat_slot {
	uint32_t slot; /* as_id << 16 | id */
	uint64_t gpa;
	uint64_t bytes;
	uint64_t start_bytes; /* where it begins in the map */
};

struct heat {
	uint32_t page_bytes;
	uint32_t n_slots;
	uint32_t n_cells;
	uint64_t cell_bytes; /* a multiple of the page size */
	uint64_t bytes;	     /* of all slots */
	struct heat_slot slots[HEAT_SLOTS];
	_Atomic uint64_t pages[HEAT_CELLS];
};

void heat_init(struct heat *heat, uint32_t page_bytes);

/* Before anything is noted. Memory beyond the first HEAT_SLOTS slots is not in the map. */
void heat_add_slot(struct heat *heat, uint32_t slot, uint64_t gpa, uint64_t bytes);

/* Adds the pages of an extent, or of a part of one. Any thread, several at once. */
void heat_note(struct heat *heat, uint32_t slot, uint64_t offset_bytes, uint64_t bytes);

/* The guest physical address of a place in the map. */
uint64_t heat_gpa(const struct heat *heat, uint64_t at_bytes);

#endif
