/* SPDX-License-Identifier: MIT */
/* The caller's memory layout: slots are set, moved and removed while the other actors run. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "world.h"

static bool is_there(uint32_t p)
{
	return world.places[p].now;
}

static bool is_unlogged(uint32_t p)
{
	return is_there(p) && world.places[p].now->no_log;
}

/* Notes whether passes must transfer the memory of a place. */
static void set_due(const struct place *place, bool due)
{
	for (uint32_t i = 0; i < place->pages; i++)
		world.notes[place->block][place->first_page + i].due = due;
}

static void settle_due(void)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (is_there(i) && world.places[i].now->is_set && !is_unlogged(i))
			set_due(&world.plan->places[i], true);
}

void layout_note_session(void)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		set_due(&world.plan->places[i], false);
	settle_due();
}

uint64_t layout_gpa(uint32_t p)
{
	return is_there(p) ? world.places[p].now->gpa_page : 0;
}

/* Another slot over the same block. */
static bool has_neighbour(uint32_t p, bool unlogged)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && is_there(i) && (!unlogged || is_unlogged(i)) &&
		    world.plan->places[i].block == world.plan->places[p].block)
			return true;
	return false;
}

static struct dl_slot describe(const struct place *place, uint32_t flags, uint64_t gpa_page,
			       bool read_only)
{
	return (struct dl_slot){
		.size = sizeof(struct dl_slot),
		.flags = flags,
		.slot = place->slot,
		.kvm_flags = read_only ? KVM_MEM_READONLY : 0,
		.gpa = gpa_page * PAGE_BYTES,
		.bytes = (uint64_t)place->pages * PAGE_BYTES,
		.hva = (uintptr_t)memory[place->block] + place->first_page * PAGE_BYTES,
	};
}

static struct incarnation *new_incarnation(const struct place *place, const struct dl_slot *slot)
{
	struct incarnation *it = &world.incarnations[world.incarnation_count];

	if (world.incarnation_count == INCARNATIONS)
		sim_fail(SIM_MISUSE, "too many slots");
	world.incarnation_count++;
	*it = (struct incarnation){
		.place = place,
		.gpa_page = slot->gpa / PAGE_BYTES,
		.no_log = slot->flags & DL_SLOT_NO_LOG,
		.read_only = slot->kvm_flags & KVM_MEM_READONLY,
	};
	return it;
}

static void set_is_done(uint32_t p, struct incarnation *it, const struct dl_slot *slot)
{
	const struct place *place = &world.plan->places[p];

	it->gpa_page = slot->gpa / PAGE_BYTES;
	it->is_set = true;
	world.places[p].now = it;
	if (it->no_log)
		set_due(place, false);
	settle_due();
}

/*
 * No page of a new clean slot counts as dirty, so the copy must be equal before; writes from the
 * ioctl on are logged. All pages of any other new slot, or of one that moves, are pending when the
 * call returns, so the earlier copy of them is spoilt.
 */
static void prepare_copy(const struct place *place, bool is_clean, bool is_same)
{
	if (is_clean)
		copy_pages(BOTH, place->block, place->first_page, place->pages);
	else if (!is_same)
		for (int r = 0; r < RECEIVERS; r++)
			memset(copy[r][place->block] + place->first_page * PAGE_BYTES, 0xee,
			       (size_t)place->pages * PAGE_BYTES);
}

/* Nothing has changed, except that the copy was spoilt. */
static void set_has_failed(uint32_t p, struct incarnation *it, bool moved)
{
	const struct place *place = &world.plan->places[p];

	copy_pages(BOTH, place->block, place->first_page, place->pages);
	if (moved)
		return;
	it->removed_at = sim.now;
	world.places[p].now = NULL;
}

/* Two places can share an id; then only one of them exists at a time. */
static bool id_is_taken(uint32_t p)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && is_there(i) &&
		    world.plan->places[i].slot == world.plan->places[p].slot)
			return true;
	return false;
}

