/* SPDX-License-Identifier: MIT */
/* The limit of one vCPU: what is charged, and how long it must pause. */
#include "cmocka_all.h"

#include "plan/bucket.h"

enum { MILLISECOND = 1000000, SECOND = 1000 * MILLISECOND };

/* A thousand pages a second: one a millisecond. */
static const struct dli_bucket_rule thousand = { 1e-6, SECOND, 0 };

static struct dli_bucket bucket;
static enum dli_bucket_bound bound;

static int start(void **state)
{
	dli_bucket_start(&bucket, &thousand, SECOND, 100, 0);
	return 0;
}

/* Charges at a time after the beginning; nothing has run. */
static void charge(uint64_t after_ns, uint64_t pages)
{
	dli_bucket_charge(&bucket, &thousand, SECOND + after_ns, 100 + pages, 0);
}

static uint64_t pause_ns(const struct dli_bucket_rule *rule)
{
	return dli_bucket_pause_ns(&bucket, rule, &bound);
}

/* One that writes little pays for nothing, even if it writes as soon as there is a limit. */
static void a_new_bucket_is_full(void **state)
{
	charge(0, 20);
	assert_int_equal(pause_ns(&thousand), 0);
	charge(0, 23);
	assert_int_equal(pause_ns(&thousand), 3 * MILLISECOND);
}

static void pages_at_the_rate_cost_no_pause(void **state)
{
	for (uint64_t ms = 1; ms <= 100; ms++)
		charge(ms * MILLISECOND, ms);
	assert_int_equal(pause_ns(&thousand), 0);
}

static void time_pays_for_debt(void **state)
{
	charge(0, 70);
	charge(30 * MILLISECOND, 70);
	assert_in_range(pause_ns(&thousand), 20 * MILLISECOND - 1, 20 * MILLISECOND + 1);
	charge(50 * MILLISECOND, 70);
	assert_int_equal(pause_ns(&thousand), 0);
}

static void a_quiet_vcpu_saves_for_twenty_milliseconds(void **state)
{
	charge(10 * (uint64_t)SECOND, 0);
	charge(10 * (uint64_t)SECOND, 20);
	assert_int_equal(pause_ns(&thousand), 0);
	charge(10 * (uint64_t)SECOND, 21);
	assert_in_range(pause_ns(&thousand), MILLISECOND - 1, MILLISECOND + 1);
}

static void a_slow_limit_lets_a_page_through(void **state)
{
	const struct dli_bucket_rule slow = { 1e-9, SECOND, 0 };

	dli_bucket_charge(&bucket, &slow, 3 * (uint64_t)SECOND, 100, 0);
	dli_bucket_charge(&bucket, &slow, 3 * (uint64_t)SECOND, 101, 0);
	assert_int_equal(pause_ns(&slow), 0);
}

static void debt_is_remembered_for_a_second(void **state)
{
	const struct dli_bucket_rule patient = { 1e-6, 100 * (uint64_t)SECOND, 0 };

	charge(0, 50000);
	/* And one page, so that the slowest limit has a debt at all. */
	assert_in_range(pause_ns(&patient), SECOND, SECOND + 1001000);
	assert_int_equal(bound, BUCKET_UNBOUND);
}

static void debt_of_a_higher_limit_is_forgiven_after_a_second(void **state)
{
	const struct dli_bucket_rule ten = { 1e-8, 1000 * (uint64_t)SECOND, 0 };

	charge(0, 500);
	dli_bucket_charge(&bucket, &ten, SECOND + 900 * MILLISECOND, 100 + 500, 0);
	assert_in_range(pause_ns(&ten), 46 * (uint64_t)SECOND, 48 * (uint64_t)SECOND);
	dli_bucket_charge(&bucket, &ten, 2 * (uint64_t)SECOND, 100 + 500, 0);
	assert_in_range(pause_ns(&ten), SECOND, SECOND + 101 * MILLISECOND);
}

static void no_pause_is_longer_than_the_longest(void **state)
{
	const struct dli_bucket_rule hasty = { 1e-6, 10 * MILLISECOND, 0 };

	charge(0, 50);
	assert_int_equal(pause_ns(&hasty), 10 * MILLISECOND);
	assert_int_equal(bound, BUCKET_BOUND_BY_PAUSE);
}

static void a_short_debt_is_left_for_later(void **state)
{
	const struct dli_bucket_rule fast = { 1e-4, SECOND, 0 };

	dli_bucket_charge(&bucket, &fast, SECOND, 100 + 39, 0);
	assert_int_equal(pause_ns(&fast), 0);
	dli_bucket_charge(&bucket, &fast, SECOND, 100 + 41, 0);
	assert_in_range(pause_ns(&fast), 209999, 210001);
}

