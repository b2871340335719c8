/* SPDX-License-Identifier: MIT */
/* Views of a slot: where it is marked, and who gets the pages. */
#include "cmocka_all.h"
#include "fake_os.h"
#include "pages/view.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 1000, VIEWS = 3 };

static struct fake_os fake;
static struct dli_slot *slot;
static struct dli_view *views[VIEWS];
static char cursors[VIEWS];

static struct dl_cursor *cursor_of(int i)
{
	return (struct dl_cursor *)&cursors[i];
}

static int setup(void **state)
{
	fake_os_init(&fake);
	memset(views, 0, sizeof(views));
	return dli_slot_new(4096, 3, PAGES * 4096, &slot);
}

static int teardown(void **state)
{
	for (int i = 0; i < VIEWS; i++)
		if (views[i])
			dli_view_free(views[i]);
	dli_slot_free(slot);
	return fake.maps_live ? -1 : 0;
}

#define view_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* As coverage.c does. */
static void attach(int i)
{
	assert_int_equal(dli_view_new(slot, cursor_of(i), &fake.os, slot->views, &views[i]), 0);
	if (slot->views && !slot->views->next)
		dli_slot_share(slot);
	dli_view_attach(views[i]);
}

static void detach(int i)
{
	dli_view_detach(views[i]);
	dli_slot_distribute(slot);
	dli_view_free(views[i]);
	views[i] = NULL;
}

static void mark(uint64_t page, uint64_t pages)
{
	dli_page_set_mark_range(dli_slot_target(slot), page, pages);
}

static void expect_pending(int i, uint64_t pages)
{
	assert_int_equal(dli_page_set_pending_pages(views[i]->set), pages);
}

static void without_a_view_nothing_is_marked(void **state)
{
	assert_null(dli_slot_target(slot));
	assert_int_equal(dli_slot_mark_all(slot), 0);
	dli_slot_distribute(slot);
	assert_null(dli_slot_view(slot, cursor_of(0)));
	assert_int_equal(fake.maps_live, 0);
}

/* A single consumer pays nothing for the others that there could be. */
static void the_only_view_is_marked_itself(void **state)
{
	attach(0);
	assert_ptr_equal(dli_slot_target(slot), views[0]->set);
	assert_null(slot->fresh);
	mark(5, 3);
	expect_pending(0, 3);
	assert_int_equal(dli_slot_mark_all(slot), PAGES - 3);
	expect_pending(0, PAGES);
}

static void several_views_all_get_each_page(void **state)
{
	attach(0);
	mark(5, 3);
	attach(1);
	attach(2);
	assert_ptr_equal(dli_slot_target(slot), slot->fresh);
	mark(7, 3);
	expect_pending(0, 3);
	expect_pending(1, 0);
	dli_slot_distribute(slot);
	expect_pending(0, 5);
	expect_pending(1, 3);
	expect_pending(2, 3);
	/* They are distributed once. */
	assert_int_equal(dli_page_set_pending_pages(slot->fresh), 0);
	dli_page_set_clear(views[1]->set);
	dli_slot_distribute(slot);
	expect_pending(1, 0);
	expect_pending(0, 5);
}

static void views_are_found_by_their_cursor(void **state)
{
	for (int i = 0; i < VIEWS; i++)
		attach(i);
	for (int i = 0; i < VIEWS; i++)
		assert_ptr_equal(dli_slot_view(slot, cursor_of(i)), views[i]);
	detach(1);
	assert_null(dli_slot_view(slot, cursor_of(1)));
	assert_ptr_equal(dli_slot_view(slot, cursor_of(0)), views[0]);
	assert_ptr_equal(dli_slot_view(slot, cursor_of(2)), views[2]);
}

/* Whether it comes first or last in the list. */
static void a_view_that_goes_takes_no_page_of_the_others(void **state)
{
	for (int gone = 0; gone < 2; gone++) {
		attach(0);
		/* Although a shared set is left of before. */
		assert_ptr_equal(dli_slot_target(slot), views[0]->set);
		attach(1);
		mark(5, 3);
		detach(gone);
		expect_pending(!gone, 3);
		assert_ptr_equal(dli_slot_target(slot), views[!gone]->set);
		mark(50, 1);
		expect_pending(!gone, 4);
		detach(!gone);
		assert_null(dli_slot_target(slot));
	}
}

/* A marker that had begun before still uses the shared set. */
static void late_marks_of_the_shared_set_reach_the_last_view(void **state)
{
	attach(0);
	attach(1);
	dli_view_detach(views[1]);
	dli_page_set_mark_range(slot->fresh, 9, 1);
	mark(9, 2);
	dli_slot_distribute(slot);
	expect_pending(0, 2);
	assert_int_equal(dli_page_set_pending_pages(slot->fresh), 0);
}

