/* SPDX-License-Identifier: MIT */
/*
 * Random acts of four consumers on one guest: they join, leave, read, take and leave passes open
 * while slots and an alias come, move and go beneath a writing vCPU. Every so often the guest is
 * paused, and who has joined must have a copy of all memory. A seed determines the acts.
 *
 * --first N and --seeds N choose other lives.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/random.h"
#include "scene.h"

enum {
	ACTORS = 4,
	SLOTS = 4,
	ALIAS = 3, /* of the scratch memory */
	ALIAS_SLOT = 9,
	MOVE_BYTES = GUEST_DATA_GPA / 2, /* slots are larger apart, and smaller */
	CHECKS = 6,
	ACTS = 30, /* before each check */
};

struct actor {
	struct checker *checker;
	bool covers[SLOTS];
	bool in_pass;
	unsigned int joined; /* at this act */
};

struct mapped {
	struct rig_slot *slot;
	bool present;
	uint32_t flags;
	unsigned int removed; /* at this act */
};

static uint64_t first_seed = 1, seeds = 2;

/* Event counters, to notice a life in which nothing happens. */
static struct {
	unsigned int joins, passes, takes, changes;
} tally;

static struct random dice;
static struct actor actors[ACTORS];
static struct mapped slots[SLOTS];
static struct rig_slot alias;
static unsigned int act_number;
static bool running; /* vCPU 1 */

static uint64_t draw(uint64_t below)
{
	return random_below(&dice, below);
}

static void stop_running(void)
{
	rig_stop(rig);
	running = false;
}

static struct mapped *draw_present(void)
{
	struct mapped *mapped;

	/* RAM is always there. */
	do
		mapped = &slots[draw(SLOTS)];
	while (!mapped->present);
	return mapped;
}

static struct rig_range draw_range(const struct rig_slot *slot)
{
	uint64_t pages = slot->bytes / rig->page_bytes;
	struct rig_range range = { .slot = slot, .first_page = draw(pages), .shuffled = draw(2) };

	range.pages = 1 + draw(pages - range.first_page);
	return range;
}

static void begin_running(void)
{
	struct rig_range range = draw_range(draw_present()->slot);

	stop_running();
	rig_count(rig, 1, &range);
	running = true;
}

static void write_by_vcpu(void)
{
	struct rig_range range = draw_range(draw_present()->slot);

	rig_write(rig, 0, &range, random_next(&dice));
}

static void write_by_device(void)
{
	const struct rig_slot *slot = draw_present()->slot;
	uint64_t offset = draw(slot->bytes / rig->page_bytes) * rig->page_bytes;
	uint64_t value = random_next(&dice);

	memcpy(slot->memory + offset + 3000, &value, sizeof(value));
	if (draw(2))
		assert_int_equal(dl_mark_hva(rig->log, slot->memory + offset, 1), 0);
	else
		assert_int_equal(dl_mark_slot(rig->log, slot->slot, offset, 1), 0);
}

static void end_pass(struct actor *actor)
{
	if (actor->in_pass && draw(2))
		assert_int_equal(checker_finish_pass(actor->checker, 1 + (unsigned int)draw(2)), 0);
	else if (actor->in_pass)
		checker_end(actor->checker, 0);
	actor->in_pass = false;
}

/* A display whose slot is not there opens none. */
static void open_pass(struct actor *actor)
{
	struct dl_extent extents[4];
	int n, r = dl_harvest(actor->checker->cursor, 0, NULL);

	if (r == -ENOENT && actor == &actors[1] && !slots[DISPLAY_SLOT].present)
		return;
	assert_int_equal(r, 0);
	actor->in_pass = true;
	tally.passes++;
	n = dl_cursor_read(actor->checker->cursor, extents, (uint32_t)draw(4) + 1);
	assert_true(n >= 0);
	for (int i = 0; i < n; i++) {
		assert_true(checker_copy_run(actor->checker, &extents[i]));
		/* Pages that are not acknowledged are pending again. */
		if (draw(2))
			assert_int_equal(dl_cursor_ack(actor->checker->cursor, &extents[i], 1), 0);
	}
}

static void take(struct actor *actor)
{
	const uint32_t any = DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR | DL_TAKE_LE;
	uint32_t slot = (uint32_t)draw(SLOTS);
	uint64_t pages = 0;

	end_pass(actor);
	if (!slots[slot].present || !actor->covers[slot])
		return;
	assert_int_equal(checker_take(actor->checker, slots[slot].slot->slot,
				      (uint32_t)draw(16) & any, &pages),
			 0);
	checker_flush(actor->checker);
	tally.takes += pages != 0;
}

static void join(struct actor *actor)
{
	static const uint32_t flags[ACTORS] = { 0, DL_CURSOR_ONE_SLOT, DL_CURSOR_WANTED };
	uint32_t clean = draw(2) ? DL_CURSOR_CLEAN : 0;
	uint32_t how = flags[actor - actors] | clean;

	if (clean) {
		stop_running();
		checker_equalize(actor->checker);
	}
	assert_int_equal(
		checker_join_one(actor->checker, how, how & DL_CURSOR_ONE_SLOT ? DISPLAY_SLOT : 0),
		0);
	actor->joined = act_number;
	tally.joins++;
}

