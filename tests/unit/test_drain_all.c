/* SPDX-License-Identifier: MIT */
/* Harvests skip quiet rings, share the others, unlock them early, and wait for running drains. */
#include "drain_guest.h"
#include "pages/publish.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>

enum { FILLED = 3000, DESYNCED = 3 };

static void a_harvest_resyncs_every_ring(void **state)
{
	for (int i = 0; i < DESYNCED; i++) {
		write_pages(i, 10);
		desync_ring(i);
	}
	harvest();
	assert_int_equal(pending_pages(), 10 * DESYNCED);
}

/* A harvest decides by ring_is_quiet() alone whether it skips a ring. */
static void a_locked_or_desynced_ring_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	dli_ring_lock(ring_of(0));
	assert_false(ring_is_quiet(head));
	dli_ring_unlock(ring_of(0));
	assert_true(ring_is_quiet(head));
	assert_true(dli_ring_trylock(ring_of(0)));
	assert_false(ring_is_quiet(head));
	dli_ring_unlock(ring_of(0));
	desync_ring(0);
	assert_false(ring_is_quiet(head));
}

static void expect_not_quiet(void)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;

	assert_false(ring_is_quiet(&vcpu->group->heads[vcpu->index]));
}

/* Entries in transit to the page sets have left the ring already. */
static void a_ring_being_drained_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	assert_true(ring_is_quiet(head));
	write_pages(0, 10);
	assert_false(ring_is_quiet(head));
	after_reset = expect_not_quiet;
	assert_int_equal(dl_vcpu_drain(vcpu, 0), 0);
	assert_null(after_reset);
	/* The next harvest has to count the drain's entries. */
	assert_false(ring_is_quiet(head));
	harvest();
	assert_true(ring_is_quiet(head));
}

/* As above, with a harvest as the drain: another harvest must not skip the ring. */
static void a_ring_being_harvested_is_not_quiet(void **state)
{
	harvest();
	write_pages(0, 10);
	after_reset = expect_not_quiet;
	harvest();
	assert_null(after_reset);
	assert_int_equal(pending_pages(), 10);
}

/* A failed reset leaves released cells, and pages that are not published yet. */
static void a_ring_with_unpublished_pages_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	write_pages(0, 10);
	reset_error = -EIO;
	assert_int_equal(guest_harvest(&guest, 0), -EIO);
	assert_false(ring_is_quiet(head));
	harvest();
	assert_true(ring_is_quiet(head));
	assert_true(pending_pages() >= 10);
}

/* Two threads harvest at the same time for two cursors. */
static struct dl_cursor *second_cursor;

static void *harvest_thread(void *unused)
{
	int r = dl_harvest(second_cursor, 0, NULL);

	(void)dl_cursor_end(second_cursor, 0);
	return (void *)(intptr_t)r;
}

static pthread_t second;

static void begin_second(void)
{
	assert_int_equal(pthread_create(&second, NULL, harvest_thread, NULL), 0);
}

static void expect_second_returns(void)
{
	void *r;

	assert_int_equal(pthread_join(second, &r), 0);
	assert_int_equal((intptr_t)r, 0);
	dl_cursor_free(second_cursor);
}

static void second_joins(void)
{
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &second_cursor), 0);
}

/* Their locks are held, so a harvest that waited for one would never return. */
static void quiet_rings_are_skipped(void **state)
{
	second_joins();
	harvest();
	for (int i = 1; i < GUEST_VCPUS; i++)
		pthread_mutex_lock(&ring_of(i)->lock);
	write_pages(0, 5);
	begin_second();
	assert_int_equal(pthread_join(second, NULL), 0);
	for (int i = 1; i < GUEST_VCPUS; i++)
		pthread_mutex_unlock(&ring_of(i)->lock);
	dl_cursor_free(second_cursor);
	assert_int_equal(pending_pages(), 5);
}

