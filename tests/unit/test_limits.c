/* SPDX-License-Identifier: MIT */
/* dl_vcpu_limit(), dl_vcpu_pause_due(), dl_log_kicks(): in the model's time, which stands still. */
#include "reap_guest.h"

#include <errno.h>
#include <string.h>

enum { PAGE = 4096, SECOND = 1000 * MILLISECOND };

/* A VMM with one running vCPU, which serves the descriptor. */
static struct {
	uint64_t next_page, written;
	uint64_t resumes_ns; /* the end of its pause */
	uint64_t longest_ns, paused_ns;
	uint64_t kicks;
	uint64_t cpu_ns; /* of the vCPU's thread */
} vmm;

static uint64_t now(void)
{
	return guest.os.now_ns(guest.os.opaque);
}

static uint64_t ask(void)
{
	uint64_t pause_ns = 1;

	assert_int_equal(dl_vcpu_pause_due(vcpu->handle, &pause_ns), 0);
	return pause_ns;
}

static int take_kicks(void)
{
	uint64_t cookies[4];
	int n = dl_log_kicks(guest.log, cookies, 4);

	assert_true(n >= 0);
	vmm.kicks += (uint64_t)n;
	return n;
}

/* The vCPU is before KVM_RUN. */
static void enter(void)
{
	uint64_t pause_ns = ask();

	if (vmm.resumes_ns <= now())
		vmm.longest_ns = pause_ns > vmm.longest_ns ? pause_ns : vmm.longest_ns;
	else
		vmm.paused_ns -= vmm.resumes_ns - now();
	vmm.paused_ns += pause_ns;
	vmm.resumes_ns = now() + pause_ns;
}

static void serve(void)
{
	if (left())
		return;
	reap();
	if (take_kicks())
		enter();
}

static void write_some(uint64_t n)
{
	for (; n; n--) {
		assert_int_equal(guest_write(&guest, vcpu, 0, vmm.next_page), 0);
		vmm.next_page = (vmm.next_page + 1) % PAGES;
		vmm.written++;
	}
}

/* A page that is still pending does not count as new when it is written again. */
static void consume(void)
{
	uint64_t words[(PAGES + 63) / 64] = { 0 };

	assert_int_equal(dl_cursor_take(guest.cursor, 0, 0, words, (PAGES + 63) / 64, NULL), 0);
}

/* The guest dirties pages_per_ms while it runs. Returns how many it wrote. */
static uint64_t run(uint64_t ms, uint64_t pages_per_ms)
{
	uint64_t before = vmm.written;

	for (; ms; ms--) {
		if (vmm.resumes_ns <= now()) {
			write_some(pages_per_ms);
			vmm.cpu_ns += MILLISECOND;
		}
		consume();
		model_advance(guest.model, MILLISECOND);
		serve();
	}
	return vmm.written - before;
}

static int vmm_setup(void **state)
{
	memset(&vmm, 0, sizeof(vmm));
	return setup(state);
}

static void limit(uint64_t pages_per_s)
{
	assert_int_equal(dl_vcpu_limit(vcpu->handle, pages_per_s * PAGE), 0);
}

