/* SPDX-License-Identifier: MIT */
/* dli_publish(): every page that rings name becomes pending, in the right slot. */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"
#include "pages/publish.h"
#include "random.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOTS = 4, UNCOVERED = SLOTS, GONE, NUMBERS, PAGES = 300, ENTRIES = 700 };

static const uint32_t numbers[NUMBERS] = { 0, 1, 9, 1 << 16 | 1, [UNCOVERED] = 5, [GONE] = 77 };

static struct guest guest;
static struct dli_dirty_word words[ENTRIES];

static int setup(void **state)
{
	struct dl_slot uncovered;

	guest_open(&guest, NULL);
	uncovered = guest_slot(&guest, numbers[UNCOVERED], UNCOVERED * 1000,
			       guest_memory(&guest, PAGES), 0, PAGES);
	uncovered.flags = DL_SLOT_NO_LOG;
	assert_int_equal(dl_slot_set(guest.log, &uncovered), 0);
	for (uint32_t i = 0; i < SLOTS; i++)
		guest_add_slot(&guest, numbers[i], i * 1000, PAGES);
	return guest_try_join(&guest, DL_CURSOR_CLEAN);
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define publish_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void entry(uint32_t i, uint32_t slot, uint64_t offset)
{
	words[i] = (struct dli_dirty_word){ .slot = slot,
					    .word = offset / 64,
					    .bits = UINT64_C(1) << offset % 64 };
}

static void expect_sunk(uint32_t n, uint32_t new_pages, uint32_t stale)
{
	struct dli_publish_result sunk = dli_publish(&guest.log->slots, words, n);

	assert_int_equal(sunk.new_pages, new_pages);
	assert_int_equal(sunk.stale, stale);
}

static uint64_t pending_pages(void)
{
	return guest_pending(&guest) / guest.page_bytes;
}

static void adjacent_entries_become_pages(void **state)
{
	for (uint32_t i = 0; i < PAGES; i++)
		entry(i, 1, i);
	expect_sunk(PAGES, PAGES, 0);
	expect_sunk(PAGES, 0, 0);
	assert_int_equal(pending_pages(), PAGES);
}

static void one_word_marks_many_pages(void **state)
{
	words[0] = (struct dli_dirty_word){ .slot = 1, .word = 1, .bits = ~UINT64_C(0) };
	/* 300 pages end in the middle of the word. */
	words[1] = (struct dli_dirty_word){ .slot = 1, .word = 4, .bits = ~UINT64_C(0) };
	words[2] = (struct dli_dirty_word){ .slot = 1, .word = 5, .bits = 3 };
	words[3] = (struct dli_dirty_word){ .slot = 2, .word = 0, .bits = 7 };
	expect_sunk(4, 64 + 44, 20 + 2 + 3);
	assert_int_equal(pending_pages(), 64 + 44);
}

static void a_page_named_twice_is_new_once(void **state)
{
	entry(0, 1, 5);
	entry(1, 1, 5);
	entry(2, 1, 200);
	entry(3, 1, 5);
	expect_sunk(4, 2, 0);
	assert_int_equal(pending_pages(), 2);
}

/* Equal word numbers of different slots are different words. */
static void words_of_alternating_slots_go_to_their_slots(void **state)
{
	for (uint32_t i = 0; i < 40; i++)
		entry(i, numbers[i % SLOTS], i / SLOTS);
	expect_sunk(40, 40, 0);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_int_equal(dl_slot_remove(guest.log, numbers[i], 0, NULL, 0), 0);
	assert_int_equal(pending_pages(), 0);
}

/* The memory after the last word is inaccessible. Runs in a child, which a bad read kills. */
static void nothing_is_read_past_the_last_word(void **state)
{
	enum { N = 40, BYTES = 65536 };
	char *memory =
		mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct dli_dirty_word *end;
	int status;
	pid_t child;

	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(mprotect(memory + BYTES, BYTES, PROT_NONE), 0);
	end = (struct dli_dirty_word *)(memory + BYTES);
	for (uint32_t i = 1; i <= N; i++)
		end[-(int)i] = (struct dli_dirty_word){ .slot = 1, .bits = 1 };
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		signal(SIGSEGV, SIG_DFL);
		for (uint32_t n = 1; n <= N; n++)
			dli_publish(&guest.log->slots, end - n, n);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	munmap(memory, 2 * BYTES);
}

static void pages_of_no_slot_are_stale(void **state)
{
	entry(0, 2, 0);
	entry(1, 1, PAGES);
	entry(2, 1, PAGES - 1);
	entry(3, 2 << 16 | 1, 0);
	entry(4, 1 << 16, 0);
	entry(5, UINT32_MAX, UINT64_MAX);
	entry(6, 1, UINT64_MAX);
	entry(7, 1, UINT64_C(1) << 32);
	entry(8, 9, 3);
	expect_sunk(9, 2, 7);
	assert_int_equal(pending_pages(), 2);
}

/* A page past its slot's end spoils a batch in the kernel; a slot that is gone does not. */
static void pages_past_the_end_of_their_slot_are_reported(void **state)
{
	entry(0, 2, 0);
	entry(1, 1, PAGES - 1);
	assert_false(dli_publish(&guest.log->slots, words, 2).outside);
	entry(2, 1, PAGES);
	entry(3, 1, 0);
	assert_true(dli_publish(&guest.log->slots, words, 4).outside);
	/* A slot that is gone after it changes nothing. */
	entry(0, 1, PAGES);
	entry(1, 2, 0);
	assert_true(dli_publish(&guest.log->slots, words, 2).outside);
}

static void nothing_is_recorded_while_logging_is_off(void **state)
{
	guest_leave(&guest);
	entry(0, 1, 5);
	expect_sunk(1, 0, 0);
	assert_int_equal(pending_pages(), 0);
}

static uint32_t random_entries(struct random *random, uint8_t (*wanted)[PAGES])
{
	uint32_t n = 1 + (uint32_t)random_below(random, ENTRIES), slot = 0;
	uint64_t page = 0;

	for (uint32_t i = 0; i < n; i++) {
		if (!random_below(random, 5))
			slot = (uint32_t)random_below(random, NUMBERS);
		page = random_below(random, 3) ? page + 1 : random_below(random, PAGES + 5);
		entry(i, numbers[slot], page);
		if (page < PAGES && slot < SLOTS)
			wanted[slot][page] = 1;
	}
	return n;
}

/* Takes all pages and compares them. */
static void compare(uint8_t (*wanted)[PAGES])
{
	struct dl_extent run;
	int n;

	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	while ((n = dl_cursor_read(guest.cursor, &run, 1)) > 0) {
		uint32_t slot = 0;

		while (numbers[slot] != run.slot)
			slot++;
		for (uint64_t at = 0; at < run.bytes; at += 4096)
			wanted[slot][(run.offset_bytes + at) / 4096] ^= 1;
		assert_int_equal(dl_cursor_ack(guest.cursor, &run, 1), 0);
	}
	assert_int_equal(n, 0);
	dl_cursor_end(guest.cursor, 0);
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		for (uint32_t page = 0; page < PAGES; page++)
			assert_int_equal(wanted[slot][page], 0);
}

static void random_entries_match_a_plain_array(void **state)
{
	struct random random = { .state = 20 };

	for (int i = 0; i < 300; i++) {
		uint8_t wanted[SLOTS][PAGES] = { 0 };

		dli_publish(&guest.log->slots, words, random_entries(&random, wanted));
		compare(wanted);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		publish_test(adjacent_entries_become_pages),
		publish_test(one_word_marks_many_pages),
		publish_test(a_page_named_twice_is_new_once),
		publish_test(words_of_alternating_slots_go_to_their_slots),
		publish_test(nothing_is_read_past_the_last_word),
		publish_test(pages_of_no_slot_are_stale),
		publish_test(pages_past_the_end_of_their_slot_are_reported),
		publish_test(nothing_is_recorded_while_logging_is_off),
		publish_test(random_entries_match_a_plain_array),
	};

	return RUN_TESTS("publish", tests);
}
