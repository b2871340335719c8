/* SPDX-License-Identifier: MIT */
/* dl_log_reap(): when rings are emptied, and how the interval between two looks changes. */
#include "reap_guest.h"

#include <errno.h>
#include <sys/ioctl.h>

static void an_idle_guest_is_looked_at_ever_less(void **state)
{
	static const uint64_t intervals[] = { 2, 4, 8, 16, 32, 64, 100, 100, 100 };
	uint64_t resets = guest.resets;

	assert_int_equal(left(), LEAST);
	for (unsigned int i = 0; i < sizeof(intervals) / sizeof(intervals[0]); i++)
		assert_int_equal(wait_and_reap(), intervals[i] * MILLISECOND);
	assert_int_equal(guest.resets, resets);
}

static void an_entry_returns_the_interval_to_the_least(void **state)
{
	back_off(4);
	assert_int_equal(left(), 16 * LEAST);
	write_pages(0, 1);
	assert_int_equal(wait_and_reap(), LEAST);
	/* The entry has been seen, although it is still in the ring. */
	assert_int_equal(wait_and_reap(), 2 * LEAST);
	assert_int_equal(wait_and_reap(), 4 * LEAST);
	write_pages(1, 1);
	assert_int_equal(wait_and_reap(), LEAST);
}

static void an_entry_that_a_harvest_took_counts_too(void **state)
{
	back_off(4);
	write_pages(0, 1);
	(void)harvest();
	assert_int_equal(wait_and_reap(), LEAST);
}

static void a_look_before_its_time_does_not_lengthen_the_interval(void **state)
{
	back_off(1);
	for (int i = 0; i < 5; i++)
		assert_int_equal(reap(), 2 * LEAST);
	model_advance(guest.model, 2 * LEAST - 1);
	assert_int_equal(reap(), 2 * LEAST);
	model_advance(guest.model, 1);
	assert_int_equal(reap(), 4 * LEAST);
}

static void a_ring_is_emptied_when_half_full_and_not_before(void **state)
{
	uint64_t resets = guest.resets, pages[DUE];

	write_pages(0, DUE - 1);
	reap();
	assert_int_equal(guest.resets, resets);
	assert_int_equal(guest_pending(&guest), 0);
	write_pages(DUE - 1, 1);
	reap();
	assert_int_equal(guest.resets, resets + 1);
	/* The entries are pending without a harvest. */
	assert_int_equal(guest_pending(&guest), DUE * 4096);
	assert_int_equal(guest_pass(&guest, 0, pages, DUE), DUE);
	reap();
	assert_int_equal(guest.resets, resets + 1);
}

static void every_ring_is_emptied_now_if_the_caller_says_so(void **state)
{
	uint64_t resets = guest.resets, page;

	write_pages(7, 1);
	reap_with(DL_REAP_NOW, 0);
	assert_int_equal(guest.resets, resets + 1);
	assert_int_equal(guest_pending(&guest), 4096);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
	assert_int_equal(page, 7);
}

/* 4,000 entries in 1 ms: at 7,904 the ring is half full. */
static void a_ring_that_fills_is_looked_at_before_it_is_half_full(void **state)
{
	guest_close(&guest);
	open_guest(DL_MODE_RING, 16384, 0);
	guest_add_slot(&guest, 1, 5000, 5000);
	start();
	fd = dl_log_fd(guest.log);
	assert_int_equal(left(), 16384 * 500);
	model_advance(guest.model, MILLISECOND);
	write_pages(5000, 4000);
	assert_in_range(reap(), 970000, 980000);
	/* The rate of before the drain still holds when the rings are empty, while entries come. */
	reap_with(DL_REAP_NOW, 0);
	write_pages(5000, 1);
	assert_in_range(reap(), 1970000, 1980000);
	/* A harvest at the same moment knows no better. */
	(void)harvest();
	write_pages(5001, 1);
	assert_in_range(reap(), 1970000, 1980000);
}

static void the_interval_grows_in_spite_of_an_earlier_rate(void **state)
{
	model_advance(guest.model, LEAST / 100);
	write_pages(0, DUE);
	reap();
	assert_true(reap() <= LEAST);
	back_off(10);
	assert_int_equal(left(), IDLE);
}