static void without_a_limit_nobody_pauses(void **state)
{
	assert_int_equal(run(100, 100), 10000);
	assert_int_equal(ask(), 0);
	assert_int_equal(vmm.kicks, 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
}

static void a_limit_holds_over_any_second(void **state)
{
	/* What is written between two pauses, in two steps, is less than a tenth of the limit. */
	static const uint64_t rates[] = { 1000, 5000, 20000 }, pages_per_ms[] = { 40, 100, 100 };

	for (int i = 0; i < 3; i++) {
		limit(rates[i]);
		/* A higher one ends the pause that a lower one began. */
		if (take_kicks())
			enter();
		run(500, pages_per_ms[i]);
		for (int second = 0; second < 5; second++) {
			uint64_t pages = run(1000, pages_per_ms[i]);

			assert_in_range(pages, rates[i] - rates[i] / 10, rates[i] + rates[i] / 10);
		}
	}
	assert_true(vmm.kicks > 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 1);
	/* It writes no more than it may. */
	run(2000, 1);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
	assert_true(vmm.longest_ns <= SECOND);
	assert_int_equal(guest_stats(&guest).paused_ns, vmm.paused_ns);
}

/* Of a guest a hundred times as fast, each second holds within what it writes in 2.5 ms. */
static void a_hard_limit_holds_on_average(void **state)
{
	uint64_t all = 0;

	limit(1000);
	run(500, 100);
	for (int second = 0; second < 10; second++) {
		uint64_t pages = run(1000, 100);

		assert_in_range(pages, 1000 - 250, 1000 + 250);
		all += pages;
	}
	assert_in_range(all, 9500, 10500);
}

static void a_vcpu_below_its_limit_never_pauses(void **state)
{
	limit(20000);
	assert_int_equal(run(2000, 15), 30000);
	assert_int_equal(vmm.kicks, 0);
	assert_int_equal(vmm.paused_ns, 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
}

/* Runs until the vCPU is in a pause. */
static void pause_vcpu(void)
{
	limit(1000);
	for (int i = 0; i < 100 && vmm.resumes_ns <= now(); i++)
		run(1, 100);
	assert_true(vmm.resumes_ns > now());
}

static void a_limit_that_is_lifted_ends_a_pause(void **state)
{
	pause_vcpu();
	assert_true(ask() > 0);
	limit(0);
	assert_int_equal(take_kicks(), 1);
	assert_int_equal(ask(), 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
	vmm.resumes_ns = now();
	assert_int_equal(run(100, 100), 10000);
}

/* A debt of a second becomes one of 10 ms. */
static void a_limit_that_is_raised_shortens_a_pause(void **state)
{
	uint64_t before_ns;

	pause_vcpu();
	before_ns = ask();
	limit(100000);
	assert_int_equal(take_kicks(), 1);
	assert_in_range(ask(), 0, before_ns / 50);
	assert_in_range(guest_stats(&guest).paused_ns, 0, before_ns / 50);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 1);
	limit(UINT32_MAX);
	assert_int_equal(ask(), 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
}

static void a_limit_that_is_lowered_leaves_a_pause(void **state)
{
	uint64_t before_ns;

	pause_vcpu();
	before_ns = ask();
	limit(500);
	assert_int_equal(ask(), before_ns);
}

static void a_lifted_limit_wakes_the_event_loop(void **state)
{
	pause_vcpu();
	limit(0);
	assert_true(left() <= 1);
}

static void asking_twice_adds_nothing(void **state)
{
	uint64_t first_ns;

	pause_vcpu();
	first_ns = ask();
	assert_int_equal(ask(), first_ns);
	model_advance(guest.model, MILLISECOND);
	assert_int_equal(ask(), first_ns - MILLISECOND);
	assert_int_equal(guest_stats(&guest).paused_ns, vmm.paused_ns);
	model_advance(guest.model, first_ns - MILLISECOND);
	assert_int_equal(ask(), 0);
}

/* A host that is busy wakes a thread up late: two pauses in a row would be one that is too long. */
static void a_vcpu_that_wakes_up_late_runs_before_the_next_pause(void **state)
{
	uint64_t pause_ns;

	model_vcpu_thread(guest.model, vcpu->fd);
	pause_vcpu();
	pause_ns = ask();
	model_vcpu_pause(guest.model, vcpu->fd, pause_ns + 3 * MILLISECOND);
	write_some(100);
	consume();
	model_advance(guest.model, pause_ns + 2 * MILLISECOND);
	reap();
	/* The next pause is due, while the thread still sleeps. */
	assert_int_equal(take_kicks(), 1);
	model_advance(guest.model, MILLISECOND);
	assert_int_equal(ask(), 0);
	model_advance(guest.model, MILLISECOND);
	reap();
	assert_int_equal(take_kicks(), 0);
	assert_int_equal(ask(), 0);
	model_advance(guest.model, MILLISECOND);
	reap();
	assert_int_equal(take_kicks(), 1);
	assert_true(ask() > 50 * MILLISECOND);
}

static void a_vcpu_that_does_not_ask_is_kicked_again(void **state)
{
	limit(1000);
	write_some(100);
	for (int i = 0; i < 20 && !take_kicks(); i++) {
		model_advance(guest.model, MILLISECOND);
		if (!left())
			reap();
	}
	assert_int_equal(vmm.kicks, 1);
	for (int i = 0; i < 9; i++) {
		model_advance(guest.model, MILLISECOND);
		reap();
	}
	assert_int_equal(take_kicks(), 0);
	model_advance(guest.model, 2 * MILLISECOND);
	reap();
	assert_int_equal(take_kicks(), 1);
}

static void a_vcpu_that_never_asks_is_noticed(void **state)
{
	char text[800];

	limit(1000);
	for (int i = 0; i < 1500; i++) {
		write_some(10);
		consume();
		model_advance(guest.model, MILLISECOND);
		reap();
		take_kicks();
	}
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "dl_vcpu_pause_due"));
	(void)ask();
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_null(strstr(text, "dl_vcpu_pause_due"));
}

/* Time has paid its debt by then. */
static void a_vcpu_that_asks_late_is_forgiven(void **state)
{
	char text[800];

	limit(1000);
	write_some(100);
	for (int i = 0; i < 1500; i++) {
		if (i < 1100)
			write_some(10);
		consume();
		model_advance(guest.model, MILLISECOND);
		reap();
		take_kicks();
	}
	model_advance(guest.model, 2 * (uint64_t)SECOND);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "dl_vcpu_pause_due"));
	assert_int_equal(ask(), 0);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_null(strstr(text, "dl_vcpu_pause_due"));
}

