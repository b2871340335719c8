/* SPDX-License-Identifier: MIT */
/* Watches of a tour's slots, and a device that relies on them. */
#include "cmocka_all.h"
#include "tour.h"

#include <string.h>
#include <sys/mman.h>

/* Where the VMM maps the memory of slots a second time; the model wants nothing there. */
static char *alias_of(const struct tour *tour, unsigned int slot)
{
	enum { ALIAS_PAGES = 128, SLOTS = 8 };
	static char *space;

	if (!space)
		space = mmap(NULL, SLOTS * ALIAS_PAGES * 4096, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(space, MAP_FAILED);
	return space + slot * ALIAS_PAGES * tour->guest.page_bytes;
}

void tour_watch_slot(struct tour *tour, unsigned int i, bool begins, uint32_t flags)
{
	if (tour->mode->model.has & MODEL_HAS_WATCH)
		TOUR(tour, TOUR_SLOT_WATCH,
		     dl_slot_watch(tour->guest.log, tour->slots[i].slot,
				   begins ? alias_of(tour, i) : NULL, flags));
}

void tour_device_writes(struct tour *tour, unsigned int i, uint64_t page)
{
	struct guest *guest = &tour->guest;
	uint64_t offset = page * guest->page_bytes;

	memset(guest->blocks[i].memory + offset, (int)++guest->value, 100);
	model_alias_wrote(guest->model, alias_of(tour, i) + offset, 100);
	if (!(tour->mode->model.has & MODEL_HAS_WATCH))
		TOUR(tour, TOUR_MARK_SLOT, dl_mark_slot(guest->log, i, offset, 100));
}

void tour_look(struct tour *tour)
{
	struct dl_advice advice = { .size = sizeof(advice) };
	struct dl_plan *plan;

	TOUR(tour, TOUR_PLAN_NEW, dl_plan_new(tour->cursor, NULL, &plan));
	model_advance(tour->guest.model, 300000000);
	TOUR(tour, TOUR_PLAN_NEXT, dl_plan_next(plan, 0, &advice));
	TOUR_VOID(tour, TOUR_PLAN_FREE, dl_plan_free(plan));
}

void tour_watches(struct tour *tour)
{
	tour_watch_slot(tour, SMALL, true, 0);
	tour_watch_slot(tour, BIG, true, DL_WATCH_AUDIT);
	tour_device_writes(tour, SMALL, 1);
	tour_device_writes(tour, BIG, 70);
	tour_look(tour);
	tour_pass(tour, 0);
	tour_watch_slot(tour, SMALL, true, DL_WATCH_AUDIT);
	tour_device_writes(tour, SMALL, 2);
	tour_watch_slot(tour, BIG, true, 0);
	tour_pass(tour, 0);
	tour_device_writes(tour, SMALL, 3);
	tour_watch_slot(tour, SMALL, false, 0);
	tour_pass(tour, 0);
	tour_watch_slot(tour, BIG, false, 0);
	/* It goes with its watch. */
	memset(tour->guest.blocks[NEW].memory, 5, SMALL_PAGES * 4096);
	tour_set_slot(tour, NEW, 0);
	tour_watch_slot(tour, NEW, true, DL_WATCH_AUDIT);
	tour_pass(tour, 0);
	tour_device_writes(tour, NEW, 2);
	tour->written_count = 0;
	tour_remove_slot(tour, NEW, DL_REMOVE_PAUSED);
}
