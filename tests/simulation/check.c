/* SPDX-License-Identifier: MIT */
/* Checks what a pass hands out. */
#include "world.h"

static bool fits(const struct incarnation *it, const struct dl_extent *run, uint64_t read_began_at)
{
	const struct place *place = it->place;
	uint64_t base = (uintptr_t)memory[place->block] + place->first_page * PAGE_BYTES;
	uint64_t gpa = run->gpa - run->offset_bytes;

	if (place->slot != run->slot || run->hva != base + run->offset_bytes)
		return false;
	if (run->offset_bytes + run->bytes > (uint64_t)place->pages * PAGE_BYTES)
		return false;
	if (gpa != it->gpa_page * PAGE_BYTES && gpa != it->next_gpa_page * PAGE_BYTES &&
	    (it->moved_at < read_began_at || gpa != it->old_gpa_page * PAGE_BYTES))
		return false;
	return !it->removed_at || it->removed_at >= read_began_at;
}

/* A pass hands out a page at most once. */
static void check_once(struct consumer *consumer, const struct dl_extent *run,
		       const struct place *place)
{
	uint64_t first = place->first_page + run->offset_bytes / PAGE_BYTES;

	/* Which pages were dirty is not said. */
	if (run->flags & DL_EXTENT_PADDED)
		return;
	for (uint64_t page = first; page < first + run->bytes / PAGE_BYTES; page++) {
		if (consumer->handed[place->block][page])
			sim_fail(SIM_RESULT, "a pass hands out block %u page %lu twice",
				 place->block, (unsigned long)page);
		consumer->handed[place->block][page] = true;
	}
}

const struct incarnation *check_run(struct consumer *consumer, const struct dl_extent *run,
				    uint64_t read_began_at)
{
	const struct incarnation *it = NULL;

	if (!run->bytes || run->bytes % PAGE_BYTES || run->offset_bytes % PAGE_BYTES)
		sim_fail(SIM_RESULT, "a run of %lu bytes at %lu", (unsigned long)run->bytes,
			 (unsigned long)run->offset_bytes);
	for (uint32_t i = world.incarnation_count; i-- && !it;)
		if (fits(&world.incarnations[i], run, read_began_at))
			it = &world.incarnations[i];
	if (!it)
		sim_fail(SIM_RESULT,
			 "a run of slot %#x, gpa %#lx, offset %lu, %lu bytes, fits no slot",
			 run->slot, (unsigned long)run->gpa, (unsigned long)run->offset_bytes,
			 (unsigned long)run->bytes);
	check_once(consumer, run, it->place);
	return it;
}
