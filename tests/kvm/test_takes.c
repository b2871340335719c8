/* SPDX-License-Identifier: MIT */
/*
 * dl_cursor_take() on a running guest: with clears at once and later, beside extents, beside other
 * cursors and beside several readers of the same cursor.
 */
#include "scene.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { RAM_WORDS = (RAM_PAGES + 63) / 64, READERS = 3 };

static const uint32_t every_flags[] = {
	DL_TAKE_HARVEST,
	DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR,
	DL_TAKE_HARVEST | DL_TAKE_LE,
	DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR | DL_TAKE_LE,
};

#define FLAGS (sizeof(every_flags) / sizeof(every_flags[0]))

/* Takes RAM into words, which are empty. Returns the number of pages. */
static uint64_t take_ram(struct checker *consumer, uint32_t flags, uint64_t *words)
{
	uint64_t bytes = 1, pages = 0;

	memset(words, 0, RAM_WORDS * sizeof(words[0]));
	assert_int_equal(
		dl_cursor_take(consumer->cursor, RAM_SLOT, flags, words, RAM_WORDS, &bytes), 0);
	for (unsigned int i = 0; i < RAM_WORDS; i++)
		pages += (uint64_t)__builtin_popcountll(words[i]);
	assert_int_equal(bytes, pages * rig->page_bytes);
	return pages;
}

static bool has_page(const uint64_t *words, uint64_t page)
{
	return words[page / 64] >> page % 64 & 1;
}

/* Sends pages of RAM as they are now. */
static void send_ram(struct checker *consumer, uint64_t first, uint64_t pages)
{
	const struct dl_extent extent = {
		.gpa = ram->gpa + first * rig->page_bytes,
		.hva = (uintptr_t)ram->memory + first * rig->page_bytes,
		.offset_bytes = first * rig->page_bytes,
		.bytes = pages * rig->page_bytes,
		.slot = RAM_SLOT,
	};

	assert_true(checker_copy_run(consumer, &extent));
}

/* On a little-endian host, words are the same with DL_TAKE_LE. */
static void send_taken(struct checker *consumer, const uint64_t *words)
{
	for (uint64_t page = 0; page < RAM_PAGES; page++)
		if (has_page(words, page))
			send_ram(consumer, page, 1);
}

static void clear_ram(uint64_t first, uint64_t pages)
{
	assert_int_equal(
		dl_slot_clear(rig->log, RAM_SLOT, first * rig->page_bytes, pages * rig->page_bytes),
		0);
}

/* All slots, until nothing is left: the vCPUs are stopped. */
static void take_the_rest(struct checker *consumer)
{
	uint64_t pages;
	int turns = 0;

	do {
		pages = 0;
		assert_in_range(turns++, 0, 9);
		assert_int_equal(
			checker_take_all(consumer, DL_TAKE_HARVEST | DL_TAKE_PAUSED, &pages), 0);
		checker_flush(consumer);
	} while (pages);
	checker_expect_equal(consumer);
}

static void takes_alone_copy_a_running_guest(void **state)
{
	struct checker *taker;

	scene_begin(*state, 2);
	taker = consumer_of_all(rig);
	scene_join(taker, 0);
	for (unsigned int turn = 0; turn < 2 * FLAGS; turn++) {
		uint64_t pages = 0;

		scene_run(turn);
		assert_int_equal(checker_take_all(taker, every_flags[turn % FLAGS], &pages), 0);
		checker_flush(taker);
		assert_true(pages > 0);
	}
	rig_stop(rig);
	take_the_rest(taker);
}

/* A migration takes, another reads extents by several threads, a display reads its slot. */
static void takes_beside_extents_of_other_cursors(void **state)
{
	struct checker *taker, *screen;

	scene_begin(*state, 2);
	taker = consumer_of_all(rig);
	screen = scene_consumer(display);
	scene_join(taker, 0);
	scene_join_display(screen);
	for (unsigned int turn = 0; turn < 2 * FLAGS; turn++) {
		uint64_t pages = 0;

		if (turn == 2)
			rig_join(rig, 0);
		scene_run(turn);
		if (rig->checker.cursor)
			assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
		assert_int_equal(checker_take_all(taker, every_flags[turn % FLAGS], &pages), 0);
		checker_flush(taker);
		if (rig->checker.cursor)
			assert_int_equal(checker_finish_pass(&rig->checker, READERS), 0);
		consumer_pass(screen, 1 + turn % 2);
	}
	rig_stop(rig);
	take_the_rest(taker);
	scene_finish(screen, NULL);
}

