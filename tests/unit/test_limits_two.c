/* SPDX-License-Identifier: MIT */
/* Limits in company: of a plan beside a vCPU's own, of clocks that fail, of a past. */
#include "reap_guest.h"
#include "throttle.h"

#include <errno.h>

enum { PAGE = 4096, SECOND = 1000 * MILLISECOND };

static struct dl_plan *plan;
static uint64_t next_page, written, resumes_ns, reaps;

static int begin(void **state)
{
	next_page = written = resumes_ns = reaps = 0;
	plan = NULL;
	return setup(state);
}

static int end(void **state)
{
	dl_plan_free(plan);
	return teardown(state);
}

static uint64_t now(void)
{
	return guest.os.now_ns(guest.os.opaque);
}

static uint64_t ask(void)
{
	uint64_t pause_ns = 1;

	model_vcpu_thread(guest.model, vcpu->fd);
	assert_int_equal(dl_vcpu_pause_due(vcpu->handle, &pause_ns), 0);
	model_vcpu_pause(guest.model, vcpu->fd, pause_ns);
	return pause_ns;
}

static void serve(void)
{
	uint64_t cookie;

	if (left())
		return;
	reap();
	reaps++;
	if (dl_log_kicks(guest.log, &cookie, 1))
		resumes_ns = now() + ask();
}

/* What is pending is taken at once, so that each page is new when it is written again. */
static void take_all(void)
{
	uint64_t words[(PAGES + 63) / 64] = { 0 };

	assert_int_equal(dl_cursor_take(guest.cursor, 0, 0, words, (PAGES + 63) / 64, NULL), 0);
}

static void run_for(uint64_t ms, uint64_t pages_per_ms)
{
	for (; ms; ms--) {
		for (uint64_t n = resumes_ns <= now() ? pages_per_ms : 0; n; n--) {
			assert_int_equal(guest_write(&guest, vcpu, 0, next_page), 0);
			next_page = (next_page + 1) % PAGES;
			written++;
		}
		take_all();
		model_advance(guest.model, MILLISECOND);
		serve();
	}
}

/* As run_for(), beside a wire that takes pages_per_ms; the plan looks every 100 ms. */
static void migrate_for(uint64_t ms, uint64_t pages_per_ms, uint64_t wire_per_ms)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	for (; ms; ms -= 100) {
		run_for(100, pages_per_ms);
		assert_int_equal(dl_plan_sent(plan, 100 * wire_per_ms * PAGE, 100 * MILLISECOND),
				 0);
		/* More than the downtime has room for is always on its way. */
		assert_int_equal(dl_plan_next(plan, 400 * wire_per_ms * PAGE, &advice), 0);
	}
}

static void limit(uint64_t pages_per_s)
{
	assert_int_equal(dl_vcpu_limit(vcpu->handle, pages_per_s * PAGE), 0);
}

static void new_plan(uint64_t longest_pause_ns, uint32_t least_run_ppm)
{
	const struct dl_goal goal = { .size = sizeof(goal),
				      .longest_pause_ns = longest_pause_ns,
				      .least_run_ppm = least_run_ppm };

	assert_int_equal(dl_plan_new(guest.cursor, &goal, &plan), 0);
}

/* Pauses that are as short as this plan's hold nobody to the limit. */
static void an_own_limit_holds_beside_a_plan(void **state)
{
	new_plan(MILLISECOND, 0);
	limit(5000);
	migrate_for(3000, 200, 2);
	for (int second = 0; second < 3; second++) {
		uint64_t before = written;

		migrate_for(1000, 200, 2);
		assert_in_range(written - before, 1, 5500);
	}
}

/* What the first limit forgives is found between the two, by no look. */
static void a_second_limit_charges_no_page_that_the_first_forgave(void **state)
{
	struct dli_plan_terms terms = { .until_ns = now() + SECOND,
					.longest_pause_ns = MILLISECOND };

	write_pages(0, 100);
	limit(100000000);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	atomic_store(&vcpu->handle->limit.planned, 1e-6);
	dli_limits_set_plan(guest.log, &terms);
	write_pages(1000, 100);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_in_range(ask(), 1, MILLISECOND);
}

