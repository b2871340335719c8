/* SPDX-License-Identifier: MIT */
/* dl_log_fd(): when the descriptor is silent, and how long it lives. Errors of both calls. */
#include "reap_guest.h"

#include "log.h"

#include <errno.h>
#include <sys/ioctl.h>

static unsigned long system_calls(void)
{
	return guest.timer_sets + model_calls(guest.model, MODEL_CALL_SIGMASK) +
	       model_calls(guest.model, KVM_RESET_DIRTY_RINGS) +
	       model_calls(guest.model, MODEL_CALL_TIMER);
}

static void a_timer_that_cannot_be_set_is_an_error(void **state)
{
	uint64_t again_ns = 0;

	back_off(1);
	fail_call(MODEL_CALL_TIMER_SET, 1, EPERM);
	assert_int_equal(dl_log_reap(guest.log, 0, &again_ns), -EPERM);
	assert_int_equal(again_ns, 2 * LEAST);
	assert_int_equal(reap(), 2 * LEAST);
}

static void while_nothing_is_logged_nothing_happens(void **state)
{
	unsigned long calls;

	model_advance(guest.model, LEAST);
	assert_int_equal(left(), 0);
	stop();
	assert_int_equal(left(), UINT64_MAX);
	calls = system_calls();
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(system_calls(), calls);
	/* A log that is off already is not disarmed once more. */
	stop();
	assert_int_equal(guest.timer_sets, 2);
}

/* Logging ends while a vCPU is to be kicked. */
static void stop_with_a_kick(void)
{
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	write_pages(0, 20);
	model_advance(guest.model, 5 * MILLISECOND);
	reap();
	stop();
	assert_true(left() <= 1);
}

static void the_last_kicks_are_announced(void **state)
{
	uint64_t cookie;
	unsigned long calls;

	stop_with_a_kick();
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
	calls = system_calls();
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(system_calls(), calls);
}

static void an_announcement_ends_with_a_look_at_every_ring(void **state)
{
	stop_with_a_kick();
	assert_int_equal(reap_with(DL_REAP_NOW, 0), UINT64_MAX);
}

static void an_announcement_does_not_delay_the_next_look(void **state)
{
	stop_with_a_kick();
	start();
	assert_int_equal(left(), LEAST);
	reap();
	assert_int_not_equal(left(), UINT64_MAX);
}

/* Its thread is asking for a pause while the limit is lifted, so nobody can kick it yet. */
static void a_vcpu_that_asks_at_the_end_is_kicked(void **state)
{
	struct dli_limit *limit = &vcpu->handle->limit;
	uint64_t pause_ns, cookie;

	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	write_pages(0, 20);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
	assert_int_equal(dl_vcpu_pause_due(vcpu->handle, &pause_ns), 0);
	assert_true(pause_ns > 0);
	assert_true(dli_limit_try(limit));
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 0), 0);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 0);
	stop();
	dli_limit_leave(limit);
	assert_true(left() <= 1);
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(dl_log_kicks(guest.log, &cookie, 1), 1);
}

/* A loop that still polls it would spin: dl_log_reap() is -ECANCELED. */
static void a_closed_log_announces_nothing(void **state)
{
	stop_with_a_kick();
	dl_log_close(guest.log);
	assert_int_equal(left(), UINT64_MAX);
	guest.log = NULL;
}

static void a_cursor_that_is_closed_announces_nothing(void **state)
{
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	write_pages(0, 20);
	model_advance(guest.model, 5 * MILLISECOND);
	reap();
	dl_log_close(guest.log);
	assert_int_equal(left(), UINT64_MAX);
	guest.log = NULL;
}

/* KVM fills the rings if somebody else has set a slot's flag. */
static void what_is_emptied_while_nothing_is_logged_is_not_recorded(void **state)
{
	struct kvm_userspace_memory_region region = {
		.flags = KVM_MEM_LOG_DIRTY_PAGES,
		.memory_size = PAGES * 4096,
		.userspace_addr = (uintptr_t)guest.blocks[0].memory,
	};
	uint64_t resets;

	stop();
	assert_int_equal(guest.os.ioctl(&guest, guest.vm_fd, KVM_SET_USER_MEMORY_REGION, &region),
			 0);
	write_pages(0, 20);
	resets = guest.resets;
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(guest.resets, resets);
	assert_int_equal(reap_with(DL_REAP_NOW, 0), UINT64_MAX);
	assert_int_equal(guest.resets, resets + 1);
	assert_int_equal(guest_stats(&guest).entries, 20);
	assert_int_equal(guest_stats(&guest).new_pages, 0);
	assert_int_equal(left(), UINT64_MAX);
}

static void a_start_arms_with_the_least_interval(void **state)
{
	back_off(5);
	stop();
	model_advance(guest.model, 10 * IDLE);
	start();
	assert_int_equal(left(), LEAST);
	/* The time before the start is no quiet interval. */
	assert_int_equal(reap(), LEAST);
	assert_int_equal(wait_and_reap(), 2 * LEAST);
}