static void takes_are_exact(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker;

	scene_begin(*state, 1);
	taker = consumer_of_all(rig);
	scene_join(taker, 0);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), RAM_PAGES);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), 0);
	for (unsigned int turn = 0; turn < FLAGS; turn++) {
		uint64_t first = 64 * turn + 3;

		scene_write(ram, first, 5);
		scene_write(ram, RAM_PAGES - 1, 1);
		/* Without HARVEST, nothing of it is known. */
		assert_int_equal(take_ram(taker, 0, words), 0);
		assert_int_equal(take_ram(taker, every_flags[turn], words), 6);
		clear_ram(0, RAM_PAGES);
		if (every_flags[turn] & DL_TAKE_LE)
			for (unsigned int i = 0; i < RAM_WORDS; i++)
				words[i] = le64toh(words[i]);
		for (uint64_t page = first; page < first + 5; page++)
			assert_true(has_page(words, page));
		assert_true(has_page(words, RAM_PAGES - 1));
		assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), 0);
	}
}

/* Chunk by chunk, and each chunk just before its contents are read. */
static void contents_are_read_after_a_late_clear(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker;

	scene_begin(*state, 1);
	taker = scene_consumer(ram);
	scene_join(taker, 0);
	for (unsigned int turn = 0; turn < 4; turn++) {
		take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words);
		for (uint64_t first = 0; first < RAM_PAGES; first += 60) {
			/* Writes that the take has not seen, unless a clear came before them. */
			scene_write(ram, 0, RAM_PAGES);
			clear_ram(first, 60);
			scene_write(ram, first, 1);
			for (uint64_t page = first; page < first + 60; page++)
				if (has_page(words, page))
					send_ram(taker, page, 1);
		}
		checker_flush(taker);
	}
	take_the_rest(taker);
}

/* A caller that reads too early gets stale contents. This proves that the check can fail. */
static void contents_read_before_the_clear_are_stale(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker;

	scene_begin(*state, 1);
	taker = scene_consumer(ram);
	scene_join(taker, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	scene_write(ram, 7, 9);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 9);
	send_ram(taker, 0, RAM_PAGES);
	scene_write(ram, 7, 9);
	clear_ram(0, RAM_PAGES);
	checker_flush(taker);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_PAUSED, words), 0);
	assert_int_equal(checker_differing_pages(taker), 9);
}

/* D2: what nobody has cleared yet is found again, also by who has just taken it. */
static void an_owed_page_is_found_again_until_it_is_cleared(void **state)
{
	const struct way *way = *state;
	bool again = way_clears(way);
	struct checker *taker, *other;
	uint64_t words[RAM_WORDS];

	scene_begin(way, 1);
	taker = consumer_of_all(rig);
	other = consumer_of_all(rig);
	scene_join(taker, 0);
	scene_join(other, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	consumer_pass(other, 1);
	consumer_pass(other, 1);
	take_ram(taker, DL_TAKE_HARVEST, words);
	send_ram(taker, 0, RAM_PAGES);
	scene_write(ram, 130, 4);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 4);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), again ? 4 : 0);
	scene_write(ram, 132, 1);
	clear_ram(130, 4);
	send_ram(taker, 130, 4);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), again ? 0 : 1);
	send_ram(taker, 132, 1);
	scene_expect(other, ram, 130, 4);
	scene_write(ram, 130, 4);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), 4);
	send_ram(taker, 130, 4);
	scene_expect(other, ram, 130, 4);
	consumer_finish(other);
	take_the_rest(taker);
}

