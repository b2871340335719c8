/* SPDX-License-Identifier: MIT */
/* Limits in company: of a plan beside a vCPU's own, of clocks that fail, of a past. */
#include "reap_guest.h"
#include "throttle.h"

#include <errno.h>

enum { PAGE = 4096, SECOND = 1000 * MILLISECOND, MOST_MS = 20000 };

static struct dl_plan *plan;
static uint64_t next_page, written, resumes_ns, reaps, longest_ns;
/* How much was written until the end of each millisecond. */
static uint64_t history[MOST_MS];
static unsigned int ms_done;

static int begin(void **state)
{
	next_page = written = resumes_ns = reaps = 0;
	ms_done = 0;
	longest_ns = MILLISECOND;
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
		if (ms_done < MOST_MS)
			history[ms_done++] = written;
	}
}

/* The most that was written in a second that began since. */
static uint64_t worst_second(unsigned int since_ms)
{
	uint64_t most = 0;

	for (unsigned int ms = since_ms; ms + 1000 < ms_done; ms++)
		if (history[ms + 1000] - history[ms] > most)
			most = history[ms + 1000] - history[ms];
	return most;
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

/* As a plan does that sets a limit of pages_per_s, or has no more limits. */
static void set_plan(uint64_t pages_per_s)
{
	const struct dli_plan_terms terms = { .until_ns = pages_per_s ? now() + SECOND : 0,
					      .longest_pause_ns = longest_ns };

	atomic_store(&vcpu->handle->limit.planned, (double)pages_per_s / SECOND);
	dli_limits_set_plan(guest.log, &terms);
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
	write_pages(0, 100);
	limit(100000000);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	set_plan(1000);
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

/* Alternates between two limits every period_ms once the vCPU is held, beside a plan or not. */
static uint64_t alternate(uint64_t low, uint64_t high, uint64_t period_ms)
{
	struct dl_advice advice = { .size = sizeof(advice) };
	unsigned int since_ms;

	limit(high);
	if (plan)
		migrate_for(3000, 200, 2);
	else
		run_for(3000, 200);
	since_ms = ms_done;
	for (uint64_t ms = 0; ms < 5000; ms += period_ms) {
		limit(ms / period_ms % 2 ? high : low);
		run_for(period_ms, 200);
		if (plan && !(ms % 100)) {
			assert_int_equal(
				dl_plan_sent(plan, 200 * (uint64_t)PAGE, 100 * MILLISECOND), 0);
			assert_int_equal(dl_plan_next(plan, 800 * PAGE, &advice), 0);
		}
	}
	return worst_second(since_ms);
}

/* What is written in 2.5 ms. */
enum { TOO_MUCH = 500 };

static void a_limit_that_wavers_holds(void **state)
{
	assert_in_range(alternate(1000, 1001, 10), 500, 1001 + TOO_MUCH);
}

/* What is owed to the higher limit is not forgiven by a moment of a lower one. */
static void a_limit_that_is_lowered_again_and_again_holds(void **state)
{
	assert_in_range(alternate(10, 1000, 50), 1, 1000 + TOO_MUCH);
}

static void a_limit_that_is_lowered_beside_a_plan_holds(void **state)
{
	new_plan(MILLISECOND, 0);
	assert_in_range(alternate(10, 1000, 50), 1, 1000 + TOO_MUCH);
}

/* That limit is never reached; to change it ends pauses of the plan. */
static void a_plan_holds_beside_a_limit_that_wavers(void **state)
{
	uint64_t most;

	new_plan(SECOND / 2, 0);
	most = alternate(1000000, 1000000, 10);
	dl_plan_free(plan);
	run_for(2000, 0);
	new_plan(SECOND / 2, 0);
	assert_in_range(alternate(1000000, 1000001, 10), 1, most + TOO_MUCH);
}

/* The plan's debt is still due, whichever limit is the stricter one. */
static void a_plan_holds_beside_a_limit_that_crosses_its_level(void **state)
{
	unsigned int since_ms = 0;

	longest_ns = SECOND;
	limit(1000000);
	for (int i = 0; i < 300; i++) {
		if (i == 100)
			since_ms = ms_done;
		set_plan(1001);
		limit(i % 2 ? 1000000 : 1000);
		run_for(10, 200);
	}
	assert_in_range(worst_second(since_ms), 500, 1001 + TOO_MUCH);
}

static void a_limit_that_changes_leaves_a_moment_each_second(void **state)
{
	unsigned int still_ms = 0, longest_ms = 0;

	limit(1000);
	run_for(1000, 200);
	for (int i = 0; i < 20; i++) {
		limit(10);
		run_for(500, 200);
		limit(1000);
		run_for(10, 200);
	}
	for (unsigned int ms = 1; ms < ms_done; ms++) {
		still_ms = history[ms] == history[ms - 1] ? still_ms + 1 : 0;
		longest_ms = still_ms > longest_ms ? still_ms : longest_ms;
	}
	assert_in_range(longest_ms, 100, 2000);
}

/* Its thread wakes up for a signal while a preempted look has its state. */
static void a_question_during_a_pause_never_ends_it(void **state)
{
	uint64_t left_ns;

	limit(100);
	while (resumes_ns <= now() + 100 * MILLISECOND)
		run_for(1, 10);
	left_ns = resumes_ns - now();
	assert_true(dli_limit_try(&vcpu->handle->limit));
	assert_int_equal(ask(), left_ns);
	dli_limit_leave(&vcpu->handle->limit);
	assert_int_equal(ask(), left_ns);
}

static void a_plan_that_comes_and_goes_leaves_an_own_limit(void **state)
{
	unsigned int since_ms;

	limit(1000);
	run_for(2000, 200);
	since_ms = ms_done;
	for (int i = 0; i < 100; i++) {
		set_plan(i % 2 ? 0 : 10);
		run_for(50, 200);
	}
	assert_in_range(worst_second(since_ms), 1, 1000 + TOO_MUCH);
}

static void a_plan_that_goes_leaves_the_debt_of_an_own_limit(void **state)
{
	limit(1000);
	set_plan(10);
	/* Until a plan's limit of a second before is forgotten. */
	for (int i = 0; i < 30; i++) {
		run_for(100, 0);
		set_plan(10);
	}
	write_pages(0, 900);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	set_plan(0);
	assert_in_range(ask(), 800 * MILLISECOND, 900 * MILLISECOND);
}

static void a_plan_that_comes_leaves_the_debt_of_an_own_limit(void **state)
{
	limit(1000);
	write_pages(0, 900);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	set_plan(10);
	assert_in_range(ask(), 800 * MILLISECOND, 900 * MILLISECOND);
}

static uint64_t (*now_below)(void *opaque);
static unsigned int moment, happened;

/* Something happens between two readings of the clock by a reap; 0: it has. */
static bool is_moment(void)
{
	pthread_mutex_t *lock = &guest.log->reaper.lock;

	if (!moment || --moment || pthread_mutex_trylock(lock))
		return false;
	pthread_mutex_unlock(lock);
	return true;
}

static void reap_at_each_moment(uint64_t (*now_ns)(void *opaque), void (*check)(void))
{
	now_below = guest.os.now_ns;
	/* Looks are made as long as any vCPU has a limit. */
	assert_int_equal(dl_vcpu_limit(guest.vcpus[1].handle, 1 << 30), 0);
	for (unsigned int i = 1; i < 20; i++) {
		limit(0);
		assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
		take_all();
		moment = i;
		guest.os.now_ns = now_ns;
		assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
		guest.os.now_ns = now_below;
		check();
	}
}

static uint64_t now_of_a_limit(void *opaque)
{
	if (is_moment()) {
		write_pages(0, DUE - 1);
		model_advance(guest.model, 1);
		limit(100);
		happened++;
	}
	return now_below(opaque);
}

static void check_nothing_is_charged(void)
{
	run_for(10, 0);
	assert_int_equal(ask(), 0);
}

static void a_drain_from_before_a_limit_has_not_found_what_it_forgives(void **state)
{
	happened = 0;
	reap_at_each_moment(now_of_a_limit, check_nothing_is_charged);
	assert_true(happened > 2);
}

static uint64_t now_of_a_pause(void *opaque)
{
	uint64_t now_ns = now_below(opaque);

	if (is_moment()) {
		limit(100);
		write_pages(0, DUE - 1);
		assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
		model_advance(guest.model, MILLISECOND);
		/* A limit is lifted by the look that has read the clock, not by its own. */
		happened += ask() > 0;
		atomic_store(&vcpu->handle->limit.own, 0);
	}
	return now_ns;
}

static void check_pauses(void)
{
	assert_true(guest_stats(&guest).paused_ns < 20 * (uint64_t)SECOND);
}

static void a_pause_that_begins_during_a_look_counts_from_then(void **state)
{
	happened = 0;
	reap_at_each_moment(now_of_a_pause, check_pauses);
	assert_true(happened > 2);
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
		two_test(a_limit_that_wavers_holds),
		two_test(a_limit_that_is_lowered_again_and_again_holds),
		two_test(a_limit_that_is_lowered_beside_a_plan_holds),
		two_test(a_plan_holds_beside_a_limit_that_wavers),
		two_test(a_plan_holds_beside_a_limit_that_crosses_its_level),
		two_test(a_limit_that_changes_leaves_a_moment_each_second),
		two_test(a_question_during_a_pause_never_ends_it),
		two_test(a_plan_that_comes_and_goes_leaves_an_own_limit),
		two_test(a_plan_that_goes_leaves_the_debt_of_an_own_limit),
		two_test(a_plan_that_comes_leaves_the_debt_of_an_own_limit),
		two_test(a_drain_from_before_a_limit_has_not_found_what_it_forgives),
		two_test(a_pause_that_begins_during_a_look_counts_from_then),
	};

	return RUN_TESTS("limits in company", tests);
}
