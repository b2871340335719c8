/* SPDX-License-Identifier: MIT */
/* Drains that meet, each of one ring: what they share, in which order, who is told of a failure. */
#include "drain_guest.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <pthread.h>

enum { DRAINS = 3 };

static void *drain_thread(void *vcpu)
{
	return (void *)(intptr_t)dl_vcpu_drain(vcpu);
}

static void let_drains_meet(pthread_t *threads)
{
	assert_int_equal(dli_reset_begin(reset()), 0);
	for (int i = 0; i < DRAINS; i++) {
		write_pages(i, 10);
		assert_int_equal(
			pthread_create(&threads[i], NULL, drain_thread, guest.vcpus[i].handle), 0);
	}
	wait_for_requests(DRAINS);
	dli_reset_end(reset());
}

static void expect_all_return(pthread_t *threads, int result)
{
	void *r;

	for (int i = 0; i < DRAINS; i++) {
		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_int_equal((intptr_t)r, result);
	}
}

static void drains_that_meet_share_a_reset(void **state)
{
	uint64_t resets = guest_stats(&guest).resets;
	pthread_t threads[DRAINS];

	let_drains_meet(threads);
	expect_all_return(threads, 0);
	assert_int_equal(guest_stats(&guest).resets, resets + 1);
	assert_int_equal(pending_pages(), 10 * DRAINS);
}

static struct kvm_dirty_gfn *watched;
static bool was_released;

static void look_at_cell(void)
{
	was_released = cell_load(watched) == CELL_RESET;
}

/* The drains of two vCPUs, of which first comes first. The next reset is watched. */
static void let_two_meet(int first)
{
	const int order[] = { first, !first };
	pthread_t threads[2];

	assert_int_equal(dli_reset_begin(reset()), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct dl_vcpu *vcpu = guest.vcpus[order[i]].handle;

		assert_int_equal(pthread_create(&threads[i], NULL, drain_thread, vcpu), 0);
		wait_for_requests(i + 1);
	}
	in_reset = look_at_cell;
	dli_reset_end(reset());
	for (int i = 0; i < 2; i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_null(r);
	}
}

/*
 * A reset for that may be cut short, and nobody looks then what it has left or dropped of others.
 */
static void parties_get_into_step_before_any_is_released(void **state)
{
	for (int first = 0; first < 2; first++) {
		write_pages(0, 10);
		write_pages(1, 10);
		desync_ring(0);
		watched = cell_at(ring_of(1), ring_of(1)->head);
		was_released = false;
		let_two_meet(first);
		assert_null(in_reset);
		assert_false(was_released);
		assert_int_equal(guest_stats(&guest).entries, 20 * (first + 1));
	}
}

static void a_shared_failure_is_everybodys(void **state)
{
	pthread_t threads[DRAINS];

	reset_error = -EIO;
	let_drains_meet(threads);
	expect_all_return(threads, -EIO);
	/* The harvest takes it up again, and repairs for what the failed one may have dropped. */
	harvest();
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

static void one_with_nothing_is_not_told_of_a_failure(void **state)
{
	pthread_t threads[2];
	void *r;

	reset_error = -EIO;
	assert_int_equal(dli_reset_begin(reset()), 0);
	write_pages(0, 10);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, drain_thread, guest.vcpus[i].handle), 0);
	wait_for_requests(2);
	dli_reset_end(reset());
	assert_int_equal(pthread_join(threads[0], &r), 0);
	assert_int_equal((intptr_t)r, -EIO);
	assert_int_equal(pthread_join(threads[1], &r), 0);
	assert_int_equal((intptr_t)r, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		drain_test(drains_that_meet_share_a_reset),
		drain_test(parties_get_into_step_before_any_is_released),
		drain_test(a_shared_failure_is_everybodys),
		drain_test(one_with_nothing_is_not_told_of_a_failure),
	};

	return RUN_TESTS("drain", tests);
}
