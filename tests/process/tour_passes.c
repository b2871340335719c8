/* SPDX-License-Identifier: MIT */
/* Passes and takes of a tour's cursors. */
#include "cmocka_all.h"
#include "tour.h"

enum { EXTENTS = 5 };

void tour_copy_words(struct tour *tour, const struct dl_slot *slot, const uint64_t *words)
{
	const uint64_t page_bytes = tour->guest.page_bytes;

	for (uint64_t page = 0; page < slot->bytes / page_bytes; page++) {
		const struct dl_extent extent = {
			.gpa = slot->gpa + page * page_bytes,
			.hva = slot->hva + page * page_bytes,
			.offset_bytes = page * page_bytes,
			.bytes = page_bytes,
			.slot = slot->slot,
		};

		if (words[page / 64] >> page % 64 & 1)
			checker_copy_run(&tour->checker, &extent);
	}
}

/* Every slot that exists. */
static void take_slots(struct tour *tour, struct dl_cursor *cursor, uint32_t flags)
{
	for (unsigned int i = 0; i < 6; i++) {
		const struct dl_slot *slot = &tour->slots[i];
		uint64_t words[2] = { 0 };

		if (!tour->exists[i])
			continue;
		TOUR(tour, TOUR_TAKE, dl_cursor_take(cursor, slot->slot, flags, words, 2, NULL));
		if (flags & DL_TAKE_NO_CLEAR)
			TOUR(tour, TOUR_SLOT_CLEAR,
			     dl_slot_clear(tour->guest.log, slot->slot, 0, slot->bytes));
		tour_copy_words(tour, slot, words);
	}
}

void tour_take(struct tour *tour)
{
	take_slots(tour, tour->cursor, 0);
}

void tour_read_pass(struct tour *tour)
{
	struct dl_extent extents[EXTENTS];
	int n = 0;

	do {
		TOUR(tour, TOUR_READ, (n = dl_cursor_read(tour->cursor, extents, EXTENTS)));
		for (int i = 0; i < n; i++)
			checker_copy_run(&tour->checker, &extents[i]);
		if (n > 0)
			TOUR(tour, TOUR_ACK, dl_cursor_ack(tour->cursor, extents, (uint32_t)n));
	} while (n > 0);
}

void tour_begin_pass(struct tour *tour, uint32_t flags)
{
	uint64_t pending;

	TOUR(tour, flags ? TOUR_HARVEST_PAUSED : TOUR_HARVEST,
	     dl_harvest(tour->cursor, flags, &pending));
	tour->in_pass = true;
}

void tour_end_pass(struct tour *tour)
{
	TOUR(tour, TOUR_END, dl_cursor_end(tour->cursor, 0));
	tour->in_pass = false;
}

/* Nothing is written during a pass, so no page may differ after it. */
void tour_pass(struct tour *tour, uint32_t flags)
{
	uint64_t differing;

	/* Repeat after a failure: tour_disturb() may have written too late for this pass. */
	do {
		tour->disturbed = false;
		tour_begin_pass(tour, flags);
		tour->disturbed = false;
		tour_read_pass(tour);
		tour_end_pass(tour);
	} while (tour->disturbed);
	differing = checker_differing_pages(&tour->checker);
	if (differing)
		tour_problem(tour, "%lu pages differ after a %s pass", (unsigned long)differing,
			     flags ? "paused" : "normal");
	tour->written_count = 0;
}

/* The second cursor gets what the first one has had. */
void tour_take_second(struct tour *tour)
{
	if (!tour->mode->two_cursors)
		return;
	take_slots(tour, tour->second, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR);
	take_slots(tour, tour->second, DL_TAKE_HARVEST | DL_TAKE_PAUSED);
}