static void a_full_exit_returns_the_interval_to_the_least(void **state)
{
	unsigned int sets;

	back_off(4);
	sets = guest.timer_sets;
	write_pages(0, ROOM - 1);
	assert_int_equal(vcpu->full_exits, 0);
	assert_int_equal(guest.timer_sets, sets);
	write_pages(ROOM - 1, 2);
	assert_int_equal(vcpu->full_exits, 1);
	assert_int_equal(left(), LEAST);
	assert_int_equal(guest.timer_sets, sets + 1);
	/* Now the interval is the least, and another full exit costs no system call. */
	write_pages(ROOM + 1, ROOM);
	assert_int_equal(vcpu->full_exits, 2);
	assert_int_equal(guest.timer_sets, sets + 1);
	assert_int_equal(wait_and_reap(), LEAST);
}

/* A drain that is no answer to a full exit leaves the timer alone. */
static void a_drain_of_a_ring_that_is_not_full_leaves_the_timer(void **state)
{
	unsigned int sets;

	back_off(4);
	sets = guest.timer_sets;
	write_pages(0, 1);
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(guest.timer_sets, sets);
	assert_int_equal(left(), 16 * LEAST);
}

/*
 * While the reap resets, before it sets the timer: the other vCPU has a full exit, or logging is
 * switched off as far as that needs no lock which the reap holds.
 */
static void (*during_reset)(void);

static bool call_during_reset(struct guest *g, int vm_fd, unsigned long request, void *arg,
			      int *result)
{
	void (*call)(void) = during_reset;

	during_reset = NULL;
	if (request == KVM_RESET_DIRTY_RINGS && call)
		call();
	return false;
}

static void full_exit(void)
{
	model_advance(guest.model, IDLE);
	dli_reaper_full_exit(&guest.log->reaper);
}

static void a_full_exit_during_a_reap_counts(void **state)
{
	back_off(4);
	guest.config.intercept = call_during_reset;
	write_pages(0, 1);
	wait_and_reap();
	back_off(3);
	assert_int_equal(left(), 8 * LEAST);
	during_reset = full_exit;
	assert_int_equal(reap_with(DL_REAP_NOW, 0), LEAST);
	assert_null(during_reset);
	assert_int_equal(wait_and_reap(), 2 * LEAST);
}

static void a_full_exit_without_a_new_entry_counts(void **state)
{
	write_pages(0, 30);
	assert_int_equal(wait_and_reap(), LEAST);
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(wait_and_reap(), LEAST);
	assert_int_equal(wait_and_reap(), 2 * LEAST);
}

static void fill_half(void)
{
	for (uint64_t page = 1000; page < 1000 + DUE; page++)
		assert_int_equal(guest_write(&guest, &guest.vcpus[1], 0, page), 0);
}

static void a_ring_that_fills_during_a_reap_is_due_at_once(void **state)
{
	guest.config.intercept = call_during_reset;
	write_pages(0, DUE);
	during_reset = fill_half;
	assert_int_equal(reap(), 1);
	assert_null(during_reset);
}

/* The part of a stop that does not wait for the rings, as the reap that it comes in has them. */
static void disarm(void)
{
	dli_reaper_disarm(&guest.log->reaper, false);
}

static void a_stop_during_a_reap_leaves_the_descriptor_silent(void **state)
{
	guest.config.intercept = call_during_reset;
	write_pages(0, 1);
	during_reset = disarm;
	assert_int_equal(reap_with(DL_REAP_NOW, 0), UINT64_MAX);
	assert_null(during_reset);
}

static void no_interval_grows_once_a_ring_has_overflowed(void **state)
{
	overflow();
	(void)harvest();
	assert_int_equal(guest_stats(&guest).overflows, 1);
	for (int i = 0; i < 10; i++)
		assert_int_equal(wait_and_reap(), LEAST);
}

static void a_reap_does_not_repair(void **state)
{
	unsigned int regions = guest.regions;

	overflow();
	reap_with(DL_REAP_NOW, 0);
	assert_int_equal(guest_stats(&guest).overflows, 1);
	assert_int_equal(guest.regions, regions);
	assert_int_equal(harvest(), PAGES * 4096);
	assert_int_equal(guest.regions, regions + 2);
}

