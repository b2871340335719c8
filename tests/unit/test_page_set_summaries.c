/* SPDX-License-Identifier: MIT */
/*
 * The summaries of a page set of 16 TiB: they lead to every page, and none is left behind that
 * leads to nothing. That would be no error, but each pass would look there again for ever.
 */
#include "cmocka_all.h"
#include "fake_os.h"
#include "pages/page_set_maps.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_PAGES ((uint64_t)BLOCK_WORDS * 64)
#define MID_PAGES   (BLOCK_PAGES * 64)
#define TOP_PAGES   (MID_PAGES * 64)
#define PAGES	    (TOP_PAGES * 256)

enum { MOST = 4096 };

static struct fake_os fake;
static struct dli_page_set *set;
static uint64_t marked[MOST]; /* ascending */
static unsigned int n_marked;

static int setup(void **state)
{
	fake_os_init(&fake);
	n_marked = 0;
	return dli_page_set_new(&fake.os, PAGES, &set);
}

static int teardown(void **state)
{
	dli_page_set_free(set);
	return fake.maps_live ? -1 : 0;
}

#define summary_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void mark(uint64_t page)
{
	assert_int_equal(dli_page_set_mark_range(set, page, 1), 1);
	marked[n_marked++] = page;
}

/* On both sides of each border of a summary word, near the beginning, the middle and the end. */
static void mark_borders(void)
{
	static const uint64_t units[] = { 64, BLOCK_PAGES, MID_PAGES, TOP_PAGES };
	static const uint64_t ends[] = { TOP_PAGES * 2, TOP_PAGES * 130, PAGES };

	mark(0);
	for (size_t e = 0; e < sizeof(ends) / sizeof(ends[0]); e++)
		for (size_t u = sizeof(units) / sizeof(units[0]); u-- > 0;) {
			mark(ends[e] - units[u] - 1);
			if (u > 0)
				mark(ends[e] - units[u]);
		}
	mark(PAGES - 1);
}

static int by_page(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void expect_no_summary(const struct bitmap *map)
{
	for (uint64_t i = 0; i < set->mid_words; i++)
		assert_int_equal(map->mid[i], 0);
	for (uint64_t i = 0; i < set->top_words; i++)
		assert_int_equal(map->top[i], 0);
}

/* Takes everything, from a page on: what was marked there, in order, and nothing else. */
static void expect_taken(uint64_t from, bool one_chunk)
{
	struct dli_batch batch;
	uint64_t block = from / BLOCK_PAGES;
	unsigned int at = 0;

	qsort(marked, n_marked, sizeof(marked[0]), by_page);
	while (at < n_marked && marked[at] < block * BLOCK_PAGES)
		at++;
	while (dli_page_set_take(set, &block, one_chunk, &batch))
		for (uint32_t i = 0; i < batch.n; i++)
			for (uint64_t bits = batch.bits[i]; bits; bits &= bits - 1) {
				uint64_t page = batch.word[i] * UINT64_C(64) +
						(uint64_t)__builtin_ctzll(bits);

				assert_true(at < n_marked);
				assert_int_equal(page, marked[at++]);
			}
	assert_int_equal(at, n_marked);
}

static void borders_are_found_and_leave_nothing(void **state)
{
	for (int one_chunk = 0; one_chunk < 2; one_chunk++) {
		n_marked = 0;
		mark_borders();
		expect_taken(0, one_chunk);
		expect_no_summary(&set->pending);
		assert_int_equal(dli_page_set_pending_pages(set), 0);
		assert_int_equal(dli_page_set_in_flight_pages(set), n_marked);
		dli_page_set_commit(set);
		expect_no_summary(&set->in_flight);
	}
}

/* As a marker and a taker leave it that met: a later pass does not look there again. */
static void a_summary_that_leads_to_nothing_goes(void **state)
{
	struct dli_batch batch;
	uint64_t block = 0;

	for (uint64_t mid = 129; mid < 132; mid++) {
		mark(mid * MID_PAGES + 7);
		if (mid != 130)
			continue;
		dli_page_set_clear(set);
		n_marked = 0;
		mark(129 * MID_PAGES + 7);
		set->pending.top[2] |= UINT64_C(1) << 130 % 64;
	}
	expect_taken(0, false);
	expect_no_summary(&set->pending);
	/* One from behind which pages are taken still leads to those before. */
	n_marked = 0;
	mark(130 * MID_PAGES + BLOCK_PAGES);
	block = 130 * 64 + 2;
	assert_false(dli_page_set_take(set, &block, false, &batch));
	expect_taken(0, false);
	expect_no_summary(&set->pending);
}

/* A pass that begins somewhere leaves what lies before for the next one. */
static void what_lies_before_the_beginning_stays(void **state)
{
	uint64_t middle = TOP_PAGES * 129 + MID_PAGES * 3 + BLOCK_PAGES * 5;

	mark_borders();
	mark(middle - 1);
	mark(middle);
	expect_taken(middle, false);
	/* Now those before are left. */
	dli_page_set_commit(set);
	for (unsigned int i = 0; i < n_marked; i++)
		if (marked[i] >= middle)
			n_marked = i;
	expect_taken(0, false);
	expect_no_summary(&set->pending);
}

static void all_ways_out_leave_nothing(void **state)
{
	uint64_t block = 0;
	struct dli_batch batch;

	mark_borders();
	dli_page_set_clear(set);
	expect_no_summary(&set->pending);
	n_marked = 0;
	mark_borders();
	while (dli_page_set_extract(set, &block, false, &batch))
		;
	expect_no_summary(&set->pending);
	n_marked = 0;
	mark_borders();
	expect_taken(0, false);
	dli_page_set_requeue(set);
	expect_no_summary(&set->in_flight);
	expect_taken(0, false);
	expect_no_summary(&set->pending);
	/* All is acknowledged one by one: only summaries are left, which the end clears. */
	for (unsigned int i = 0; i < n_marked; i++) {
		uint64_t acked = 0;

		assert_true(dli_page_set_ack(set, marked[i], 1, &acked));
		dli_page_set_count_acked(set, acked);
	}
	dli_page_set_requeue(set);
	expect_no_summary(&set->in_flight);
	block = 0;
	assert_false(dli_page_set_take(set, &block, false, &batch));
}

static void random_pages_are_found_in_order(void **state)
{
	struct random random = { 7 };

	for (int round = 0; round < 20; round++) {
		n_marked = 0;
		while (n_marked < 400) {
			uint64_t page = random_below(&random, PAGES);

			if (round % 2)
				page = TOP_PAGES * 7 + page % (MID_PAGES * 3);
			if (dli_page_set_mark_range(set, page, 1))
				marked[n_marked++] = page;
		}
		expect_taken(0, round % 4 > 1);
		expect_no_summary(&set->pending);
		dli_page_set_commit(set);
		expect_no_summary(&set->in_flight);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		summary_test(borders_are_found_and_leave_nothing),
		summary_test(a_summary_that_leads_to_nothing_goes),
		summary_test(what_lies_before_the_beginning_stays),
		summary_test(all_ways_out_leave_nothing),
		summary_test(random_pages_are_found_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