static void kicks_that_do_not_fit_wait(void **state)
{
	struct guest_vcpu *other = &guest.vcpus[1];
	uint64_t cookie;

	limit(100);
	assert_int_equal(dl_vcpu_limit(other->handle, 100 * PAGE), 0);
	for (uint64_t page = 0; page < 50; page++) {
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
		assert_int_equal(guest_write(&guest, other, 0, 100 + page), 0);
	}
	model_advance(guest.model, 5 * MILLISECOND);
	reap();
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 0);
	assert_int_equal(guest_stats(&guest).limited_vcpus, 2);
}

/* A look finds the vCPU far above its limit. */
static void want_kick(void)
{
	limit(100);
	write_some(50);
	model_advance(guest.model, 5 * MILLISECOND);
	reap();
}

static void a_removed_vcpu_is_neither_kicked_nor_limited(void **state)
{
	want_kick();
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	assert_int_equal(take_kicks(), 0);
	reap();
	assert_int_equal(guest_stats(&guest).limited_vcpus, 0);
	model_advance(guest.model, 50 * MILLISECOND);
	reap();
	assert_int_equal(take_kicks(), 0);
}

/* The one that comes back is another one to the VMM, and pauses by itself. */
static void a_kick_is_not_inherited(void **state)
{
	want_kick();
	dl_vcpu_remove(vcpu->handle);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 77, 0, &vcpu->handle), 0);
	assert_int_equal(take_kicks(), 0);
}

static void a_vcpu_that_is_removed_in_its_pause_is_not_kicked(void **state)
{
	pause_vcpu();
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	reap();
	assert_int_equal(take_kicks(), 0);
}

static void rates_are_of_the_last_second(void **state)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	run(3000, 20);
	assert_int_equal(dl_vcpu_stats(vcpu->handle, &stats), 0);
	assert_in_range(stats.dirty_bytes_per_s / PAGE, 19000, 21000);
	assert_in_range(stats.written_bytes_per_s / PAGE, 19000, 21000);
	assert_int_equal(guest_stats(&guest).dirty_bytes_per_s, stats.dirty_bytes_per_s);
	run(1500, 0);
	assert_int_equal(guest_stats(&guest).dirty_bytes_per_s, 0);
	assert_int_equal(dl_vcpu_stats(guest.vcpus[1].handle, &stats), 0);
	assert_int_equal(stats.dirty_bytes_per_s, 0);
}

