/* SPDX-License-Identifier: MIT */
/* Which pages are new: those that the plan's cursor does not have to send anyway. */
#include "cmocka_all.h"
#include "guest.h"

enum { PAGES = 256, MILLISECOND = 1000000, HOT = 100, ROUNDS = 10 };

static struct guest guest;
static struct guest_vcpu *writer;
static struct dl_cursor *second;
static struct dl_plan *plan;
static uint64_t pages[2 * PAGES];

static void open_guest(uint32_t mode, uint32_t cursor_flags)
{
	const struct guest_config config = {
		.model = { .virtual_clock = true },
		.options = { .mode = mode },
	};

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	writer = guest_vcpu(&guest, true);
	guest_join(&guest, cursor_flags);
	assert_int_equal(guest_new_cursor(&guest, 0, 0, &second), 0);
}

static void begin_plan(void)
{
	assert_int_equal(dl_plan_new(guest.cursor, NULL, &plan), 0);
}

static int close_guest(void **state)
{
	dl_plan_free(plan);
	plan = NULL;
	dl_cursor_free(second);
	guest_leave(&guest);
	guest_close(&guest);
	return 0;
}

static void take(struct dl_cursor *cursor)
{
	uint64_t words[PAGES / 64] = { 0 };

	assert_int_equal(dl_cursor_take(cursor, 0, DL_TAKE_HARVEST, words, PAGES / 64, NULL), 0);
}

/* Writes the pages of a slot again and again; the second cursor takes them each time. */
static uint64_t rewrite(uint64_t first_page, bool looks)
{
	struct dl_advice advice = { .size = sizeof(advice) };
	uint64_t before = guest_stats(&guest).new_pages;

	for (int round = 0; round < ROUNDS; round++) {
		for (uint64_t page = 0; page < HOT; page++)
			assert_int_equal(guest_write(&guest, writer, 0, first_page + page), 0);
		model_advance(guest.model, 300 * MILLISECOND);
		if (looks)
			assert_int_equal(dl_plan_next(plan, 0, &advice), 0);
		take(second);
	}
	return guest_stats(&guest).new_pages - before;
}

static void expect_pending_pages_not_to_be_new(uint32_t mode)
{
	open_guest(mode, 0);
	begin_plan();
	take(guest.cursor);
	take(second);
	assert_int_equal(rewrite(0, true), HOT);
	/* Sent, and then written again: that is new. */
	take(guest.cursor);
	assert_int_equal(rewrite(HOT / 2, true), HOT);
	/* Without a plan nobody knows whose business it is. */
	dl_plan_free(plan);
	plan = NULL;
	assert_int_equal(rewrite(0, false), ROUNDS * HOT);
}

static void rings_count_pending_pages_once(void **state)
{
	expect_pending_pages_not_to_be_new(DL_MODE_RING);
}

static void bitmaps_count_pending_pages_once(void **state)
{
	expect_pending_pages_not_to_be_new(DL_MODE_BITMAP);
}

/* A word of which some pages wait is marked whole. */
static void new_and_pending_pages_share_a_word(void **state)
{
	open_guest(DL_MODE_RING, 0);
	begin_plan();
	take(guest.cursor);
	take(second);
	for (uint64_t page = 0; page < 64; page += 2)
		assert_int_equal(guest_write(&guest, writer, 0, page), 0);
	take(second);
	assert_int_equal(guest_stats(&guest).new_pages, 32);
	for (uint64_t page = 0; page < 64; page++)
		assert_int_equal(guest_write(&guest, writer, 0, page), 0);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	assert_int_equal(guest_stats(&guest).new_pages, 64);
	assert_int_equal(guest_cursor_stats(second).pending_bytes, 64 * guest.page_bytes);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(guest_pending(&guest), 64 * guest.page_bytes);
	assert_int_equal(guest_cursor_stats(second).pending_bytes, 64 * guest.page_bytes);
}

/* Both wait for the plan's cursor, one of them for the other cursor too. */
static void pages_of_several_words_are_counted(void **state)
{
	open_guest(DL_MODE_RING, 0);
	begin_plan();
	take(guest.cursor);
	take(second);
	for (uint64_t page = 0; page <= 64; page += 64)
		assert_int_equal(guest_write(&guest, writer, 0, page), 0);
	take(second);
	assert_int_equal(guest_write(&guest, writer, 0, 64), 0);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	for (uint64_t page = 0; page <= 64; page += 64)
		assert_int_equal(guest_write(&guest, writer, 0, page), 0);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	assert_int_equal(guest_cursor_stats(second).pending_bytes, 2 * guest.page_bytes);
	assert_int_equal(guest_stats(&guest).new_pages, 2);
}

static void a_new_slot_is_of_the_plan_too(void **state)
{
	open_guest(DL_MODE_RING, 0);
	begin_plan();
	guest_add_slot(&guest, 1, PAGES, PAGES);
	assert_int_equal(guest_pass(&guest, 0, pages, 2 * PAGES), 2 * PAGES);
	assert_int_equal(guest_pass_of(&guest, second, 0, pages, 2 * PAGES), 2 * PAGES);
	for (int round = 0; round < ROUNDS; round++) {
		assert_int_equal(guest_write(&guest, writer, 0, PAGES + 1), 0);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, 2 * PAGES), 1);
	}
	assert_int_equal(guest_stats(&guest).new_pages, 1);
}

/* The set of a cursor that covers a slot no more is gone. */
static void a_slot_that_is_no_longer_wanted_is_new_to_nobody(void **state)
{
	struct dl_slot slot;

	open_guest(DL_MODE_RING, DL_CURSOR_WANTED);
	begin_plan();
	slot = guest_slot(&guest, 0, 0, &guest.blocks[0], 0, PAGES);
	for (int times = 0; times < 2; times++) {
		slot.flags ^= DL_SLOT_WANTED;
		assert_int_equal(dl_slot_set(guest.log, &slot), 0);
		take(guest.cursor);
		take(second);
		assert_int_equal(rewrite(0, true), slot.flags ? HOT : 0);
	}
}

/* A plan is about what its cursor covers, and vCPUs that write elsewhere are not in its way. */
static void pages_that_the_plan_does_not_send_are_not_new(void **state)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	open_guest(DL_MODE_RING, 0);
	guest_leave(&guest);
	guest_add_slot(&guest, 1, PAGES, PAGES);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_ONE_SLOT, 0, &guest.cursor), 0);
	begin_plan();
	for (int looks = 0; looks < 30; looks++) {
		for (uint64_t page = 0; page < HOT; page++)
			assert_int_equal(guest_write(&guest, writer, 0, PAGES + page), 0);
		assert_int_equal(dl_plan_sent(plan, 4096, 100 * MILLISECOND), 0);
		model_advance(guest.model, 100 * MILLISECOND);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, 2 * PAGES),
				 looks ? HOT : 2 * PAGES);
		assert_int_equal(dl_plan_next(plan, 0, &advice), 0);
		assert_int_equal(advice.limited_vcpus, 0);
	}
	assert_int_equal(advice.dirty_bytes_per_s, 0);
	assert_int_equal(guest_stats(&guest).new_pages, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define plan_test(f) cmocka_unit_test_teardown(f, close_guest)
		plan_test(rings_count_pending_pages_once),
		plan_test(bitmaps_count_pending_pages_once),
		plan_test(new_and_pending_pages_share_a_word),
		plan_test(pages_of_several_words_are_counted),
		plan_test(a_new_slot_is_of_the_plan_too),
		plan_test(pages_that_the_plan_does_not_send_are_not_new),
		plan_test(a_slot_that_is_no_longer_wanted_is_new_to_nobody),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
