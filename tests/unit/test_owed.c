/* SPDX-License-Identifier: MIT */
/* Which pages are owed: each bit is set, taken and put back where it is. */
#include "cmocka_all.h"
#include "fake_os.h"
#include "pages/owed.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 1000 * 64 + 5, WORDS = 1001 };

static struct fake_os fake;
static struct dli_owed owed;

static int setup(void **state)
{
	fake_os_init(&fake);
	memset(&owed, 0, sizeof(owed));
	return dli_owed_init(&owed, &fake.os, PAGES);
}

static int teardown(void **state)
{
	dli_owed_fini(&owed);
	return fake.maps_live ? -1 : 0;
}

#define owed_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static struct dli_batch two_words(void)
{
	return (struct dli_batch){ .n = 2, .word = { 3, 700 }, .bits = { 5, 8 } };
}

static void nothing_is_owed_at_first(void **state)
{
	uint64_t taken[WORDS];

	assert_false(owed.any);
	assert_false(dli_owed_take(&owed, 0, WORDS, NULL, taken));
	/* The memory is there once. */
	assert_int_equal(dli_owed_init(&owed, &fake.os, PAGES), 0);
	assert_int_equal(fake.maps_live, 1);
}

static void without_memory_nothing_is_ever_owed(void **state)
{
	struct dli_batch batch = two_words();
	struct dli_owed none = { 0 };
	uint64_t taken[WORDS];

	fake.map_error = -ENOMEM;
	assert_int_equal(dli_owed_init(&none, &fake.os, PAGES), -ENOMEM);
	dli_owed_add(&none, &batch);
	dli_owed_add_all(&none);
	dli_owed_forget(&none);
	assert_false(none.any);
	assert_false(dli_owed_take(&none, 0, WORDS, NULL, taken));
	dli_owed_mark(&none, NULL);
	dli_owed_fini(&none);
}

static void pages_that_are_taken_are_owed_no_more(void **state)
{
	struct dli_batch batch = two_words();
	uint64_t taken[2];

	dli_owed_add(&owed, &batch);
	assert_true(owed.any);
	assert_true(dli_owed_take(&owed, 2, 2, NULL, taken));
	assert_int_equal(taken[0], 0);
	assert_int_equal(taken[1], 5);
	assert_false(dli_owed_take(&owed, 2, 2, NULL, taken));
	assert_true(dli_owed_take(&owed, 700, 1, NULL, taken));
	assert_int_equal(taken[0], 8);
}

/* A CLEAR must take no page that the caller does not hand out. */
static void only_pages_that_are_asked_for_are_taken(void **state)
{
	struct dli_batch batch = two_words();
	uint64_t bits[2] = { ~UINT64_C(0), 6 }, taken[2];

	dli_owed_add(&owed, &batch);
	assert_true(dli_owed_take(&owed, 2, 2, bits, taken));
	assert_int_equal(taken[0], 0);
	assert_int_equal(taken[1], 4);
	bits[1] = 0;
	assert_false(dli_owed_take(&owed, 2, 2, bits, taken));
	bits[1] = 1;
	assert_true(dli_owed_take(&owed, 2, 2, bits, taken));
	assert_int_equal(taken[1], 1);
}

static void pages_that_are_put_back_are_owed_again(void **state)
{
	struct dli_batch batch = two_words(), more = { .n = 1, .word = { 3 }, .bits = { 16 } };
	uint64_t taken[1];

	dli_owed_add(&owed, &batch);
	assert_true(dli_owed_take(&owed, 3, 1, NULL, taken));
	dli_owed_add(&owed, &more);
	dli_owed_put_back(&owed, 3, 1, taken);
	assert_true(dli_owed_take(&owed, 3, 1, NULL, taken));
	assert_int_equal(taken[0], 21);
}

static void all_is_every_page_and_none_past_the_end(void **state)
{
	static uint64_t taken[WORDS];

	dli_owed_add_all(&owed);
	assert_true(dli_owed_take(&owed, 0, WORDS, NULL, taken));
	for (int i = 0; i < WORDS - 1; i++)
		assert_true(taken[i] == ~UINT64_C(0));
	assert_int_equal(taken[WORDS - 1], 31);
}

static void what_is_forgotten_is_owed_no_more(void **state)
{
	struct dli_batch batch = two_words();
	uint64_t taken[WORDS];

	dli_owed_add(&owed, &batch);
	dli_owed_forget(&owed);
	assert_false(owed.any);
	batch.n = 1;
	dli_owed_add(&owed, &batch);
	assert_true(dli_owed_take(&owed, 3, 1, NULL, taken));
	assert_int_equal(taken[0], 5);
	assert_false(dli_owed_take(&owed, 0, WORDS, NULL, taken));
}

/* More words than one batch holds. */
static void all_that_is_owed_can_be_marked(void **state)
{
	struct dli_page_set *set;
	struct dli_batch batch = two_words();

	assert_int_equal(dli_page_set_new(&fake.os, PAGES, &set), 0);
	dli_owed_mark(&owed, set);
	assert_int_equal(dli_page_set_pending_pages(set), 0);
	dli_owed_add(&owed, &batch);
	dli_owed_mark(&owed, set);
	assert_int_equal(dli_page_set_pending_pages(set), 3);
	dli_owed_add_all(&owed);
	dli_owed_mark(&owed, set);
	assert_int_equal(dli_page_set_pending_pages(set), PAGES);
	/* It stays owed. */
	assert_true(owed.any);
	dli_page_set_free(set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		owed_test(nothing_is_owed_at_first),
		owed_test(without_memory_nothing_is_ever_owed),
		owed_test(pages_that_are_taken_are_owed_no_more),
		owed_test(only_pages_that_are_asked_for_are_taken),
		owed_test(pages_that_are_put_back_are_owed_again),
		owed_test(all_is_every_page_and_none_past_the_end),
		owed_test(what_is_forgotten_is_owed_no_more),
		owed_test(all_that_is_owed_can_be_marked),
	};

	return RUN_TESTS("owed", tests);
}
