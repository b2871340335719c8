/* SPDX-License-Identifier: MIT */
/*
 * A flash of 256 KiB that the guest maps, moves and unmaps all the time, as firmware does that
 * toggles its ROM: nothing is left behind, neither memory nor pages of a slot that is gone.
 *
 * --moves N sets the number of moves, of the few ten thousand that are the default.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"
#include "usage.h"

enum {
	FLASH_BYTES = 256 << 10,
	RAM_PAGES = 100,
	RAM_SLOT = 1,
	FLASH_SLOT = 7,
	CYCLE_MOVES = 4, /* set, move, move back, remove */
	FAST_MOVES = 24000,
	LEAK_BYTES = 16, /* of a leak in each move that must show */
	WARM_PART = 10,	 /* this part of the moves, before the first look */
	/* Tolerated variation; it matters where there are few moves. */
	SLACK_RESIDENT_BYTES = 128 << 10,
	SLACK_HEAP_BYTES = 4 << 10,
};

static const uint64_t HERE = 4ull * GUEST_DATA_GPA;
static const uint64_t THERE = 8ull * GUEST_DATA_GPA;

static uint64_t wanted_moves = FAST_MOVES;
static struct rig *rig;
static struct rig_slot *ram, *flash;

static void begin(uint32_t mode)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };

	rig = rig_new(&config);
	ram = rig_slot(rig, RAM_SLOT, GUEST_DATA_GPA, RAM_PAGES);
	flash = rig_memory(rig, FLASH_SLOT, HERE, FLASH_BYTES / rig->page_bytes);
	rig_join(rig, 0);
}

static void set_at(uint64_t gpa)
{
	flash->gpa = gpa;
	assert_int_equal(rig_slot_set(rig, flash, 0, 0), 0);
}

/* Nothing can be pending but memory that some slot maps. */
static void expect_pending_within(uint64_t bytes)
{
	assert_in_range(checker_pending(&rig->checker), 0, bytes);
}

/* Four moves of the flash. With a write the slot has something to leave behind. */
static void cycle(uint64_t number)
{
	const struct rig_range range = { .slot = flash, .pages = 8 };
	uint64_t words[FLASH_BYTES / 4096 / 64] = { 0 };
	const uint64_t n_words = sizeof(words) / sizeof(words[0]);

	set_at(HERE);
	if (number % 16 == 0)
		rig_write(rig, 0, &range, number);
	set_at(THERE);
	if (number % 64 == 0)
		assert_int_equal(dl_mark_slot(rig->log, FLASH_SLOT, 0, 1), 0);
	set_at(HERE);
	expect_pending_within(ram->bytes + flash->bytes);
	if (number % 2) {
		assert_int_equal(rig_slot_remove(rig, flash), 0);
		return;
	}
	assert_int_equal(dl_slot_remove(rig->log, FLASH_SLOT, DL_REMOVE_PAUSED, words, n_words), 0);
	assert_true(words[0]);
	checker_unmap(&rig->checker, FLASH_SLOT);
}

/* with_passes: of the cursor, which otherwise is one that nobody serves. */
static void move(uint64_t moves, bool with_passes)
{
	for (uint64_t number = 0; number < moves / CYCLE_MOVES; number++) {
		cycle(number);
		expect_pending_within(ram->bytes);
		if (with_passes && number % 32 == 0)
			rig_pass(rig, 0);
		if (number % 256 == 0)
			machine_watchdog("toggles", MACHINE_WATCHDOG_SECONDS);
	}
}

/* Half of what such a leak would add: it may be in malloc's memory or in mappings. */
static void expect_no_growth(const char *what, uint64_t before, uint64_t after, uint64_t slack)
{
	uint64_t bound = wanted_moves * LEAK_BYTES / 2;

	if (bound < slack)
		bound = slack;
	printf("%s: %" PRIu64 " KiB, and %" PRIu64 " KiB after %" PRIu64 " moves\n", what,
	       before >> 10, after >> 10, wanted_moves);
	if (after > before + bound)
		fail_msg("%s: %" PRIu64 " bytes more after %" PRIu64 " moves", what, after - before,
			 wanted_moves);
}

static void toggle(uint32_t mode, bool with_passes)
{
	struct usage before, after;

	begin(mode);
	move(wanted_moves / WARM_PART, with_passes);
	before = usage_measure();
	move(wanted_moves, with_passes);
	after = usage_measure();
	assert_int_equal(after.fds, before.fds);
	if (!USAGE_KEEPS_MEMORY) {
		expect_no_growth("resident", before.resident_bytes, after.resident_bytes,
				 SLACK_RESIDENT_BYTES);
		expect_no_growth("heap", before.heap_bytes, after.heap_bytes, SLACK_HEAP_BYTES);
	}
	set_at(HERE);
	rig_finish(rig);
	assert_int_equal(checker_pending(&rig->checker), 0);
}

static void ring_a_toggled_slot_leaves_nothing(void **state)
{
	(void)state;
	toggle(DL_MODE_RING, true);
}

static void ring_a_toggled_slot_leaves_nothing_to_an_idle_cursor(void **state)
{
	(void)state;
	toggle(DL_MODE_RING, false);
}

static void bitmap_a_toggled_slot_leaves_nothing(void **state)
{
	(void)state;
	toggle(DL_MODE_BITMAP, true);
}

static void bitmap_a_toggled_slot_leaves_nothing_to_an_idle_cursor(void **state)
{
	(void)state;
	toggle(DL_MODE_BITMAP, false);
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = { { "moves", required_argument, NULL, 'm' },
					       { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c != 'm')
			return -1;
		wanted_moves = strtoull(optarg, NULL, 0);
	}
	return optind < argc || wanted_moves < (uint64_t)WARM_PART * CYCLE_MOVES ? -1 : 0;
}

/* Slow machines, such as emulated ones, make an eighth of the moves. */
static void reduce_moves(void)
{
	const char *patience = getenv("DIRTYLOG_PATIENCE");

	if (patience && atoi(patience) > 1)
		wanted_moves /= 8;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_a_toggled_slot_leaves_nothing),
		rig_test(ring_a_toggled_slot_leaves_nothing_to_an_idle_cursor),
		rig_test(bitmap_a_toggled_slot_leaves_nothing),
		rig_test(bitmap_a_toggled_slot_leaves_nothing_to_an_idle_cursor),
	};

	reduce_moves();
	if (read_options(argc, argv)) {
		fprintf(stderr, "options: --moves N, at least %d\n", WARM_PART * CYCLE_MOVES);
		return 2;
	}
	return rig_run_tests("toggles", tests);
}