/* A dirty cell after a clean one means a loss only in the final pass. */
static void the_final_pass_searches_quiet_rings(void **state)
{
	struct dli_ring *ring = ring_of(2);

	harvest();
	cell_change(cell_at(ring, ring->head + 5), CELL_CLEAN, CELL_DIRTY);
	harvest();
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

/* Rings that are unlocked during the second reset of a harvest. */
static unsigned int free_rings;

static void count_free_rings(void)
{
	for (int i = 0; i < GUEST_VCPUS; i++) {
		if (pthread_mutex_trylock(&ring_of(i)->lock))
			continue;
		pthread_mutex_unlock(&ring_of(i)->lock);
		free_rings++;
	}
}

static void count_in_next_reset(void)
{
	before_reset = count_free_rings;
}

static void a_harvest_unlocks_rings_that_it_has_reset(void **state)
{
	uint64_t resets = guest_stats(&guest).resets;

	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	free_rings = 0;
	before_reset = count_in_next_reset;
	harvest();
	/* Three rings fill one reset. */
	assert_int_equal(guest_stats(&guest).resets, resets + 3);
	assert_int_equal(free_rings, GUEST_VCPUS - 3);
	assert_int_equal(pending_pages(), FILLED * GUEST_VCPUS);
}

static void fail_with_another_error(void)
{
	reset_error = -ENXIO;
}

static void fail_the_next_reset_too(void)
{
	before_reset = fail_with_another_error;
}

/* The later ones may only be its consequences. */
static void a_harvest_returns_its_first_error(void **state)
{
	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	reset_error = -EIO;
	before_reset = fail_the_next_reset_too;
	assert_int_equal(guest_harvest(&guest, 0), -EIO);
	assert_null(before_reset);
	assert_int_equal(reset_error, 0);
	harvest();
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

static void the_first_failed_resync_is_the_one_that_is_returned(void **state)
{
	for (int i = 0; i < DESYNCED; i++) {
		write_pages(i, 10);
		desync_ring(i);
	}
	reset_error = -EIO;
	before_reset = fail_the_next_reset_too;
	assert_int_equal(guest_harvest(&guest, 0), -EIO);
	assert_null(before_reset);
	assert_int_equal(reset_error, 0);
	harvest();
	assert_int_equal(pending_pages(), 10 * DESYNCED);
}

static uint64_t resets_of_a_harvest(void)
{
	uint64_t resets = guest_stats(&guest).resets;

	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	harvest();
	return guest_stats(&guest).resets - resets;
}

/* A vCPU that had a full exit may have another: smaller resets limit its wait. */
static void a_harvest_resets_fewer_rings_at_once_after_a_full_exit(void **state)
{
	harvest();
	ring_of(0)->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
	assert_int_equal(dl_vcpu_drain(guest.vcpus[0].handle, 0), 0);
	assert_int_equal(resets_of_a_harvest(), GUEST_VCPUS / 2);
	assert_int_equal(resets_of_a_harvest(), 3);
	assert_int_equal(dl_vcpu_drain(guest.vcpus[0].handle, 0), 0);
	assert_int_equal(resets_of_a_harvest(), 3);
}

static void begin_second_harvest(void)
{
	begin_second();
	/* It has collected the rings that the first harvest has not, and waits for their reset. */
	wait_for_requests(1);
}

static void two_harvests_share_the_rings(void **state)
{
	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	second_joins();
	before_reset = begin_second_harvest;
	harvest();
	expect_second_returns();
	assert_int_equal(pending_pages(), FILLED * GUEST_VCPUS);
	assert_int_equal(guest_stats(&guest).entries, FILLED * GUEST_VCPUS);
}

static atomic_bool published;

static void *harvest_and_read_published(void *unused)
{
	assert_int_equal(guest_harvest(&guest, 0), 0);
	return (void *)(intptr_t)atomic_load(&published);
}

/* A drain without its last step. */
static void begin_drain(struct dli_ring *ring)
{
	/* Block on no ring lock while holding another. */
	assert_true(dli_ring_trylock(ring));
	dli_ring_copy(ring);
	assert_int_equal(dli_reset_begin(reset()), 0);
	assert_true(dli_ring_release(ring, reset()));
	assert_true(dli_reset_rings(reset()) > 0);
	assert_true(dli_ring_verify(ring, reset(), false));
	dli_reset_end(reset());
}

static void end_drain(struct dli_ring *ring)
{
	dli_ring_publish(ring, &guest.log->slots);
	dli_ring_unlock(ring);
}

/* The entries in transit were in the rings when the harvest began, so it waits for them. */
static void expect_wait_for(int vcpu, int other)
{
	void *late;

	harvest();
	write_pages(vcpu, 10);
	write_pages(other, 10);
	write_pages(1, 20);
	atomic_store(&published, false);
	begin_drain(ring_of(vcpu));
	begin_drain(ring_of(other));
	assert_int_equal(pthread_create(&second, NULL, harvest_and_read_published, NULL), 0);
	/* It drains the free ring first. A harvest that did not wait would return now. */
	while (atomic_load(&dli_ring_stats(ring_of(1))->new_pages) < 20)
		sched_yield();
	end_drain(ring_of(vcpu));
	for (int i = 0; i < 1000; i++)
		sched_yield();
	atomic_store(&published, true);
	end_drain(ring_of(other));
	assert_int_equal(pthread_join(second, &late), 0);
	assert_non_null(late);
	assert_int_equal(pending_pages(), 40);
}

static void a_harvest_waits_for_drains(void **state)
{
	expect_wait_for(0, GUEST_VCPUS - 1);
}

static void a_harvest_waits_for_drains_of_any_ring(void **state)
{
	expect_wait_for(3, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		drain_test(a_harvest_resyncs_every_ring),
		drain_test(a_locked_or_desynced_ring_is_not_quiet),
		drain_test(a_ring_being_drained_is_not_quiet),
		drain_test(a_ring_being_harvested_is_not_quiet),
		drain_test(a_ring_with_unpublished_pages_is_not_quiet),
		drain_test(quiet_rings_are_skipped),
		drain_test(the_final_pass_searches_quiet_rings),
		drain_test(a_harvest_unlocks_rings_that_it_has_reset),
		drain_test(a_harvest_returns_its_first_error),
		drain_test(the_first_failed_resync_is_the_one_that_is_returned),
		drain_test(a_harvest_resets_fewer_rings_at_once_after_a_full_exit),
		drain_test(two_harvests_share_the_rings),
		drain_test(a_harvest_waits_for_drains),
		drain_test(a_harvest_waits_for_drains_of_any_ring),
	};

	return RUN_TESTS("drain_all", tests);
}