/* Takes one batch; the view must get exactly these pages of the first word. */
static void expect_taken(int i, uint64_t *block, uint64_t bits)
{
	struct dli_batch batch;

	assert_int_equal(dli_view_take(views[i], block, false, &batch), bits != 0);
	if (!bits)
		return;
	assert_int_equal(batch.n, 1);
	assert_int_equal(batch.word[0], 0);
	assert_int_equal(batch.bits[0], bits);
}

static void an_empty_view_takes_from_the_fresh_set(void **state)
{
	uint64_t block = 0;

	attach(0);
	attach(1);
	attach(2);
	mark(5, 3);
	dli_view_catch_up(views[1]);
	/* Nobody has moved them. */
	assert_int_equal(dli_page_set_pending_pages(slot->fresh), 3);
	expect_pending(1, 0);
	assert_int_equal(dli_view_pending_pages(views[1]), 3);
	expect_taken(1, &block, 7 << 5);
	assert_int_equal(dli_page_set_in_flight_pages(views[1]->set), 3);
	assert_int_equal(dli_page_set_pending_pages(slot->fresh), 0);
	assert_int_equal(dli_view_pending_pages(views[1]), 0);
	expect_pending(0, 3);
	expect_pending(1, 0);
	expect_pending(2, 3);
	expect_taken(1, &block, 0);
}

/* And a page that is in both sets is handed out once, and counted once. */
static void a_view_with_pages_left_hands_out_these_and_the_fresh_ones(void **state)
{
	uint64_t block = 0;

	attach(0);
	attach(1);
	mark(5, 2);
	dli_slot_distribute(slot);
	mark(6, 2);
	dli_view_catch_up(views[0]);
	assert_int_equal(dli_view_pending_pages(views[0]), 3);
	expect_taken(0, &block, 7 << 5);
	expect_taken(0, &block, 0);
	expect_pending(1, 3);
}

/* Another view's pass distributes between two batches of this one's. */
static void pages_that_are_moved_in_mid_pass_are_handed_out(void **state)
{
	uint64_t block = 0;

	attach(0);
	attach(1);
	mark(1, 1);
	dli_view_catch_up(views[0]);
	dli_slot_distribute(slot);
	mark(2, 1);
	expect_taken(0, &block, 6);
	expect_pending(1, 2);
}

/* Late marks of the shared set are the last view's too. */
static void the_last_view_takes_from_its_own_set(void **state)
{
	uint64_t block = 0;

	attach(0);
	attach(1);
	detach(1);
	mark(3, 1);
	dli_view_catch_up(views[0]);
	assert_int_equal(dli_view_pending_pages(views[0]), 1);
	expect_taken(0, &block, 8);
	expect_taken(0, &block, 0);
}

static void words_get_what_any_view_has(void **state)
{
	uint64_t words[(PAGES + 63) / 64] = { 0 }, block = 0;
	struct dli_batch batch;

	attach(0);
	attach(1);
	mark(0, 2);
	dli_slot_distribute(slot);
	assert_true(dli_page_set_take(views[0]->set, &block, false, &batch));
	dli_page_set_clear(views[1]->set);
	dli_page_set_mark_range(views[1]->set, 4, 1);
	mark(6, 1);
	dli_slot_move_to_words(slot, words);
	assert_int_equal(words[0], 3 | 16 | 64);
	expect_pending(0, 0);
	expect_pending(1, 0);
	assert_int_equal(dli_page_set_in_flight_pages(views[0]->set), 0);
}

static void a_view_without_memory_is_refused(void **state)
{
	struct dli_view *view = NULL;

	attach(0);
	for (unsigned int n = 0; n < 2; n++) {
		long live = fake.maps_live;

		fake.map_error = -ENOMEM;
		fake.maps_that_succeed = n;
		assert_int_equal(dli_view_new(slot, cursor_of(1), &fake.os, true, &view), -ENOMEM);
		assert_null(view);
		/* The shared set may stay for the next view. */
		assert_int_equal(fake.maps_live, live + n);
		assert_ptr_equal(dli_slot_target(slot), views[0]->set);
	}
	fake.map_error = 0;
	attach(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		view_test(without_a_view_nothing_is_marked),
		view_test(the_only_view_is_marked_itself),
		view_test(several_views_all_get_each_page),
		view_test(views_are_found_by_their_cursor),
		view_test(a_view_that_goes_takes_no_page_of_the_others),
		view_test(late_marks_of_the_shared_set_reach_the_last_view),
		view_test(an_empty_view_takes_from_the_fresh_set),
		view_test(a_view_with_pages_left_hands_out_these_and_the_fresh_ones),
		view_test(pages_that_are_moved_in_mid_pass_are_handed_out),
		view_test(the_last_view_takes_from_its_own_set),
		view_test(words_get_what_any_view_has),
		view_test(a_view_without_memory_is_refused),
	};

	return RUN_TESTS("view", tests);
}
