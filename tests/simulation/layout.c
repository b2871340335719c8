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

bool layout_covers(const struct consumer *consumer, uint32_t p)
{
	const struct wish *wish = consumer->wish;

	if (!is_there(p) || is_unlogged(p))
		return false;
	if (wish->flags & DL_CURSOR_ONE_SLOT)
		return world.plan->places[p].slot == world.plan->places[wish->place].slot;
	return !(wish->flags & DL_CURSOR_WANTED) || world.places[p].now->wanted;
}

/* Notes whether passes of some consumers must transfer the memory of a place. */
static void set_due(const struct place *place, uint32_t consumers, bool due)
{
	for (uint32_t i = 0; i < place->pages; i++) {
		uint8_t *now = &world.notes[place->block][place->first_page + i].due;

		*now = (uint8_t)(due ? *now | consumers : *now & ~consumers);
	}
}

static void settle_due(uint32_t consumers)
{
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		for (uint32_t c = 0; c < CONSUMERS; c++)
			if (consumers >> c & 1 && layout_covers(&world.consumers[c], i) &&
			    world.places[i].now->is_set)
				set_due(&world.plan->places[i], 1u << c, true);
}

void layout_note_start(const struct consumer *consumer)
{
	uint8_t me = (uint8_t)(1 << consumer->number);

	for (uint32_t b = 0; b < world.plan->block_count; b++)
		for (uint32_t page = 0; page < world.plan->block_pages[b]; page++) {
			world.notes[b][page].due &= (uint8_t)~me;
			world.notes[b][page].kept &= (uint8_t)~me;
		}
	settle_due(me);
}

uint64_t layout_gpa(uint32_t p)
{
	return is_there(p) ? world.places[p].now->gpa_page : 0;
}

static bool maps(uint32_t p, uint32_t block, uint32_t page)
{
	const struct place *place = &world.plan->places[p];

	return is_there(p) && place->block == block && page >= place->first_page &&
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
		.wanted = slot->flags & DL_SLOT_WANTED,
	};
	return it;
}

/* The consumers that are there. */
static uint32_t attached(void)
{
	uint32_t consumers = 0;

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].cursor && !world.consumers[i].is_stopping)
			consumers |= 1u << i;
	return consumers;
}

static uint32_t covering(uint32_t p)
{
	uint32_t consumers = attached();

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (!layout_covers(&world.consumers[i], p))
			consumers &= ~(1u << i);
	return consumers;
}

static void set_is_done(uint32_t p, struct incarnation *it, const struct dl_slot *slot)
{
	const struct place *place = &world.plan->places[p];

	it->gpa_page = slot->gpa / PAGE_BYTES;
	it->is_set = true;
	it->wanted = slot->flags & DL_SLOT_WANTED;
	world.places[p].now = it;
	for (uint32_t c = 0; c < CONSUMERS; c++)
		if (!layout_covers(&world.consumers[c], p))
			set_due(place, 1u << c, false);
	settle_due(attached());
}

/*
 * What receivers must have before a slot is set, and what they must not. All pages of a slot that
 * is new, moves or becomes wanted are pending when the call returns, so the earlier copy of them is
 * spoilt. If the slot is clean, no page counts as dirty, and the copy must be equal: before the
 * call if the slot is new, since only then it is written, and after it if it was there.
 */
struct copying {
	uint32_t consumers;
	bool is_clean, is_new;
};

static void prepare_copy(const struct place *place, uint64_t gpa_page, struct copying copying)
{
	if (!copying.is_clean)
		receivers_spoil_place(copying.consumers, place, gpa_page);
	else if (copying.is_new)
		receivers_copy_place(copying.consumers, place, gpa_page);
}

static struct copying what_to_copy(uint32_t p, const struct dl_slot *slot)
{
	struct copying copying = { .is_new = !is_there(p) };

	if (copying.is_new || layout_gpa(p) != slot->gpa / PAGE_BYTES)
		copying.consumers = ALL_CONSUMERS;
	else if (slot->flags & DL_SLOT_WANTED && !world.places[p].now->wanted)
		copying.consumers = consumers_of_wanted();
	return copying;
}