static void after_an_error_the_interval_grows_and_the_next_reap_retries(void **state)
{
	uint64_t resets;

	write_pages(0, DUE);
	fail_call(KVM_RESET_DIRTY_RINGS, 9, EFAULT);
	resets = guest.resets;
	for (uint64_t ns = 2 * LEAST; ns < IDLE; ns *= 2)
		assert_int_equal(reap_with(0, -EFAULT), ns);
	for (int i = 0; i < 3; i++)
		assert_int_equal(reap_with(0, -EFAULT), IDLE);
	assert_int_equal(guest.resets, resets + 9);
	assert_int_equal(guest_pending(&guest), 0);
	assert_int_equal(wait_and_reap(), IDLE);
	assert_int_equal(guest.resets, resets + 10);
	assert_true(guest_pending(&guest) >= DUE * 4096);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	write_pages(DUE, 1);
	assert_int_equal(wait_and_reap(), LEAST);
	assert_int_equal(guest.resets, resets + 10);
}

static void an_error_after_an_overflow_backs_off_as_well(void **state)
{
	overflow();
	reap_with(DL_REAP_NOW, 0);
	write_pages(0, 1);
	fail_call(KVM_RESET_DIRTY_RINGS, 2, EFAULT);
	assert_int_equal(reap_with(DL_REAP_NOW, -EFAULT), 2 * LEAST);
	assert_int_equal(reap_with(0, -EFAULT), 4 * LEAST);
}

static void a_refused_signal_mask_is_an_error_that_backs_off(void **state)
{
	uint64_t resets = guest.resets;

	write_pages(0, DUE);
	fail_call(MODEL_CALL_SIGMASK, 1, EPERM);
	assert_int_equal(reap_with(0, -EPERM), 2 * LEAST);
	assert_int_equal(guest.resets, resets);
}

static void the_longest_interval_is_the_callers(void **state)
{
	static const uint64_t longest[] = { 1, LEAST / 2, 3 * LEAST, UINT64_MAX };

	for (int i = 0; i < 4; i++) {
		uint64_t before_ns = 0, ns;

		guest_close(&guest);
		open_guest(DL_MODE_RING, ENTRIES, longest[i]);
		start();
		fd = dl_log_fd(guest.log);
		assert_int_equal(left(), longest[i] < LEAST ? longest[i] : LEAST);
		for (int looks = 0; looks < 30; looks++) {
			ns = wait_and_reap();
			assert_true(ns >= before_ns && ns <= longest[i]);
			before_ns = ns;
		}
		assert_true(ns == longest[i] || ns == (uint64_t)LEAST << 30);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		reap_test(an_idle_guest_is_looked_at_ever_less),
		reap_test(an_entry_returns_the_interval_to_the_least),
		reap_test(an_entry_that_a_harvest_took_counts_too),
		reap_test(a_look_before_its_time_does_not_lengthen_the_interval),
		reap_test(a_ring_is_emptied_when_half_full_and_not_before),
		reap_test(every_ring_is_emptied_now_if_the_caller_says_so),
		reap_test(a_ring_that_fills_is_looked_at_before_it_is_half_full),
		reap_test(the_interval_grows_in_spite_of_an_earlier_rate),
		reap_test(a_full_exit_returns_the_interval_to_the_least),
		reap_test(a_drain_of_a_ring_that_is_not_full_leaves_the_timer),
		reap_test(a_full_exit_during_a_reap_counts),
		reap_test(a_full_exit_without_a_new_entry_counts),
		reap_test(a_ring_that_fills_during_a_reap_is_due_at_once),
		reap_test(a_stop_during_a_reap_leaves_the_descriptor_silent),
		reap_test(no_interval_grows_once_a_ring_has_overflowed),
		reap_test(a_reap_does_not_repair),
		reap_test(after_an_error_the_interval_grows_and_the_next_reap_retries),
		reap_test(an_error_after_an_overflow_backs_off_as_well),
		reap_test(a_refused_signal_mask_is_an_error_that_backs_off),
		reap_test(the_longest_interval_is_the_callers),
	};

	return RUN_TESTS("reap", tests);
}