/* Whoever reads has it cleared; who takes later must still get it, and may read at once. */
static void a_take_defers_no_clear_of_another(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker, *other;

	scene_begin(*state, 1);
	taker = consumer_of_all(rig);
	other = consumer_of_all(rig);
	scene_join(taker, 0);
	scene_join(other, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	send_ram(taker, 0, RAM_PAGES);
	consumer_pass(other, 1);
	for (unsigned int turn = 0; turn < 6; turn++) {
		uint64_t pages = 0;

		scene_write(ram, 20, 30);
		take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words);
		consumer_pass(other, 1);
		scene_write(ram, 30, 10);
		clear_ram(0, RAM_PAGES);
		send_taken(taker, words);
		assert_int_equal(checker_take(taker, RAM_SLOT, DL_TAKE_HARVEST, &pages), 0);
		assert_in_range(pages, 10, 30);
		checker_flush(taker);
	}
	consumer_finish(other);
	take_the_rest(taker);
}

/* A take in a pass: what the pass has handed out stays the pass's. */
static void a_take_leaves_what_a_pass_has_handed_out(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker;
	struct dl_extent extent;

	scene_begin(*state, 1);
	taker = consumer_of_all(rig);
	scene_join(taker, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	send_ram(taker, 0, RAM_PAGES);
	scene_write(ram, 10, 5);
	scene_write(ram, 200, 5);
	assert_int_equal(dl_harvest(taker->cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(taker->cursor, &extent, 1), 1);
	assert_int_equal(extent.offset_bytes, 10 * rig->page_bytes);
	assert_int_equal(extent.bytes, 5 * rig->page_bytes);
	assert_true(checker_copy_run(taker, &extent));
	/* A chunk that was read ahead may stay the pass's too. */
	assert_in_range(take_ram(taker, DL_TAKE_HARVEST, words), 0, 5);
	for (uint64_t page = 10; page < 15; page++)
		assert_false(has_page(words, page));
	for (uint64_t page = 200; page < 205; page++)
		if (has_page(words, page))
			send_ram(taker, page, 1);
	assert_int_equal(dl_cursor_ack(taker->cursor, &extent, 1), 0);
	assert_int_equal(checker_finish_pass(taker, 1), 0);
	take_the_rest(taker);
}

/* C3: what nobody has cleared yet is writable, also for a consumer that begins clean. */
static void a_clean_cursor_begins_with_what_was_taken_and_not_cleared(void **state)
{
	struct checker *taker, *late;
	uint64_t words[RAM_WORDS], pages = 0;

	scene_begin(*state, 1);
	taker = consumer_of_all(rig);
	late = consumer_of_all(rig);
	scene_join(taker, 0);
	/* Nothing else is owed to anybody. */
	assert_int_equal(checker_take_all(taker, DL_TAKE_HARVEST, &pages), 0);
	scene_write(ram, 40, 4);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 4);
	scene_join(late, DL_CURSOR_CLEAN);
	scene_write(ram, 40, 4);
	/* Clears the kernel's bits of the write, which the newcomer has not looked for. */
	clear_ram(0, RAM_PAGES);
	send_taken(taker, words);
	scene_expect(late, ram, 40, 4);
	consumer_finish(late);
	take_the_rest(taker);
}

struct reading {
	pthread_t thread;
	struct checker *consumer;
	int result;
};

static void *read_to_the_end(void *opaque)
{
	struct reading *reading = opaque;

	reading->result = checker_read(reading->consumer);
	return NULL;
}

/*
 * Several readers, and takes of the same slot meanwhile: no page is sent by nobody. What was taken
 * is sent after the readers' older contents.
 */
static void takes_beside_several_readers_of_one_cursor(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *both;

	scene_begin(*state, 2);
	both = consumer_of_all(rig);
	both->batch_runs = 2;
	scene_join(both, 0);
	for (unsigned int turn = 0; turn < 6; turn++) {
		struct reading readings[READERS];

		scene_run(turn);
		assert_int_equal(dl_harvest(both->cursor, 0, NULL), 0);
		for (unsigned int i = 0; i < READERS; i++) {
			readings[i] = (struct reading){ .consumer = both };
			assert_int_equal(pthread_create(&readings[i].thread, NULL, read_to_the_end,
							&readings[i]),
					 0);
		}
		(void)take_ram(both, every_flags[turn % FLAGS], words);
		for (unsigned int i = 0; i < READERS; i++) {
			pthread_join(readings[i].thread, NULL);
			assert_int_equal(readings[i].result, 0);
		}
		checker_flush(both);
		clear_ram(0, RAM_PAGES);
		send_taken(both, words);
		checker_end(both, 0);
	}
	rig_stop(rig);
	take_the_rest(both);
}

/* D3: the words are the caller's, and the rest is pending. */
static void a_take_that_fails_can_be_made_again(void **state)
{
	uint64_t words[RAM_WORDS] = { 0 }, bytes = 1;
	struct checker *taker;

	scene_begin(*state, 1);
	taker = scene_consumer(ram);
	scene_join(taker, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	send_ram(taker, 0, RAM_PAGES);
	scene_write(ram, 60, 10);
	spy_fail_once(ways_spy(), KVM_CLEAR_DIRTY_LOG, -ENOMEM);
	memset(words, 0, sizeof(words));
	assert_int_equal(
		dl_cursor_take(taker->cursor, RAM_SLOT, DL_TAKE_HARVEST, words, RAM_WORDS, &bytes),
		-ENOMEM);
	assert_true(ways_spy()->failed);
	assert_int_equal(bytes, 0);
	scene_write(ram, 60, 10);
	assert_int_equal(take_ram(taker, 0, words), 10);
	send_ram(taker, 60, 10);
	ways_spy()->intercept = NULL;
	scene_write(ram, 61, 1);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), 1);
	send_ram(taker, 61, 1);
	take_the_rest(taker);
}