static void bitmap_mode_has_no_limits(void **state)
{
	char text[200];

	teardown(state);
	open_guest(DL_MODE_BITMAP, 0, 0);
	assert_int_equal(dl_vcpu_limit(vcpu->handle, PAGE), -EOPNOTSUPP);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "rings"));
	assert_int_equal(ask(), 0);
	assert_int_equal(take_kicks(), 0);
	start();
}

static void bitmap_mode_has_the_rate_of_the_whole_guest(void **state)
{
	uint64_t words[(PAGES + 63) / 64] = { 0 };

	teardown(state);
	open_guest(DL_MODE_BITMAP, 0, 0);
	start();
	for (int i = 0; i < 20; i++) {
		write_some(100);
		model_advance(guest.model, 100 * MILLISECOND);
		assert_int_equal(dl_cursor_take(guest.cursor, 0, DL_TAKE_HARVEST, words,
						(PAGES + 63) / 64, NULL),
				 0);
	}
	assert_in_range(guest_stats(&guest).dirty_bytes_per_s / PAGE, 990, 1010);
}

static void a_closed_log_lets_vcpus_run(void **state)
{
	struct dl_vcpu *handle = vcpu->handle;
	uint64_t pause_ns = 1;

	pause_vcpu();
	dl_cursor_free(guest.cursor);
	guest.cursor = NULL;
	dl_log_close(guest.log);
	assert_int_equal(dl_vcpu_pause_due(handle, &pause_ns), 0);
	assert_int_equal(pause_ns, 0);
	assert_int_equal(dl_vcpu_limit(handle, 1), -ECANCELED);
	guest.log = NULL;
}

static void bad_arguments_are_refused(void **state)
{
	uint64_t cookie, pause_ns;

	assert_int_equal(dl_vcpu_limit(NULL, 1), -EINVAL);
	assert_int_equal(dl_vcpu_pause_due(NULL, &pause_ns), -EINVAL);
	assert_int_equal(dl_vcpu_pause_due(vcpu->handle, NULL), -EINVAL);
	assert_int_equal(dl_log_kicks(NULL, &cookie, 1), -EINVAL);
	assert_int_equal(dl_log_kicks(guest.log, NULL, 1), -EINVAL);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 0), -EINVAL);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, UINT32_C(1) << 31), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define limit_test(f) cmocka_unit_test_setup_teardown(f, vmm_setup, teardown)
		limit_test(without_a_limit_nobody_pauses),
		limit_test(a_limit_holds_over_any_second),
		limit_test(a_hard_limit_holds_on_average),
		limit_test(a_vcpu_below_its_limit_never_pauses),
		limit_test(a_limit_that_is_lifted_ends_a_pause),
		limit_test(a_limit_that_is_raised_shortens_a_pause),
		limit_test(a_limit_that_is_lowered_leaves_a_pause),
		limit_test(a_lifted_limit_wakes_the_event_loop),
		limit_test(asking_twice_adds_nothing),
		limit_test(a_vcpu_that_wakes_up_late_runs_before_the_next_pause),
		limit_test(a_vcpu_that_does_not_ask_is_kicked_again),
		limit_test(a_vcpu_that_never_asks_is_noticed),
		limit_test(a_vcpu_that_asks_late_is_forgiven),
		limit_test(kicks_that_do_not_fit_wait),
		limit_test(a_removed_vcpu_is_neither_kicked_nor_limited),
		limit_test(a_kick_is_not_inherited),
		limit_test(a_vcpu_that_is_removed_in_its_pause_is_not_kicked),
		limit_test(rates_are_of_the_last_second),
		limit_test(bitmap_mode_has_no_limits),
		limit_test(bitmap_mode_has_the_rate_of_the_whole_guest),
		limit_test(a_closed_log_lets_vcpus_run),
		limit_test(bad_arguments_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