/* Nothing has changed, except that the copy was spoilt. */
static void set_has_failed(uint32_t p, struct incarnation *it, bool moved)
{
	const struct place *place = &world.plan->places[p];

	receivers_copy_block(ALL_CONSUMERS, place->block, place->first_page, place->pages);
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

/* Two places can share an address. */
static bool gpa_is_taken(uint32_t p, uint64_t gpa_page)
{
	uint64_t end = gpa_page + world.plan->places[p].pages;

	for (uint32_t i = 0; i < world.plan->place_count; i++) {
		const struct place *other = &world.plan->places[i];
		uint64_t at = layout_gpa(i);

		if (i != p && at && other->slot >> 16 == world.plan->places[p].slot >> 16 &&
		    at < end && gpa_page < at + other->pages)
			return true;
	}
	return false;
}

static int refused(const struct dl_slot *slot)
{
	int r = dl_slot_set(world.log, slot);

	if (r != -EEXIST && !faults_may_give(-r))
		sim_fail(SIM_RESULT, "dl_slot_set() = %d at an address that is taken", r);
	return 0;
}

/* All slots over the same memory are logged, or none is; and likewise wanted. */
static uint32_t sound_flags(uint32_t p, uint32_t flags)
{
	if (is_there(p) ? is_unlogged(p) : has_neighbour(p, true))
		flags |= DL_SLOT_NO_LOG;
	else if (is_there(p) || has_neighbour(p, false))
		flags &= ~(uint32_t)DL_SLOT_NO_LOG;
	for (uint32_t i = 0; i < world.plan->place_count; i++)
		if (i != p && is_there(i) &&
		    world.plan->places[i].block == world.plan->places[p].block)
			flags = world.places[i].now->wanted ? flags | DL_SLOT_WANTED
							    : flags & ~(uint32_t)DL_SLOT_WANTED;
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

static bool is_sending(const struct consumer *consumer)
{
	return consumer->pass_open || consumer->pass_making || consumer->takers;
}

/* A consumer whose pass is open, and cannot end before sender_leave(). */
static struct consumer *hold_pass(void)
{
	for (uint32_t i = 0; i < CONSUMERS; i++) {
		struct consumer *consumer = &world.consumers[i];

		if (!consumer->pass_open)
			continue;
		consumer->pass_users++;
		return consumer;
	}
	return NULL;
}

/* True if every receiver has what was read, and nobody has read something else. */
static bool is_all_sent(void)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (is_sending(&world.consumers[i]))
			return false;
	for (uint32_t i = 0; i < CONSUMERS; i++)
		channels_flush(&world.consumers[i]);
	return true;
}

static void note_epochs(uint64_t *epochs)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		epochs[i] = world.consumers[i].epoch;
}

/* The consumers that have begun or ended since. */
static uint32_t changed_since(const uint64_t *epochs)
{
	uint32_t consumers = 0;

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (epochs[i] != world.consumers[i].epoch)
			consumers |= 1u << i;
	return consumers;
}

static int set_slot(uint32_t p, struct dl_slot *slot, struct copying copying)
{
	const struct place *place = &world.plan->places[p];
	uint64_t epochs[CONSUMERS], gpa_page = slot->gpa / PAGE_BYTES;
	int r;

	note_epochs(epochs);
	prepare_copy(place, gpa_page, copying);
	r = tell(p, slot);
	if (!r && copying.is_clean && !copying.is_new)
		receivers_copy_place(copying.consumers, place, gpa_page);
	/* A clean consumer that began meanwhile assumes nothing to be sent. */
	if (!r)
		receivers_copy_place(changed_since(epochs), place, gpa_page);
	return r;
}

/*
 * A slot is clean if all that was read is delivered. While a pass is open that cannot be known:
 * then the library must ignore what the caller says, as it does of a move.
 */
static int set_clean(uint32_t p, struct dl_slot *slot)
{
	struct copying copying = what_to_copy(p, slot);
	struct consumer *held = hold_pass();
	int r;

	copying.is_clean = !held && is_all_sent();
	if (!held && !copying.is_clean)
		slot->flags &= ~(uint32_t)DL_SLOT_CLEAN;
	if (!copying.is_new && layout_gpa(p) != slot->gpa / PAGE_BYTES)
		copying.is_clean = false;
	r = set_slot(p, slot, copying);
	if (held)
		sender_leave(held);
	return r;
}

