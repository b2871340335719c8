/* SPDX-License-Identifier: MIT */
/* Consumers that take bitmaps. */
#include <errno.h>

#include "world.h"

enum { TAKE_WORDS = PLAN_BLOCK_PAGES / 64 + 1 };

/* One take of one slot. */
struct take {
	struct consumer *consumer;
	uint32_t place;
	uint64_t words[TAKE_WORDS];
	uint64_t bytes;
	uint64_t began_at, gpa_page;
	bool is_exact; /* no slot changed meanwhile */
};

/* No place has a slot of this number. */
static bool is_gone(uint32_t slot)
{
	for (uint32_t p = 0; p < world.plan->place_count; p++)
		if (world.places[p].now && world.plan->places[p].slot == slot)
			return false;
	return true;
}

/* Protects pages that were taken writable. False if that fails: they must be marked then. */
static bool protect(const struct place *place)
{
	uint64_t bytes = (uint64_t)place->pages * PAGE_BYTES;

	for (uint32_t tries = 0; tries < MAX_TRIES; tries++) {
		int r = dl_slot_clear(world.log, place->slot, 0, bytes);

		EXPECT("dl_slot_clear", r, -ENOENT, -EINVAL, -ECANCELED);
		/* A slot that is gone is not in the guest. */
		if (r >= 0 || is_gone(place->slot))
			return true;
	}
	return false;
}

static void send_pages(const struct take *take, const struct place *place, uint64_t gpa_page)
{
	for (uint32_t page = 0; page < place->pages; page++)
		if (take->words[page / 64] >> page % 64 & 1)
			channels_send(take->consumer, place, page, gpa_page + page);
}

/*
 * A slot changed during the take, so the words may be of any slot that had this number meanwhile,
 * at any address that it had. Pages that are sent without need do no harm, unless they arrive after
 * those of a younger slot at the same address.
 */
static void send_to_all(const struct take *take)
{
	uint32_t slot = world.plan->places[take->place].slot, n = world.incarnation_count;

	for (uint32_t i = 0; i < n; i++) {
		/* It may change while it is sent, which does not matter. */
		const struct incarnation it = world.incarnations[i];

		if (it.place->slot != slot || (it.removed_at && it.removed_at < take->began_at))
			continue;
		send_pages(take, it.place, it.gpa_page);
		if (it.next_gpa_page && it.next_gpa_page != it.gpa_page)
			send_pages(take, it.place, it.next_gpa_page);
		if (it.moved_at >= take->began_at && it.old_gpa_page)
			send_pages(take, it.place, it.old_gpa_page);
		channels_flush(take->consumer);
	}
}

static void send_taken(const struct take *take)
{
	if (take->is_exact)
		send_pages(take, &world.plan->places[take->place], take->gpa_page);
	else
		send_to_all(take);
}

static void mark_taken(const struct take *take)
{
	const struct place *place = &world.plan->places[take->place];

	for (uint32_t page = 0; page < place->pages; page++)
		if (take->words[page / 64] >> page % 64 & 1)
			(void)dl_mark_slot(world.log, place->slot, page * (uint64_t)PAGE_BYTES, 1);
}

/* Takes one slot and sends its pages. Returns their number. */
static uint64_t take_slot(struct consumer *consumer, uint32_t p, uint32_t flags, bool *failed)
{
	const struct place *place = &world.plan->places[p];
	struct take take = { .consumer = consumer, .place = p, .began_at = sim.now };
	uint64_t changes = world.changes;
	bool changing = world.changers;
	int r = dl_cursor_take(consumer->cursor, place->slot, flags, take.words, TAKE_WORDS,
			       &take.bytes);

	EXPECT("dl_cursor_take", r, -ENOENT, -EINVAL, -ECANCELED);
	*failed |= r < 0;
	take.is_exact = !changing && changes == world.changes;
	take.gpa_page = layout_gpa(p);
	if (take.bytes && take.is_exact && !layout_covers(consumer, p))
		sim_fail(SIM_RESULT, "slot %#x is not covered, and %lu bytes are taken",
			 place->slot, (unsigned long)take.bytes);
	if (!take.bytes)
		return 0;
	world.counts.inexact += !take.is_exact;
	if (flags & DL_TAKE_NO_CLEAR && !protect(place)) {
		mark_taken(&take);
		*failed = true;
	}
	send_taken(&take);
	return take.bytes / PAGE_BYTES;
}

uint64_t taker_round(struct consumer *consumer, uint32_t flags, bool *failed)
{
	uint64_t pages = 0, changes = world.changes;
	uint32_t blocks = 0;

	channels_flush(consumer);
	for (uint32_t p = 0; p < world.plan->place_count; p++) {
		uint32_t block = 1u << world.plan->places[p].block;

		if (!world.places[p].now)
			continue;
		/* Another slot may hold the same pages, or the same address. */
		if (blocks & block || changes != world.changes) {
			changes = world.changes;
			channels_flush(consumer);
			/* It may have gone meanwhile, and another one may have its number. */
			if (!world.places[p].now)
				continue;
		}
		blocks |= block;
		pages += take_slot(consumer, p, flags, failed);
	}
	return pages;
}

void taker_act(struct consumer *consumer, uint64_t *state)
{
	uint32_t flags = sim_below(state, 4) ? DL_TAKE_HARVEST : 0;
	bool failed = false;

	if (!consumer->cursor || consumer->is_stopping)
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