/* A late clear that fails: to retry it is enough. */
static void a_late_clear_that_fails_can_be_made_again(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *taker;

	scene_begin(*state, 1);
	taker = scene_consumer(ram);
	scene_join(taker, 0);
	take_ram(taker, DL_TAKE_HARVEST, words);
	send_ram(taker, 0, RAM_PAGES);
	scene_write(ram, 60, 10);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 10);
	spy_fail_once(ways_spy(), KVM_CLEAR_DIRTY_LOG, -ENOMEM);
	assert_int_equal(dl_slot_clear(rig->log, RAM_SLOT, 0, ram->bytes), -ENOMEM);
	assert_true(ways_spy()->failed);
	scene_write(ram, 60, 10);
	clear_ram(0, RAM_PAGES);
	ways_spy()->intercept = NULL;
	send_ram(taker, 60, 10);
	scene_write(ram, 65, 1);
	assert_int_equal(take_ram(taker, DL_TAKE_HARVEST, words), 1);
	send_ram(taker, 65, 1);
	take_the_rest(taker);
}

static void a_slot_that_is_not_covered_gives_no_bits(void **state)
{
	uint64_t words[RAM_WORDS];
	struct checker *screen;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	scene_join_display(screen);
	scene_write(ram, 0, RAM_PAGES);
	assert_int_equal(take_ram(screen, DL_TAKE_HARVEST, words), 0);
	assert_int_equal(
		dl_cursor_take(screen->cursor, 77, DL_TAKE_HARVEST, words, RAM_WORDS, NULL),
		-ENOENT);
	scene_finish(screen, NULL);
}

int main(void)
{
	const struct way_test tests[] = {
		way_test(takes_alone_copy_a_running_guest),
		way_test(takes_beside_extents_of_other_cursors),
		way_test(takes_are_exact),
		way_test(contents_are_read_after_a_late_clear),
		way_test_of(way_clears, contents_read_before_the_clear_are_stale),
		way_test(an_owed_page_is_found_again_until_it_is_cleared),
		way_test(a_take_defers_no_clear_of_another),
		way_test(a_take_leaves_what_a_pass_has_handed_out),
		way_test(a_clean_cursor_begins_with_what_was_taken_and_not_cleared),
		way_test(takes_beside_several_readers_of_one_cursor),
		way_test_of(way_clears, a_take_that_fails_can_be_made_again),
		way_test_of(way_clears, a_late_clear_that_fails_can_be_made_again),
		way_test(a_slot_that_is_not_covered_gives_no_bits),
	};

	return ways_run_tests("takes", tests);
}
