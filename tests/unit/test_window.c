/* SPDX-License-Identifier: MIT */
/* Rates over the last second. */
#include "cmocka_all.h"

#include "plan/window.h"

#include <string.h>

enum { MILLISECOND = 1000000 };

static struct dli_window window;

static int start(void **state)
{
	memset(&window, 0, sizeof(window));
	return 0;
}

static void add(uint64_t ms, uint64_t ran_ms, uint64_t new_pages, uint64_t entries)
{
	const struct dli_sample sample = { (1000 + ms) * MILLISECOND, ran_ms * MILLISECOND,
					   new_pages, entries };

	dli_window_add(&window, &sample);
}

static void check_rates(double new_per_s, double written_per_s)
{
	assert_int_equal(dli_window_new_per_s(&window) + 0.5, new_per_s + 0.5);
	assert_int_equal(dli_window_written_per_s(&window) + 0.5, written_per_s + 0.5);
}

static void one_sample_is_no_rate(void **state)
{
	add(0, 0, 500, 900);
	check_rates(0, 0);
}

static void two_samples_are_one(void **state)
{
	add(0, 0, 500, 900);
	add(200, 200, 700, 1300);
	check_rates(1000, 2000);
}

static void samples_that_follow_too_closely_are_left_out(void **state)
{
	add(0, 0, 0, 0);
	add(99, 99, 1000, 1000);
	check_rates(0, 0);
	add(100, 100, 1000, 1000);
	check_rates(10000, 10000);
}

static void what_is_older_than_a_second_is_forgotten(void **state)
{
	for (uint64_t ms = 0; ms <= 3000; ms += 100)
		add(ms, ms, ms, 2 * ms);
	check_rates(1000, 2000);
	for (uint64_t ms = 3100; ms <= 3900; ms += 100)
		add(ms, ms, 3000, 6000);
	check_rates(100, 200);
	add(4000, 4000, 3000, 6000);
	check_rates(0, 0);
}

static void rare_samples_cover_a_longer_time(void **state)
{
	add(0, 0, 0, 0);
	add(5000, 5000, 1000, 2000);
	check_rates(200, 400);
	add(10000, 10000, 3000, 4000);
	check_rates(400, 400);
}

static void rates_are_per_second_of_running(void **state)
{
	add(0, 0, 0, 0);
	add(1000, 250, 1000, 3000);
	check_rates(4000, 12000);
	/* A guest that did not run has none. */
	add(2100, 250, 1000, 3000);
	check_rates(0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(one_sample_is_no_rate, start),
		cmocka_unit_test_setup(two_samples_are_one, start),
		cmocka_unit_test_setup(samples_that_follow_too_closely_are_left_out, start),
		cmocka_unit_test_setup(what_is_older_than_a_second_is_forgotten, start),
		cmocka_unit_test_setup(rare_samples_cover_a_longer_time, start),
		cmocka_unit_test_setup(rates_are_per_second_of_running, start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