/* A tenth of its time: nine milliseconds of pause cost one of running. */
static void running_time_pays_for_pauses(void **state)
{
	const struct dli_bucket_rule tenth = { 1e-6, 100 * (uint64_t)SECOND, 0.1 };

	charge(0, 50000);
	/* The first credit is 100 ms. */
	assert_in_range(pause_ns(&tenth), 900 * MILLISECOND - 1, 900 * MILLISECOND + 1);
	assert_int_equal(bound, BUCKET_BOUND_BY_FLOOR);
	dli_bucket_pause(&bucket, &tenth, SECOND, 900 * MILLISECOND);
	assert_int_equal(pause_ns(&tenth), 0);
	assert_int_equal(bound, BUCKET_BOUND_BY_FLOOR);
	dli_bucket_charge(&bucket, &tenth, SECOND, 50100, 10 * MILLISECOND);
	assert_in_range(pause_ns(&tenth), 90 * MILLISECOND - 1000, 90 * MILLISECOND + 1000);
	/* Credit ends at a quarter of a second. */
	dli_bucket_charge(&bucket, &tenth, SECOND, 100000, 3 * (uint64_t)SECOND);
	assert_in_range(pause_ns(&tenth), SECOND, SECOND + 1001000);
	dli_bucket_pause(&bucket, &tenth, SECOND, 2250 * (uint64_t)MILLISECOND);
	assert_int_equal(pause_ns(&tenth), 0);
}

static void after_a_pause_the_vcpu_runs_for_a_moment(void **state)
{
	uint64_t now_ns = 5 * (uint64_t)SECOND;

	dli_bucket_pause(&bucket, &thousand, now_ns, 10 * MILLISECOND);
	assert_true(dli_bucket_is_paused(&bucket, now_ns + 10 * MILLISECOND - 1));
	assert_false(dli_bucket_is_paused(&bucket, now_ns + 10 * MILLISECOND));
	assert_true(dli_bucket_is_resting(&bucket, now_ns + 11 * MILLISECOND));
	assert_false(dli_bucket_is_resting(&bucket, now_ns + 12 * MILLISECOND));
}

/* Charges what ran, and asks, at a time after a pause of 10 ms began. */
static void wake(const struct dli_bucket_rule *rule, uint64_t after_ns, uint64_t ran_ns)
{
	dli_bucket_charge(&bucket, rule, SECOND + after_ns, 100, ran_ns);
	dli_bucket_wake(&bucket, rule, SECOND + after_ns);
}

static bool is_resting(uint64_t after_ns)
{
	return dli_bucket_is_resting(&bucket, SECOND + after_ns);
}

static void a_vcpu_that_wakes_up_late_runs_for_a_moment_too(void **state)
{
	dli_bucket_pause(&bucket, &thousand, SECOND, 10 * MILLISECOND);
	wake(&thousand, 9 * MILLISECOND, 0);
	assert_false(is_resting(12 * MILLISECOND));
	wake(&thousand, 30 * MILLISECOND, MILLISECOND / 2);
	assert_true(is_resting(31 * MILLISECOND - 1));
	assert_false(is_resting(31 * MILLISECOND));
	/* It has woken up once. */
	wake(&thousand, 40 * MILLISECOND, MILLISECOND / 2);
	assert_false(is_resting(40 * MILLISECOND));
}

static void a_vcpu_that_ran_since_its_pause_was_not_late(void **state)
{
	const struct dli_bucket_rule half = { 1e-6, SECOND, 0.5 };

	dli_bucket_pause(&bucket, &half, SECOND, 10 * MILLISECOND);
	wake(&half, 30 * MILLISECOND, 20 * MILLISECOND);
	assert_false(is_resting(30 * MILLISECOND));
	dli_bucket_pause(&bucket, &half, SECOND, 10 * MILLISECOND);
	wake(&half, 30 * MILLISECOND, 50 * MILLISECOND);
	assert_false(is_resting(30 * MILLISECOND));
	/* The first credit, what it ran, and 20 ms of pauses. */
	dli_bucket_charge(&bucket, &half, SECOND, 50000, 50 * MILLISECOND);
	assert_in_range(pause_ns(&half), 130 * MILLISECOND - 1, 130 * MILLISECOND + 1);
}

