/* SPDX-License-Identifier: MIT */
/* A plan in bitmap mode: what bitmaps say, and when they are read. */
#include "cmocka_all.h"
#include "guest.h"

enum { PAGES = 8192, SMALL = 64, PAGE = 4096, MILLISECOND = 1000000, MILLION = 1000000 };

static struct guest guest;
static struct guest_vcpu *writer;
static struct dl_cursor *display;
static struct dl_plan *plan;
static struct dl_advice advice;
static uint64_t unsent_pages, random_state;

/* Slot 0 has the memory; slot 1 is small. */
static void open_guest(bool manual_protect)
{
	const struct guest_config config = {
		.model = { .virtual_clock = true,
			   .has = manual_protect ? MODEL_HAS_MANUAL_PROTECT : MODEL_HAS_NOTHING },
		.options = { .mode = DL_MODE_BITMAP },
	};

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_add_slot(&guest, 1, PAGES, SMALL);
	writer = guest_vcpu(&guest, true);
	guest_join(&guest, 0);
	advice = (struct dl_advice){ .size = sizeof(advice) };
	unsent_pages = random_state = 0;
}

static void close_guest(void)
{
	dl_plan_free(plan);
	dl_cursor_free(display);
	plan = NULL;
	display = NULL;
	guest_leave(&guest);
	guest_close(&guest);
}

static int teardown(void **state)
{
	close_guest();
	return 0;
}

static void begin_plan(void)
{
	assert_int_equal(dl_plan_new(guest.cursor, NULL, &plan), 0);
}

static uint64_t take_from(struct dl_cursor *cursor, uint32_t slot)
{
	uint64_t words[PAGES / 64] = { 0 }, bytes;

	assert_int_equal(dl_cursor_take(cursor, slot, DL_TAKE_HARVEST, words, PAGES / 64, &bytes),
			 0);
	return bytes / PAGE;
}

static uint64_t take(uint32_t slot)
{
	return take_from(guest.cursor, slot);
}

static void write_pages(uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, writer, 0, page % PAGES), 0);
}

static void write_anywhere(uint64_t n)
{
	for (; n; n--) {
		random_state = random_state * 6364136223846793005u + 1442695040888963407u;
		write_pages(random_state >> 40, 1);
	}
}

/* A tenth of a second, in which the wire takes pages. */
static uint32_t send_and_look(uint64_t pages_per_s)
{
	uint64_t pages = pages_per_s / 10;

	if (pages > unsent_pages)
		pages = unsent_pages;
	unsent_pages -= pages;
	assert_int_equal(dl_plan_sent(plan, pages * PAGE, pages * 1000 * MILLISECOND / pages_per_s),
			 0);
	model_advance(guest.model, 100 * MILLISECOND);
	assert_int_equal(dl_plan_next(plan, unsent_pages * PAGE, &advice), 0);
	return advice.verdict;
}

static void a_bitmap_is_read_before_the_switch(void **state)
{
	open_guest(false);
	begin_plan();
	unsent_pages = take(0) + take(1);
	while (unsent_pages)
		send_and_look(10000);
	assert_int_equal(send_and_look(10000), DL_VERDICT_SWITCHOVER);
	write_pages(0, PAGES);
	assert_int_not_equal(send_and_look(10000), DL_VERDICT_SWITCHOVER);
	assert_int_equal(advice.pending_bytes, PAGES * PAGE);
}

/* The wire becomes known, and with it what fits the downtime, at the same look. */
static void it_is_read_at_the_first_look_too(void **state)
{
	open_guest(false);
	begin_plan();
	model_advance(guest.model, 1000 * MILLISECOND);
	assert_int_equal(
		dl_plan_sent(plan, (take(0) + take(1)) * PAGE, 1000 * (uint64_t)MILLISECOND), 0);
	write_pages(0, PAGES);
	assert_int_equal(dl_mark_slot(guest.log, 1, 0, 1), 0);
	assert_int_not_equal(send_and_look(10000), DL_VERDICT_SWITCHOVER);
	assert_int_equal(advice.pending_bytes, (PAGES + 1) * PAGE);
}

/* A thousand pages a second, and a read every two seconds: no more than that is known of it. */
static void what_a_bitmap_shows_took_since_the_last_one(void **state)
{
	open_guest(false);
	begin_plan();
	(void)take(1);
	for (uint64_t i = 0; i < 400; i++) {
		write_pages(i * 100, 100);
		if (i % 20 == 0)
			unsent_pages = take(0) + take(1) + 100000;
		send_and_look(10000);
		if (i > 200)
			assert_in_range(advice.dirty_bytes_per_s, 950 * PAGE, 1050 * PAGE);
	}
}

static void what_was_written_before_the_plan_is_not_of_a_moment(void **state)
{
	for (int manual_protect = 0; manual_protect < 2; manual_protect++) {
		open_guest(manual_protect);
		(void)take(0);
		(void)take(1);
		for (uint64_t i = 0; i < 400; i++) {
			write_pages(i * 10, 10);
			model_advance(guest.model, 1000 * (uint64_t)MILLISECOND);
		}
		begin_plan();
		unsent_pages = take(0) + take(1);
		do {
			write_pages(4000, 1);
			assert_int_not_equal(send_and_look(1000), DL_VERDICT_DIVERGING);
			assert_in_range(advice.dirty_bytes_per_s, 0, 20 * PAGE);
			assert_int_equal(advice.run_ppm, MILLION);
		} while (advice.verdict != DL_VERDICT_SWITCHOVER);
		close_guest();
	}
	open_guest(false);
}

/* The wire takes 200 pages a second. Returns the least share that the guest was advised to run. */
static uint64_t migrate(uint64_t dirtied_per_s, bool small_slot_often)
{
	uint64_t least_ppm = MILLION;

	begin_plan();
	unsent_pages = take(0) + take(1);
	for (int i = 0; i < 4000; i++) {
		write_anywhere(dirtied_per_s / 10);
		if (display)
			(void)take_from(display, 1);
		if (small_slot_often)
			unsent_pages += take(1);
		if (send_and_look(200) == DL_VERDICT_SWITCHOVER)
			return least_ppm;
		if (advice.run_ppm < least_ppm)
			least_ppm = advice.run_ppm;
		if (!unsent_pages)
			unsent_pages = take(0) + take(1);
	}
	fail_msg("it does not end");
	return 0;
}

static void a_guest_that_converges_runs_freely(void **state)
{
	static const uint64_t rates[] = { 100, 160 };

	for (int i = 0; i < 2; i++) {
		open_guest(false);
		assert_int_equal(migrate(rates[i], false), MILLION);
		close_guest();
	}
	open_guest(false);
}

/* That says nothing of the other slots. */
static void a_small_slot_may_be_read_more_often(void **state)
{
	open_guest(false);
	assert_int_equal(migrate(100, true), MILLION);
	close_guest();
	for (int manual_protect = 0; manual_protect < 2; manual_protect++) {
		open_guest(manual_protect);
		assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_ONE_SLOT, 1, &display), 0);
		assert_int_equal(migrate(160, false), MILLION);
		close_guest();
	}
	open_guest(false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define plan_test(f) cmocka_unit_test_teardown(f, teardown)
		plan_test(a_bitmap_is_read_before_the_switch),
		plan_test(it_is_read_at_the_first_look_too),
		plan_test(what_a_bitmap_shows_took_since_the_last_one),
		plan_test(what_was_written_before_the_plan_is_not_of_a_moment),
		plan_test(a_guest_that_converges_runs_freely),
		plan_test(a_small_slot_may_be_read_more_often),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