int layout_set(uint32_t p, const struct setting *setting)
{
	const struct place *place = &world.plan->places[p];
	uint32_t gpa_page = place->gpa_pages[setting->gpa_choice];
	bool read_only = setting->read_only;
	struct dl_slot slot;

	if (!place->pages || id_is_taken(p))
		return 0;
	/* KVM cannot change this flag. */
	if (is_there(p))
		read_only = world.places[p].now->read_only;
	slot = describe(place, sound_flags(p, setting->flags), gpa_page, read_only);
	if (gpa_is_taken(p, gpa_page))
		return refused(&slot);
	if (slot.flags & DL_SLOT_CLEAN)
		return set_clean(p, &slot);
	return set_slot(p, &slot, what_to_copy(p, &slot));
}

/* The pages of a removed slot's words are sent after the flush. */
static void keep(const struct place *place, uint32_t consumers, const uint64_t *words)
{
	world.kept_for |= (uint8_t)consumers;
	for (uint32_t page = 0; page < place->pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			world.notes[place->block][place->first_page + page].kept |=
				(uint8_t)consumers;
}

/* What was dirty goes to the receivers by the words; or it is dropped. */
int layout_remove(uint32_t p, bool discard)
{
	const struct place *place = &world.plan->places[p];
	struct place_state *state = &world.places[p];
	struct incarnation *it = state->now;
	uint64_t words[BLOCK_BYTES / PAGE_BYTES / 64 + 1] = { 0 }, epochs[CONSUMERS];
	uint32_t n = sizeof(words) / sizeof(words[0]), before = covering(p), there;
	int r;

	if (!it)
		return 0;
	note_epochs(epochs);
	/* With two slots over the same memory, the pages of the other are still needed. */
	discard &= !has_neighbour(p, false);
	r = dl_slot_remove(world.log, place->slot, 0, discard ? NULL : words, discard ? 0 : n);
	EXPECT("dl_slot_remove", r);
	if (r)
		return r;
	state->now = NULL;
	it->removed_at = sim.now;
	/* The words have what a consumer did not send if it was there all the time. */
	there = discard || it->no_log ? 0 : before & attached() & ~changed_since(epochs);
	keep(place, there, words);
	set_due(place, ALL_CONSUMERS & ~there, false);
	settle_due(attached());
	return 0;
}

static bool nobody_takes(const void *opaque)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].takers)
			return false;
	return true;
}

/* Wanted or not any more; all else stays. */
static int change_wanted(const struct op *op)
{
	const struct incarnation *it = world.places[op->slot].now;
	struct setting setting = { .flags = op->number & 1 ? DL_SLOT_CLEAN : 0 };

	if (!it)
		return 0;
	setting.gpa_choice = it->gpa_page != it->place->gpa_pages[0];
	if (!it->wanted)
		setting.flags |= DL_SLOT_WANTED;
	sim_trace("%s slot %#x", it->wanted ? "do not want" : "want", it->place->slot);
	return layout_set(op->slot, &setting);
}

static int set_by(const struct op *op)
{
	struct setting setting = {
		.gpa_choice = op->number >> 5 & 1,
		.read_only = !(op->number >> 6 & 7),
	};

	if (op->number % 2 == 0)
		setting.flags |= DL_SLOT_CLEAN;
	if (!(op->number >> 2 & 7))
		setting.flags |= DL_SLOT_NO_LOG;
	if (op->number >> 9 & 1)
		setting.flags |= DL_SLOT_WANTED;
	sim_trace("set slot %#x flags %#x", world.plan->places[op->slot].slot, setting.flags);
	return layout_set(op->slot, &setting);
}

void layout_act(const struct op *op)
{
	if (!log_enter())
		return;
	sim_wait(nobody_takes, NULL, "takes", SIM_SITE("a slot is taken"));
	world.changers++;
	if (op->code == OP_REMOVE) {
		sim_trace("remove slot %#x", world.plan->places[op->slot].slot);
		EXPECT("remove", layout_remove(op->slot, op->number & 2));
	} else if (op->code == OP_WANT) {
		EXPECT("want", change_wanted(op));
	} else {
		EXPECT("set", set_by(op));
	}
	world.changers--;
	log_leave();
}
