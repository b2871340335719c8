/* SPDX-License-Identifier: MIT */
/*
 * Slots are set, moved and removed while vCPUs write and consumers read and take. What a removed
 * slot's words have is sent after the next flush, or kept until its memory has a slot again.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "layout.h"

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

static void set_is_done(uint32_t p, struct incarnation *it, const struct dl_slot *slot)
{
	const struct place *place = &world.plan->places[p];

	if (it->gpa_page != slot->gpa / PAGE_BYTES) {
		it->old_gpa_page = it->gpa_page;
		it->moved_at = sim.now;
	}
	it->gpa_page = slot->gpa / PAGE_BYTES;
	it->is_set = true;
	it->wanted = slot->flags & DL_SLOT_WANTED;
	world.places[p].now = it;
	for (uint32_t c = 0; c < CONSUMERS; c++)
		if (!layout_covers(&world.consumers[c], p))
			layout_set_due(place, 1u << c, false);
	layout_settle_due(layout_attached());
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

/*
 * The receivers by block have the pages of an earlier slot, unless they are in its words. Those of
 * a consumer that is just beginning have nothing.
 */
static void copy_missing(const struct place *place, uint64_t gpa_page)
{
	for (uint32_t page = 0; page < place->pages; page++) {
		uint32_t in_block = place->first_page + page;
		uint32_t have = world.notes[place->block][in_block].due & layout_attached();

		receivers_copy_block(ALL_CONSUMERS & ~have, place->block, in_block, 1);
	}
	receivers_copy_gpa(ALL_CONSUMERS, place, gpa_page);
}

static void prepare_copy(const struct place *place, uint64_t gpa_page, struct copying copying)
{
	if (!copying.is_clean)
		receivers_spoil_place(copying.consumers, place, gpa_page);
	else if (copying.is_new && world.plan->keeps_words)
		copy_missing(place, gpa_page);
	else if (copying.is_new)
		receivers_copy_place(copying.consumers, place, gpa_page);
}

static struct copying what_to_copy(uint32_t p, const struct dl_slot *slot)
{
	struct copying copying = { .is_new = !layout_is_there(p) };

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
		if (i != p && layout_is_there(i) &&
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
	it->next_gpa_page = slot->gpa / PAGE_BYTES;
	if (slot->flags & DL_SLOT_PAUSED)
		guest_pause();
	r = dl_slot_set(world.log, slot);
	if (slot->flags & DL_SLOT_PAUSED)
		guest_resume();
	it->next_gpa_page = 0;
	EXPECT("dl_slot_set", r);
	if (r)
		set_has_failed(p, it, moved);
	else
		set_is_done(p, it, slot);
	return r;
}

static bool is_sending(const struct consumer *consumer)
{
	return consumer->pass_open || consumer->pass_making || consumer->takers ||
	       consumer->sends_all;
}

static bool is_quiet(const void *opaque)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (is_sending(&world.consumers[i]))
			return false;
	return true;
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
	if (!is_quiet(NULL))
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

/* The memory has a slot again: what the words of its earlier one have is marked. */
static void give_back_words(const struct place *place, bool is_clean)
{
	for (uint32_t page = 0; page < place->pages; page++) {
		struct page_note *note = &world.notes[place->block][place->first_page + page];

		if (note->kept && is_clean && world.plan->keeps_words)
			EXPECT("dl_mark_slot", dl_mark_slot(world.log, place->slot,
							    page * (uint64_t)PAGE_BYTES, 1));
		if (world.plan->keeps_words)
			note->kept = 0;
	}
}

static int set_slot(uint32_t p, struct dl_slot *slot, struct copying copying)
{
	const struct place *place = &world.plan->places[p];
	uint64_t epochs[CONSUMERS], gpa_page = slot->gpa / PAGE_BYTES;
	int r;

	note_epochs(epochs);
	prepare_copy(place, gpa_page, copying);
	r = tell(p, slot);
	if (!r && copying.is_new)
		give_back_words(place, copying.is_clean);
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
	if (layout_is_there(p))
		read_only = world.places[p].now->read_only;
	slot = describe(place, layout_sound_flags(p, setting->flags), gpa_page, read_only);
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

/* Under running vCPUs all pages are in the words, otherwise those that are dirty. */
static int remove_slot(uint32_t slot, bool paused, uint64_t *words, uint32_t n_words)
{
	int r;

	if (paused)
		guest_pause();
	cells_slot_goes(slot);
	r = dl_slot_remove(world.log, slot, paused ? DL_REMOVE_PAUSED : 0, words, n_words);
	cells_slot_goes(slot);
	if (paused)
		guest_resume();
	EXPECT("dl_slot_remove", r);
	return r;
}

/* The words pass the dirty pages on to the receivers; or the pages are dropped. */
static int layout_remove(const struct op *op)
{
	uint32_t p = op->slot;
	bool paused, discard = !(op->number >> 1 & 3) && !layout_has_neighbour(p, false);
	const struct place *place = &world.plan->places[p];
	struct place_state *state = &world.places[p];
	struct incarnation *it = state->now;
	uint64_t words[BLOCK_BYTES / PAGE_BYTES / 64 + 1] = { 0 }, epochs[CONSUMERS];
	uint32_t n = sizeof(words) / sizeof(words[0]), before = layout_covering(p), there;
	int r;

	if (!it)
		return 0;
	note_epochs(epochs);
	/* With two slots over the same memory, the pages of the other are still needed. */
	paused = op->number >> 3 & (world.plan->keeps_words ? 3 : 1);
	r = remove_slot(place->slot, paused, discard ? NULL : words, discard ? 0 : n);
	if (r)
		return r;
	state->now = NULL;
	it->removed_at = sim.now;
	/* The words have what a consumer did not send if it was there all the time. */
	there = discard || it->no_log ? 0 : before & layout_attached() & ~changed_since(epochs);
	keep(place, there, words);
	layout_set_due(place, ALL_CONSUMERS & ~there, false);
	layout_settle_due(layout_attached());
	return 0;
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

	if (op->number % 2 == 0 || world.plan->keeps_words)
		setting.flags |= DL_SLOT_CLEAN;
	/* Otherwise few new slots are clean. */
	if (setting.flags & DL_SLOT_CLEAN && op->number >> 10 & 1)
		sim_wait(is_quiet, NULL, "the end of passes", SIM_SITE("before a clean slot"));
	if (!(op->number >> 2 & 7))
		setting.flags |= DL_SLOT_NO_LOG;
	if (op->number >> 9 & 1)
		setting.flags |= DL_SLOT_WANTED;
	if (!(op->number >> 11 & 3))
		setting.flags |= DL_SLOT_PAUSED;
	sim_trace("set slot %#x flags %#x", world.plan->places[op->slot].slot, setting.flags);
	return layout_set(op->slot, &setting);
}

void layout_act(const struct op *op)
{
	if (!log_enter())
		return;
	world.changers++;
	world.changes++;
	if (op->code == OP_REMOVE) {
		sim_trace("remove slot %#x", world.plan->places[op->slot].slot);
		EXPECT("remove", layout_remove(op));
	} else if (op->code == OP_WANT) {
		EXPECT("want", change_wanted(op));
	} else {
		EXPECT("set", set_by(op));
	}
	world.changes++;
	world.changers--;
	log_leave();
}