static void join_or_leave(struct actor *actor)
{
	if (!actor->checker->cursor) {
		join(actor);
		return;
	}
	actor->in_pass = false;
	checker_leave(actor->checker);
}

/* Every receiver has followed the slot since it was removed. */
static bool all_have(const struct mapped *mapped)
{
	for (unsigned int i = 0; i < ACTORS; i++)
		if (actors[i].checker->cursor && actors[i].joined >= mapped->removed)
			return false;
	return mapped->removed;
}

static void set(struct mapped *mapped)
{
	uint32_t flags = mapped->flags;

	if (!mapped->present && mapped == &slots[DISPLAY_SLOT] && all_have(mapped) && draw(2))
		flags |= DL_SLOT_CLEAN | (running ? 0 : DL_SLOT_PAUSED);
	consumers_set(rig, mapped->slot, flags);
	mapped->present = true;
}

static void change_slot(void)
{
	struct mapped *mapped = &slots[1 + draw(SLOTS - 1)];

	/* A vCPU that counts needs its slot. */
	stop_running();
	tally.changes++;
	if (mapped->present && draw(3) == 0) {
		mapped->slot->gpa ^= MOVE_BYTES;
		set(mapped);
	} else if (mapped->present) {
		consumers_remove(rig, mapped->slot, draw(2) ? DL_REMOVE_PAUSED : 0);
		mapped->present = false;
		mapped->removed = act_number;
	} else {
		set(mapped);
	}
}

static void act(void)
{
	struct actor *actor = &actors[draw(ACTORS)];
	uint64_t chance = draw(20);

	act_number++;
	if (chance < 6)
		write_by_vcpu();
	else if (chance < 8)
		write_by_device();
	else if (chance < 10)
		begin_running();
	else if (chance < 12)
		change_slot();
	else if (chance < 13)
		assert_int_equal(dl_log_reap(rig->log, DL_REAP_NOW, NULL), 0);
	else if (chance < 14 || !actor->checker->cursor)
		join_or_leave(actor);
	else if (chance < 16)
		take(actor);
	else if (actor->in_pass)
		end_pass(actor);
	else
		open_pass(actor);
}

static void check_all(void)
{
	stop_running();
	for (unsigned int i = 0; i < SLOTS; i++)
		if (!slots[i].present)
			consumers_set(rig, slots[i].slot, slots[i].flags);
	for (unsigned int i = 0; i < SLOTS; i++)
		slots[i].present = true;
	for (unsigned int i = 0; i < ACTORS; i++) {
		if (!actors[i].checker->cursor)
			continue;
		end_pass(&actors[i]);
		consumer_finish(actors[i].checker);
	}
}

static void begin_life(const struct way *way)
{
	scene_begin(way, 2);
	alias = *scratch;
	alias.slot = ALIAS_SLOT;
	alias.gpa = 32ull * GUEST_DATA_GPA;
	slots[RAM_SLOT] = (struct mapped){ .slot = ram, .present = true, .flags = DL_SLOT_WANTED };
	slots[DISPLAY_SLOT] = (struct mapped){ .slot = display, .present = true };
	slots[SCRATCH_SLOT] = (struct mapped){ .slot = scratch, .present = true };
	slots[ALIAS] = (struct mapped){ .slot = &alias };
	memset(actors, 0, sizeof(actors));
	actors[0] = (struct actor){ &rig->checker, .covers = { true, true, true, true } };
	actors[1] = (struct actor){ scene_consumer(display), .covers = { [DISPLAY_SLOT] = true } };
	actors[2] = (struct actor){ scene_consumer(ram), .covers = { [RAM_SLOT] = true } };
	actors[3] = (struct actor){ consumer_of_all(rig), .covers = { true, true, true, true } };
	running = false;
	act_number = 0;
}

static void a_random_life_loses_no_page(void **state)
{
	const struct way *way = *state;

	memset(&tally, 0, sizeof(tally));
	for (uint64_t seed = first_seed; seed < first_seed + seeds; seed++) {
		dice.state = seed * 0x9e3779b97f4a7c15ULL | 1;
		begin_life(way);
		printf("%s: --first %llu --seeds 1\n", way->name, (unsigned long long)seed);
		for (unsigned int check = 0; check < CHECKS; check++) {
			for (unsigned int i = 0; i < ACTS; i++)
				act();
			check_all();
		}
		consumers_free();
		rig_free(rig);
	}
	assert_true(tally.joins && tally.passes && tally.takes && tally.changes);
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = { { "first", required_argument, NULL, 'f' },
					       { "seeds", required_argument, NULL, 'n' },
					       { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 'f')
			first_seed = number;
		else if (c == 'n')
			seeds = number;
		else
			return -1;
	}
	return optind < argc ? -1 : 0;
}

int main(int argc, char **argv)
{
	const struct way_test tests[] = {
		way_test(a_random_life_loses_no_page),
	};

	if (read_options(argc, argv)) {
		fprintf(stderr, "options: --first N, --seeds N\n");
		return 2;
	}
	return ways_run_tests("random acts of several cursors", tests);
}