static void a_start_forgets_what_was_before(void **state)
{
	uint64_t resets;

	back_off(3);
	dli_reaper_full_exit(&guest.log->reaper);
	stop();
	start();
	assert_int_equal(wait_and_reap(), 2 * LEAST);
	write_pages(0, DUE);
	fail_call(KVM_RESET_DIRTY_RINGS, 1, EFAULT);
	assert_int_equal(reap_with(0, -EFAULT), 4 * LEAST);
	stop();
	start();
	write_pages(0, 1);
	resets = guest.resets;
	assert_int_equal(wait_and_reap(), LEAST);
	assert_int_equal(guest.resets, resets);
}

static void a_start_that_failed_leaves_the_descriptor_silent(void **state)
{
	stop();
	guest_fail_region(&guest, 0, 0, 1);
	assert_int_equal(guest_try_join(&guest, 0), -ENOMEM);
	assert_int_equal(left(), UINT64_MAX);
	assert_int_equal(reap(), UINT64_MAX);
}

static void in_bitmap_mode_the_descriptor_is_silent(void **state)
{
	unsigned long calls;

	guest_close(&guest);
	open_guest(DL_MODE_BITMAP, 0, 1);
	fd = dl_log_fd(guest.log);
	assert_true(fd >= 0);
	start();
	write_pages(0, 20);
	calls = system_calls();
	assert_int_equal(reap(), UINT64_MAX);
	assert_int_equal(reap_with(DL_REAP_NOW, 0), UINT64_MAX);
	assert_int_equal(system_calls(), calls);
	stop();
}

static void the_descriptor_lives_as_long_as_a_handle(void **state)
{
	uint64_t again_ns = 5;
	struct dl_log *log = guest.log;

	assert_int_equal(dl_log_fd(log), fd);
	assert_int_equal(model_calls(guest.model, MODEL_CALL_TIMER), 1);
	guest_leave(&guest);
	dl_log_close(log);
	/* The vCPUs' handles keep the log. */
	assert_int_equal(dl_log_fd(log), -ECANCELED);
	assert_int_equal(dl_log_reap(log, 0, &again_ns), -ECANCELED);
	assert_int_equal(dl_log_reap(log, DL_REAP_NOW, &again_ns), -ECANCELED);
	assert_int_equal(again_ns, 5);
	assert_true(model_is_timer(guest.model, fd));
	assert_int_equal(left(), UINT64_MAX);
	/* A full exit of a closed log does not wake anybody. */
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(left(), UINT64_MAX);
	for (unsigned int i = 0; i < 2; i++)
		dl_vcpu_remove(guest.vcpus[i].handle);
	assert_false(model_is_timer(guest.model, fd));
	guest.vcpu_count = 0;
	guest.log = NULL;
}

static void a_log_needs_no_descriptor(void **state)
{
	uint64_t again_ns;

	guest_close(&guest);
	open_guest(DL_MODE_RING, ENTRIES, 0);
	start();
	for (uint64_t ns = 2 * LEAST; ns < IDLE; ns *= 2) {
		model_advance(guest.model, ns / 2);
		assert_int_equal(dl_log_reap(guest.log, 0, &again_ns), 0);
		assert_int_equal(again_ns, ns);
	}
	assert_int_equal(dl_log_reap(guest.log, 0, NULL), 0);
	assert_int_equal(guest.timer_sets, 0);
	/* A late descriptor is set to the interval of that moment. */
	fd = dl_log_fd(guest.log);
	assert_int_equal(left(), 64 * LEAST);
}

static void a_descriptor_may_be_refused(void **state)
{
	guest_close(&guest);
	open_guest(DL_MODE_RING, ENTRIES, 0);
	fail_call(MODEL_CALL_TIMER, 1, EMFILE);
	assert_int_equal(dl_log_fd(guest.log), -EMFILE);
	fail_call(MODEL_CALL_TIMER_SET, 1, EPERM);
	assert_int_equal(dl_log_fd(guest.log), -EPERM);
	/* The first timer was closed, so its number is free. */
	assert_false(model_is_timer(guest.model, fd));
	assert_int_equal(dl_log_fd(guest.log), fd);
	assert_int_equal(left(), UINT64_MAX);
	guest_close(&guest);
	open_guest(DL_MODE_RING, ENTRIES, 0);
	guest.os.timer = NULL;
	assert_int_equal(dl_log_fd(guest.log), -EOPNOTSUPP);
	start();
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
}

static uint64_t (*now_below)(void *opaque);
static unsigned int looks_at_clock, limited_at;

/* Another thread sets a limit at some moment of a reap, outside the reaper's lock. */
static uint64_t limit_now(void *opaque)
{
	pthread_mutex_t *lock = &guest.log->reaper.lock;
	unsigned int look = ++looks_at_clock;

	if (look == limited_at && !pthread_mutex_trylock(lock)) {
		pthread_mutex_unlock(lock);
		limited_at = 0;
		assert_int_equal(dl_vcpu_limit(vcpu->handle, 1 << 20), 0);
	}
	return now_below(opaque);
}