static uint32_t sound_flags(uint32_t p, uint32_t flags)
{
	/* All slots over the same memory are logged, or none is. */
	if (is_there(p) ? is_unlogged(p) : has_neighbour(p, true))
		flags |= DL_SLOT_NO_LOG;
	else if (is_there(p) || has_neighbour(p, false))
		flags &= ~(uint32_t)DL_SLOT_NO_LOG;
	return flags;
}

static int tell(uint32_t p, struct dl_slot *slot)
{
	struct place_state *state = &world.places[p];
	struct incarnation *it = state->now;
	bool moved = it;
	int r;

	if (!moved)
		it = new_incarnation(&world.plan->places[p], slot);
	/* The guest may use a slot once it exists. */
	state->now = it;
	r = dl_slot_set(world.log, slot);
	EXPECT("dl_slot_set", r);
	if (r)
		set_has_failed(p, it, moved);
	else
		set_is_done(p, it, slot);
	return r;
}

int layout_set(uint32_t p, uint32_t flags, uint32_t gpa_choice, bool read_only)
{
	const struct place *place = &world.plan->places[p];
	uint64_t gpa_page = place->gpa_pages[gpa_choice], epoch = world.epoch;
	struct dl_slot slot;
	bool is_clean;
	int r;

	if (!place->pages || id_is_taken(p))
		return 0;
	/* KVM cannot change this flag. */
	if (is_there(p))
		read_only = world.places[p].now->read_only;
	slot = describe(place, sound_flags(p, flags), gpa_page, read_only);
	is_clean = !is_there(p) && slot.flags & DL_SLOT_CLEAN;
	prepare_copy(place, is_clean, layout_gpa(p) == gpa_page);
	r = tell(p, &slot);
	/*
	 * A session that began meanwhile assumes nothing to be sent.
	 */
	if (!r && is_clean && epoch != world.epoch)
		copy_pages(BOTH, place->block, place->first_page, place->pages);
	return r;
}

/* What was dirty goes to the receivers by the words; or it is dropped. */
int layout_remove(uint32_t p, bool discard)
{
	const struct place *place = &world.plan->places[p];
	struct place_state *state = &world.places[p];
	struct incarnation *it = state->now;
	uint64_t words[BLOCK_BYTES / PAGE_BYTES / 64 + 1] = { 0 }, epoch = world.epoch;
	uint32_t n = sizeof(words) / sizeof(words[0]);
	bool was_on = world.is_on;
	int r;

	if (!it)
		return 0;
	/* With two slots over the same memory, the pages of the other are still needed. */
	discard &= !has_neighbour(p, false);
	r = dl_slot_remove(world.log, place->slot, 0, discard ? NULL : words, discard ? 0 : n);
	EXPECT("dl_slot_remove", r);
	if (r)
		return r;
	state->now = NULL;
	it->removed_at = it->discarded_at = sim.now;
	for (uint32_t page = 0; page < place->pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			copy_pages(BOTH, place->block, place->first_page + page, 1);
	/* The words are filled only if logging was on all the time. */
	if (discard || !was_on || epoch != world.epoch || it->no_log)
		set_due(place, false);
	settle_due();
	return 0;
}

static bool nobody_takes(const void *opaque)
{
	return !world.takers;
}

void layout_act(const struct op *op)
{
	uint32_t flags = 0;

	if (!log_enter())
		return;
	sim_wait(nobody_takes, NULL, "takes", SIM_SITE("a slot is taken"));
	world.changers++;
	if (op->code == OP_REMOVE) {
		sim_trace("remove slot %#x", world.plan->places[op->slot].slot);
		EXPECT("remove", layout_remove(op->slot, op->number & 2));
	} else {
		if (op->number % 2 == 0)
			flags |= DL_SLOT_CLEAN;
		if (!(op->number >> 2 & 7))
			flags |= DL_SLOT_NO_LOG;
		sim_trace("set slot %#x flags %#x", world.plan->places[op->slot].slot, flags);
		EXPECT("set",
		       layout_set(op->slot, flags, op->number >> 5 & 1, !(op->number >> 6 & 7)));
	}
	world.changers--;
	log_leave();
}
