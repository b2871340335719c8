/* SPDX-License-Identifier: MIT */
/* Concurrent drains of single rings share a reset, its order of steps, and its failure. */
#include "drain_guest.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <pthread.h>

enum { DRAINS = 3 };

static void *drain_thread(void *vcpu)
{
	return (void *)(intptr_t)dl_vcpu_drain(vcpu, 0);
}

static void drain_concurrently(pthread_t *threads)
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

static void concurrent_drains_share_a_reset(void **state)
{
	uint64_t resets = guest_stats(&guest).resets;
	pthread_t threads[DRAINS];

	drain_concurrently(threads);
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

/* Two vCPUs drain at once, first queues first. Looks at the watched cell before the reset. */
static void drain_two_concurrently(int first)
{
	const int order[] = { first, !first };
	pthread_t threads[2];

	assert_int_equal(dli_reset_begin(reset()), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct dl_vcpu *vcpu = guest.vcpus[order[i]].handle;

		assert_int_equal(pthread_create(&threads[i], NULL, drain_thread, vcpu), 0);
		wait_for_requests(i + 1);
	}
	before_reset = look_at_cell;
	dli_reset_end(reset());
	for (int i = 0; i < 2; i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_null(r);
	}
}

/* A resync's reset may be cut short, and what it then leaves or drops of others goes unnoticed. */
static void rings_are_resynced_before_any_cell_is_released(void **state)
{
	for (int first = 0; first < 2; first++) {
		write_pages(0, 10);
		write_pages(1, 10);
		desync_ring(0);
		watched = cell_at(ring_of(1), ring_of(1)->head);
		was_released = false;
		drain_two_concurrently(first);
		assert_null(before_reset);
		assert_false(was_released);
		assert_int_equal(guest_stats(&guest).entries, 20 * (first + 1));
	}
}

static void a_failed_shared_reset_fails_every_drain(void **state)
{
	pthread_t threads[DRAINS];

	reset_error = -EIO;
	drain_concurrently(threads);
	expect_all_return(threads, -EIO);
	/* The harvest retries, and repairs what the failed reset may have dropped. */
	harvest();
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

static void a_drain_of_an_empty_ring_ignores_a_failed_reset(void **state)
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
		drain_test(concurrent_drains_share_a_reset),
		drain_test(rings_are_resynced_before_any_cell_is_released),
		drain_test(a_failed_shared_reset_fails_every_drain),
		drain_test(a_drain_of_an_empty_ring_ignores_a_failed_reset),
	};

	return RUN_TESTS("drain", tests);
}