static void a_limit_that_comes_during_a_look_is_not_forgotten(void **state)
{
	unsigned int limited = 0;

	now_below = guest.os.now_ns;
	back_off(20);
	for (unsigned int moment = 1; moment < 20; moment++) {
		looks_at_clock = 0;
		limited_at = moment;
		guest.os.now_ns = limit_now;
		assert_int_equal(dl_log_reap(guest.log, 0, NULL), 0);
		guest.os.now_ns = now_below;
		if (!limited_at) {
			assert_true(left() <= 5 * MILLISECOND);
			limited++;
		}
		limited_at = 0;
		assert_int_equal(dl_vcpu_limit(vcpu->handle, 0), 0);
		back_off(20);
	}
	assert_true(limited > 1);
}

static void wrong_arguments_are_refused(void **state)
{
	uint64_t again_ns = 5;

	assert_int_equal(dl_log_fd(NULL), -EINVAL);
	assert_int_equal(dl_log_reap(NULL, 0, &again_ns), -EINVAL);
	assert_int_equal(dl_log_reap(guest.log, 1, &again_ns), -EINVAL);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW | 4, &again_ns), -EINVAL);
	assert_int_equal(again_ns, 5);
	assert_int_equal(left(), LEAST);
}

/* Another guest, whose descriptor nobody has asked for. */
static void reopen(uint32_t entries)
{
	stop();
	guest_close(&guest);
	open_guest(DL_MODE_RING, entries, 0);
}

/* Until the rings are looked at as seldom as may be. */
static void look_until_idle(void)
{
	uint64_t again_ns;

	for (int i = 0; i < 60; i++) {
		assert_int_equal(dl_log_reap(guest.log, 0, &again_ns), 0);
		model_advance(guest.model, again_ns);
	}
}

/* A ring this large is looked at every 33 ms without a limit. */
static void a_limit_from_before_the_first_cursor_is_looked_after(void **state)
{
	reopen(65536);
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	start();
	fd = dl_log_fd(guest.log);
	assert_true(left() <= 5 * MILLISECOND);
}

static void a_new_descriptor_knows_of_limits(void **state)
{
	reopen(256);
	start();
	look_until_idle();
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	fd = dl_log_fd(guest.log);
	assert_true(left() <= 5 * MILLISECOND);
}

static void a_full_exit_does_not_put_off_a_look(void **state)
{
	reopen(16384);
	guest_add_slot(&guest, 1, 10000, 17000);
	start();
	fd = dl_log_fd(guest.log);
	assert_int_equal(dl_vcpu_limit(vcpu->handle, 4096), 0);
	look_until_idle();
	assert_int_equal(left(), 0);
	for (uint64_t page = 10000; !vcpu->full_exits; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
	assert_int_equal(left(), 0);
}

/* A moment that wraps would be taken for one that has passed, and the timer not be set. */
static void the_longest_interval_is_no_moment_of_the_past(void **state)
{
	teardown(NULL);
	open_guest(DL_MODE_RING, 256, UINT64_MAX);
	start();
	fd = dl_log_fd(guest.log);
	fail_call(KVM_RESET_DIRTY_RINGS, 0, EIO);
	write_pages(0, 1);
	for (int i = 0; i < 70; i++)
		(void)reap_with(DL_REAP_NOW, -EIO);
	assert_true(left() > UINT64_C(1000) * IDLE && left() <= UINT64_MAX / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		reap_test(a_timer_that_cannot_be_set_is_an_error),
		reap_test(while_nothing_is_logged_nothing_happens),
		reap_test(the_last_kicks_are_announced),
		reap_test(an_announcement_ends_with_a_look_at_every_ring),
		reap_test(an_announcement_does_not_delay_the_next_look),
		reap_test(a_vcpu_that_asks_at_the_end_is_kicked),
		reap_test(a_closed_log_announces_nothing),
		reap_test(a_cursor_that_is_closed_announces_nothing),
		reap_test(what_is_emptied_while_nothing_is_logged_is_not_recorded),
		reap_test(a_start_arms_with_the_least_interval),
		reap_test(a_start_forgets_what_was_before),
		reap_test(a_start_that_failed_leaves_the_descriptor_silent),
		reap_test(in_bitmap_mode_the_descriptor_is_silent),
		reap_test(the_descriptor_lives_as_long_as_a_handle),
		reap_test(a_log_needs_no_descriptor),
		reap_test(a_descriptor_may_be_refused),
		reap_test(a_limit_that_comes_during_a_look_is_not_forgotten),
		reap_test(a_limit_from_before_the_first_cursor_is_looked_after),
		reap_test(a_new_descriptor_knows_of_limits),
		reap_test(a_full_exit_does_not_put_off_a_look),
		reap_test(the_longest_interval_is_no_moment_of_the_past),
		reap_test(wrong_arguments_are_refused),
	};

	return RUN_TESTS("reap_fd", tests);
}
