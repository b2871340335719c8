/* SPDX-License-Identifier: MIT */
/* The caller's memory layout, and which of it each consumer's receivers must have. */
#include "layout.h"

bool layout_is_there(uint32_t p)
{
	return world.places[p].now;
}

static bool is_unlogged(uint32_t p)
{
	return layout_is_there(p) && world.places[p].now->no_log;
}

bool layout_covers(const struct consumer *consumer, uint32_t p)
{
	const struct wish *wish = consumer->wish;

	if (!layout_is_there(p) || is_unlogged(p))
		return false;
	if (wish->flags & DL_CURSOR_ONE_SLOT)
		return world.plan->places[p].slot == world.plan->places[wish->place].slot;
	return !(wish->flags & DL_CURSOR_WANTED) || world.places[p].now->wanted;
}

void layout_set_due(const struct place *place, uint32_t consumers, bool due)
{
	for (uint32_t i = 0; i < place->pages; i++) {
		uint8_t *now = &world.notes[place->block][place->first_page + i].due;

		*now = (uint8_t)(due ? *now | consumers : *now & ~consumers);
	}
}

void layout_settle_due(uint32_t consumers)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		for (uint32_t c = 0; c < CONSUMERS; c++)
			if (consumers >> c & 1 && layout_covers(&world.consumers[c], i) &&
			    world.places[i].now->is_set)
				layout_set_due(&world.plan->places[i], 1u << c, true);
}

void layout_note_start(const struct consumer *consumer)
{
	uint8_t me = (uint8_t)(1 << consumer->number);

	for (uint32_t b = 0; b < world.plan->block_count; b++)
		for (uint32_t page = 0; page < world.plan->block_pages[b]; page++) {
			world.notes[b][page].due &= (uint8_t)~me;
			world.notes[b][page].kept &= (uint8_t)~me;
		}
	layout_settle_due(me);
}

uint64_t layout_gpa(uint32_t p)
{
	return layout_is_there(p) ? world.places[p].now->gpa_page : 0;
}

static bool maps(uint32_t p, uint32_t block, uint32_t page)
{
	const struct place *place = &world.plan->places[p];

	return layout_is_there(p) && place->block == block && page >= place->first_page &&
	       page < (uint32_t)place->first_page + place->pages;
}

/* At home in the oldest slot that maps it and that the consumer covers. */
uint64_t layout_home(const struct consumer *consumer, uint32_t block, uint32_t page)
{
	const struct incarnation *oldest = NULL;

	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (maps(i, block, page) && layout_covers(consumer, i) &&
		    (!oldest || world.places[i].now < oldest))
			oldest = world.places[i].now;
	return oldest ? oldest->gpa_page + page - oldest->place->first_page : 0;
}

bool layout_has_neighbour(uint32_t p, bool unlogged)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && layout_is_there(i) && (!unlogged || is_unlogged(i)) &&
		    world.plan->places[i].block == world.plan->places[p].block)
			return true;
	return false;
}

uint32_t layout_attached(void)
{
	uint32_t consumers = 0;

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].cursor && !world.consumers[i].is_stopping)
			consumers |= 1u << i;
	return consumers;
}

uint32_t layout_covering(uint32_t p)
{
	uint32_t consumers = layout_attached();

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (!layout_covers(&world.consumers[i], p))
			consumers &= ~(1u << i);
	return consumers;
}

uint32_t layout_sound_flags(uint32_t p, uint32_t flags)
{
	if (layout_is_there(p) ? is_unlogged(p) : layout_has_neighbour(p, true))
		flags |= DL_SLOT_NO_LOG;
	else if (layout_is_there(p) || layout_has_neighbour(p, false))
		flags &= ~(uint32_t)DL_SLOT_NO_LOG;
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && layout_is_there(i) &&
		    world.plan->places[i].block == world.plan->places[p].block)
			flags = world.places[i].now->wanted ? flags | DL_SLOT_WANTED
							    : flags & ~(uint32_t)DL_SLOT_WANTED;
	return flags;
}
