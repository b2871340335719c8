/* SPDX-License-Identifier: MIT */
#include "heat.h"

#include <string.h>

void heat_init(struct heat *heat, uint32_t page_bytes)
{
	memset(heat, 0, sizeof(*heat));
	heat->page_bytes = page_bytes;
	heat->cell_bytes = page_bytes;
}

void heat_add_slot(struct heat *heat, uint32_t slot, uint64_t gpa, uint64_t bytes)
{
	uint64_t cell_pages;

	if (heat->n_slots == HEAT_SLOTS)
		return;
	heat->slots[heat->n_slots++] = (struct heat_slot){ slot, gpa, bytes, heat->bytes };
	heat->bytes += bytes;
	cell_pages = (heat->bytes / heat->page_bytes + HEAT_CELLS - 1) / HEAT_CELLS;
	heat->cell_bytes = (cell_pages ? cell_pages : 1) * heat->page_bytes;
	heat->n_cells = (uint32_t)((heat->bytes + heat->cell_bytes - 1) / heat->cell_bytes);
}

static void note_range(struct heat *heat, uint64_t at, uint64_t end)
{
	while (at < end) {
		uint64_t cell = at / heat->cell_bytes, stop = (cell + 1) * heat->cell_bytes;

		if (stop > end)
			stop = end;
		atomic_fetch_add_explicit(&heat->pages[cell], (stop - at) / heat->page_bytes,
					  memory_order_relaxed);
		at = stop;
	}
}

void heat_note(struct heat *heat, uint32_t slot, uint64_t offset_bytes, uint64_t bytes)
{
	const struct heat_slot *in = heat->slots, *end = in + heat->n_slots;

	while (in < end && in->slot != slot)
		in++;
	/* A slot that came back may be larger than the one in the map. */
	if (in == end || bytes > in->bytes || offset_bytes > in->bytes - bytes)
		return;
	note_range(heat, in->start_bytes + offset_bytes, in->start_bytes + offset_bytes + bytes);
}

uint64_t heat_gpa(const struct heat *heat, uint64_t at_bytes)
{
	uint32_t i = heat->n_slots;

	while (i-- > 1)
		if (at_bytes >= heat->slots[i].start_bytes)
			break;
	return i < heat->n_slots ? heat->slots[i].gpa + (at_bytes - heat->slots[i].start_bytes) : 0;
}
