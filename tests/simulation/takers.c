/* SPDX-License-Identifier: MIT */
/* Consumers that take bitmaps. */
#include <errno.h>

#include "world.h"

enum { TAKE_WORDS = PLAN_BLOCK_PAGES / 64 + 1 };

/* Protects pages that were taken writable. False if that fails: they must be marked then. */
static bool protect(uint32_t p)
{
	const struct place *place = &world.plan->places[p];
	uint64_t bytes = (uint64_t)place->pages * PAGE_BYTES;

	for (uint32_t tries = 0; tries < MAX_TRIES; tries++) {
		int r = dl_slot_clear(world.log, place->slot, 0, bytes);

		EXPECT("dl_slot_clear", r, -ENOENT, -EINVAL, -ECANCELED);
		/* A slot that is gone is not in the guest. */
		if (r >= 0 || !world.places[p].now)
			return true;
	}
	return false;
}

/* Takes one slot and sends its pages. Returns their number. */
static uint64_t take_slot(struct consumer *consumer, uint32_t p, uint32_t flags, bool *failed)
{
	const struct place *place = &world.plan->places[p];
	uint64_t words[TAKE_WORDS] = { 0 }, taken = 0, gpa_page = layout_gpa(p);
	int r = dl_cursor_take(consumer->cursor, place->slot, flags, words, TAKE_WORDS, &taken);

	EXPECT("dl_cursor_take", r, -ENOENT, -EINVAL, -ECANCELED);
	*failed |= r < 0;
	if (taken && !layout_covers(consumer, p))
		sim_fail(SIM_RESULT, "slot %#x is not covered, and %lu bytes are taken",
			 place->slot, (unsigned long)taken);
	if (flags & DL_TAKE_NO_CLEAR && taken && !protect(p)) {
		for (uint32_t page = 0; page < place->pages; page++)
			if (words[page / 64] >> page % 64 & 1)
				(void)dl_mark_slot(world.log, place->slot,
						   page * (uint64_t)PAGE_BYTES, 1);
		*failed = true;
		return taken / PAGE_BYTES;
	}
	for (uint32_t page = 0; page < place->pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			channels_send(consumer, place, page, gpa_page + page);
	return taken / PAGE_BYTES;
}

uint64_t taker_round(struct consumer *consumer, uint32_t flags, bool *failed)
{
	uint64_t pages = 0;
	uint32_t blocks = 0;

	channels_flush(consumer);
	for (uint32_t p = 0; p < world.plan->place_count; p++) {
		uint32_t block = 1u << world.plan->places[p].block;

		if (!world.places[p].now)
			continue;
		/* Another slot may hold the same pages. */
		if (blocks & block)
			channels_flush(consumer);
		blocks |= block;
		pages += take_slot(consumer, p, flags, failed);
	}
	return pages;
}

void taker_act(struct consumer *consumer, uint64_t *state)
{
	uint32_t flags = sim_below(state, 4) ? DL_TAKE_HARVEST : 0;
	bool failed = false;

	if (!consumer->cursor || consumer->is_stopping || world.changers)
		return;
	/* Takes are flushed one after another, as passes are. */
	if ((consumer->takers && world.plan->sends_late) || !log_enter())
		return;
	consumer->takers++;
	if (sim_below(state, 2))
		flags |= DL_TAKE_NO_CLEAR;
	(void)taker_round(consumer, flags, &failed);
	consumer->takers--;
	log_leave();
}
