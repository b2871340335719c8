/* SPDX-License-Identifier: MIT */
#include "device_slot.h"
#include "device_alias.h"

enum { STEPS_PER_CHANGE = 4, PAGES = 1 + LAYOUT_DEVICE_PAGES + LAYOUT_BALLOON_PAGES };

#define WORDS ((PAGES + 63) / 64)

uint64_t device_slot_gpa(const struct device *device)
{
	return layout_device_gpa(&device->machine->layout, device->elsewhere);
}

static int set(struct device *device, uint32_t flags)
{
	const struct machine *machine = device->machine;
	const struct layout_slot *from = &machine->layout.slots[LAYOUT_DEVICE_SLOT];
	const struct dl_slot slot = { .size = sizeof(slot),
				      .flags = flags,
				      .slot = LAYOUT_DEVICE_SLOT,
				      .gpa = device_slot_gpa(device),
				      .bytes = from->bytes,
				      .hva = (uintptr_t)machine->memory + from->offset_bytes,
				      .cookie = from->offset_bytes };

	device->slot_changes++;
	return dl_slot_set(device->log, &slot);
}

static int move(struct device *device, bool elsewhere)
{
	bool before = device->elsewhere;
	int r;

	device->elsewhere = elsewhere;
	r = set(device, 0);
	if (r)
		device->elsewhere = before;
	return r;
}

/*
 * The log hands over what is to be sent, in words, and forgets the slot: every page, as the guest
 * runs. The new slot is clean but for these pages; a VMM that keeps no words leaves out
 * DL_SLOT_CLEAN.
 */
static int replace(struct device *device)
{
	uint64_t page_bytes = device->machine->layout.page_bytes, words[WORDS] = { 0 };
	int r = dl_slot_remove(device->log, LAYOUT_DEVICE_SLOT, 0, words, WORDS);

	if (!r)
		r = set(device, DL_SLOT_CLEAN);
	/* The watch went with the slot; what it had found by then is in the words. */
	if (!r)
		r = device_alias_watch(device);
	for (uint64_t page = 0; !r && page < PAGES; page++)
		if (words[page / 64] >> page % 64 & 1)
			r = dl_mark_slot(device->log, LAYOUT_DEVICE_SLOT, page * page_bytes,
					 page_bytes);
	return r;
}

int device_slot_change(struct device *device)
{
	uint64_t step = device->state.balloon_steps;

	if (step % STEPS_PER_CHANGE)
		return 0;
	switch (step / STEPS_PER_CHANGE % 3) {
	case 0:
		return move(device, true);
	case 1:
		return move(device, false);
	default:
		return replace(device);
	}
}

int device_slot_home(struct device *device)
{
	return device->elsewhere ? move(device, false) : 0;
}