static void a_plan_that_goes_ends_its_pause(void **state)
{
	uint64_t cookie;

	new_plan(SECOND / 2, 0);
	limit(1000000);
	for (int tries = 0; resumes_ns <= now() + 50 * MILLISECOND && tries < 100; tries++)
		migrate_for(100, 200, 2);
	assert_true(resumes_ns > now() + 50 * MILLISECOND);
	dl_plan_free(plan);
	plan = NULL;
	assert_int_equal(left(), 1);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
	/* The own limit asks for what is left at its rate. */
	assert_true(ask() < MILLISECOND);
}

static void expect_least_run(void)
{
	uint64_t before;

	new_plan(0, 500000);
	migrate_for(5000, 200, 20);
	before = guest_stats(&guest).paused_ns;
	migrate_for(5000, 200, 20);
	assert_in_range(guest_stats(&guest).paused_ns - before, 1000 * (uint64_t)MILLISECOND,
			2600 * (uint64_t)MILLISECOND);
}

/* The vCPU pays for pauses with running time, however that is known. */
static void without_clocks_a_vcpu_runs_as_much_as_it_must(void **state)
{
	fail_call(MODEL_CALL_THREAD_CLOCK, 0, EINVAL);
	expect_least_run();
}

static void with_clocks_that_fail_a_vcpu_runs_as_much_as_it_must(void **state)
{
	fail_call(MODEL_CALL_THREAD_NS, 0, EINVAL);
	expect_least_run();
}

/* Its entries are still in the ring, and found by the first drain after the limit. */
static void what_was_written_before_a_limit_is_not_charged(void **state)
{
	write_pages(0, DUE - 1);
	take_all();
	limit(100);
	run_for(2000, 0);
	assert_int_equal(guest_stats(&guest).paused_ns, 0);
	/* What comes later is. */
	run_for(10, 100);
	run_for(10, 0);
	assert_true(guest_stats(&guest).paused_ns > 0);
}

static void a_lifted_pause_counts_as_long_as_it_was(void **state)
{
	uint64_t paused_ns;

	limit(100);
	run_for(200, 10);
	while (resumes_ns <= now() + 100 * MILLISECOND)
		run_for(1, 10);
	paused_ns = guest_stats(&guest).paused_ns - (resumes_ns - now());
	limit(0);
	assert_int_equal(ask(), 0);
	assert_int_equal(guest_stats(&guest).paused_ns, paused_ns);
}

static void a_limit_that_is_set_again_and_again_holds(void **state)
{
	uint64_t before;

	limit(1000);
	run_for(200, 5);
	before = written;
	reaps = 0;
	for (int ms = 0; ms < 2000; ms++) {
		run_for(1, 5);
		limit(1000);
	}
	assert_in_range(written - before, 1800, 2200);
	/* Every 5 ms. */
	assert_true(reaps >= 400);
}

int main(void)
{
#define two_test(f) cmocka_unit_test_setup_teardown(f, begin, end)
	const struct CMUnitTest tests[] = {
		two_test(an_own_limit_holds_beside_a_plan),
		two_test(a_second_limit_charges_no_page_that_the_first_forgave),
		two_test(a_plan_that_goes_ends_its_pause),
		two_test(without_clocks_a_vcpu_runs_as_much_as_it_must),
		two_test(with_clocks_that_fail_a_vcpu_runs_as_much_as_it_must),
		two_test(what_was_written_before_a_limit_is_not_charged),
		two_test(a_lifted_pause_counts_as_long_as_it_was),
		two_test(a_limit_that_is_set_again_and_again_holds),
	};

	return RUN_TESTS("limits in company", tests);
}