/* Half of its time: a millisecond that it sleeps costs one of running. */
static void what_a_late_vcpu_lost_counts_as_pause(void **state)
{
	const struct dli_bucket_rule half = { 1e-6, SECOND, 0.5 };

	dli_bucket_charge(&bucket, &half, SECOND, 50000, 0);
	dli_bucket_pause(&bucket, &half, SECOND, 80 * MILLISECOND);
	wake(&half, 95 * MILLISECOND, 0);
	dli_bucket_charge(&bucket, &half, SECOND, 50000, 0);
	assert_in_range(pause_ns(&half), 5 * MILLISECOND - 1, 5 * MILLISECOND + 1);
	dli_bucket_pause(&bucket, &half, SECOND, 5 * MILLISECOND);
	wake(&half, 25 * MILLISECOND, 0);
	dli_bucket_charge(&bucket, &half, SECOND, 50000, 19 * MILLISECOND);
	assert_int_equal(pause_ns(&half), 0);
	assert_int_equal(bound, BUCKET_BOUND_BY_FLOOR);
	dli_bucket_charge(&bucket, &half, SECOND, 50000, 21 * MILLISECOND);
	assert_in_range(pause_ns(&half), MILLISECOND - 1, MILLISECOND + 1);
	/* A thread that slept for a minute gets a quarter of a second, as a busy one has it. */
	dli_bucket_pause(&bucket, &half, SECOND, MILLISECOND);
	wake(&half, 60 * (uint64_t)SECOND, 21 * MILLISECOND);
	dli_bucket_charge(&bucket, &half, SECOND, 1000000, 270 * MILLISECOND);
	assert_int_equal(pause_ns(&half), 0);
	dli_bucket_charge(&bucket, &half, SECOND, 1000000, 272 * MILLISECOND);
	assert_in_range(pause_ns(&half), MILLISECOND - 1, MILLISECOND + 1);
}

/* A pause of a second takes no more than a quarter of a second of credit. */
static void a_pause_that_ends_gives_back_what_it_took(void **state)
{
	const struct dli_bucket_rule half = { 1e-6, SECOND, 0.5 };
	int64_t credit_ns = bucket.credit_ns;

	for (uint64_t i = 1; i < 10; i++) {
		dli_bucket_pause(&bucket, &half, SECOND + 2 * i, SECOND);
		dli_bucket_end(&bucket, 0.5, SECOND + 2 * i + 1);
	}
	assert_true(bucket.credit_ns <= credit_ns);
	dli_bucket_pause(&bucket, &half, 2 * (uint64_t)SECOND, 100 * MILLISECOND);
	credit_ns = bucket.credit_ns;
	dli_bucket_end(&bucket, 0.5, 2 * (uint64_t)SECOND + 60 * MILLISECOND);
	assert_in_range(bucket.credit_ns - credit_ns, 40 * MILLISECOND - 1, 40 * MILLISECOND);
}

static void pauses_that_end_leave_a_moment_each_second(void **state)
{
	uint64_t now_ns = SECOND;

	for (int i = 0; i < 10; i++) {
		assert_false(dli_bucket_is_resting(&bucket, now_ns));
		dli_bucket_pause(&bucket, &thousand, now_ns, SECOND);
		now_ns += 100 * MILLISECOND;
		dli_bucket_end(&bucket, 0, now_ns);
	}
	assert_true(dli_bucket_is_resting(&bucket, now_ns + MILLISECOND));
	assert_false(dli_bucket_is_resting(&bucket, now_ns + 2 * MILLISECOND));
}

static void a_clock_that_is_read_earlier_does_no_harm(void **state)
{
	charge(0, 20);
	charge(10 * MILLISECOND, 20);
	charge(5 * MILLISECOND, 40);
	assert_in_range(pause_ns(&thousand), 10 * MILLISECOND - 1, 10 * MILLISECOND + 1);
	charge(20 * MILLISECOND, 40);
	assert_int_equal(pause_ns(&thousand), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_new_bucket_is_full, start),
		cmocka_unit_test_setup(pages_at_the_rate_cost_no_pause, start),
		cmocka_unit_test_setup(time_pays_for_debt, start),
		cmocka_unit_test_setup(a_quiet_vcpu_saves_for_twenty_milliseconds, start),
		cmocka_unit_test_setup(a_slow_limit_lets_a_page_through, start),
		cmocka_unit_test_setup(debt_is_remembered_for_a_second, start),
		cmocka_unit_test_setup(debt_of_a_higher_limit_is_forgiven_after_a_second, start),
		cmocka_unit_test_setup(no_pause_is_longer_than_the_longest, start),
		cmocka_unit_test_setup(a_short_debt_is_left_for_later, start),
		cmocka_unit_test_setup(running_time_pays_for_pauses, start),
		cmocka_unit_test_setup(after_a_pause_the_vcpu_runs_for_a_moment, start),
		cmocka_unit_test_setup(a_vcpu_that_wakes_up_late_runs_for_a_moment_too, start),
		cmocka_unit_test_setup(a_vcpu_that_ran_since_its_pause_was_not_late, start),
		cmocka_unit_test_setup(what_a_late_vcpu_lost_counts_as_pause, start),
		cmocka_unit_test_setup(a_pause_that_ends_gives_back_what_it_took, start),
		cmocka_unit_test_setup(pauses_that_end_leave_a_moment_each_second, start),
		cmocka_unit_test_setup(a_clock_that_is_read_earlier_does_no_harm, start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
