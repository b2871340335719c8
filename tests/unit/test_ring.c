/* SPDX-License-Identifier: MIT */
/* One ring, its cells written by hand: what is read, what is written, and when it is told. */
#include "one_ring.h"
#include "random.h"

#include <errno.h>
#include <string.h>

#define ring_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void an_empty_ring_costs_no_ioctl(void **state)
{
	assert_int_equal(drain(), 0);
	assert_int_equal(kernel.resets, 0);
	assert_int_equal(sunk.calls, 0);
}

static void entries_arrive_in_order_and_once(void **state)
{
	push(100);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 100);
	assert_int_equal(kernel.resets, 1);
	assert_int_equal(side->reset_index, 100);
	assert_int_equal(drain(), 0);
	assert_int_equal(sunk.n, 100);
	push(190);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 290);
	assert_int_equal(side->reset_index, side->dirty_index);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void entries_are_told_only_after_the_reset(void **state)
{
	push(3);
	assert_int_equal(drain(), 0);
	assert_int_equal(sunk.calls, 1);
	assert_int_equal(sunk.resets_before, 1);
}

/* KVM looks at RESET only, so a cell that says both would be handed back twice. */
static void only_dirty_alone_is_dirty(void **state)
{
	static const uint32_t others[] = { 0, 2, 3, 4, 5, 0x80000001, 0x101, UINT32_MAX };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		side->cells[0] = (struct kvm_dirty_gfn){ others[i], 1, 2 };
		side->cells[1] = (struct kvm_dirty_gfn){ CELL_DIRTY, 3, 4 };
		dli_ring_lock(ring);
		dli_ring_copy(ring);
		assert_int_equal(ring->copied, 0);
		assert_false(dli_ring_release(ring, &reset_lock));
		dli_ring_unlock(ring);
		assert_int_equal(side->cells[0].flags, others[i]);
		assert_int_equal(side->cells[1].flags, CELL_DIRTY);
	}
	side->cells[0].flags = CELL_DIRTY;
	dli_ring_copy(ring);
	assert_int_equal(ring->copied, 2);
}

static void slot_and_offset_are_never_written(void **state)
{
	struct random random = { .state = 5 };
	struct kvm_dirty_gfn before[ENTRIES];

	for (int round = 0; round < 20; round++) {
		for (uint64_t n = random_below(&random, SOFT_LIMIT); n; n--)
			fake_ring_push(&kernel, side, (uint32_t)random_next(&random),
				       random_next(&random));
		memcpy(before, side->cells, sizeof(before));
		assert_int_equal(drain(), 0);
		for (uint32_t i = 0; i < ENTRIES; i++) {
			assert_int_equal(side->cells[i].slot, before[i].slot);
			assert_int_equal(side->cells[i].offset, before[i].offset);
		}
	}
}

static void push_more_at_the_end(struct fake_rings *rings, bool ends)
{
	if (ends)
		push(7);
	else
		push(3);
}

static void nothing_is_released_that_was_not_read(void **state)
{
	push(10);
	kernel.on_reset = push_more_at_the_end;
	assert_int_equal(drain(), 0);
	kernel.on_reset = NULL;
	expect_sunk(0, 10);
	assert_int_equal(side->reset_index, 10);
	for (uint32_t i = 10; i < 20; i++)
		assert_int_equal(side->cells[i].flags, CELL_DIRTY);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 20);
	assert_false(kernel.overshot);
}

static void indices_wrap(void **state)
{
	/* The first cell, nearly 2^32 entries later. */
	ring->head = side->dirty_index = side->reset_index = UINT32_MAX - 2 * ENTRIES + 1;
	for (int i = 0; i < 10; i++) {
		push(100);
		assert_int_equal(drain(), 0);
	}
	expect_sunk(0, 1000);
	assert_true(side->dirty_index < 1000);
	assert_int_equal(ring->head, side->dirty_index);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void what_a_failed_reset_left_is_told_later_and_once(void **state)
{
	push(50);
	kernel.reset_errors = 2;
	kernel.reset_error = -EIO;
	assert_int_equal(drain(), -EIO);
	assert_int_equal(sunk.n, 0);
	push(40);
	assert_int_equal(drain(), -EIO);
	assert_int_equal(sunk.n, 0);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 90);
	assert_int_equal(side->reset_index, 90);
	/*
	 * Another ring's drain may have had these taken back meanwhile, and not all of them well.
	 */
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_int_equal(drain(), 0);
	assert_int_equal(sunk.n, 90);
}

/* The vCPU goes on as far as it can while no reset succeeds: room for the whole ring is enough. */
static void failed_resets_never_lose_room(void **state)
{
	kernel.reset_errors = 20;
	kernel.reset_error = -EIO;
	for (int i = 0; i < 20; i++) {
		if (side->dirty_index - side->reset_index < SOFT_LIMIT)
			push(11);
		assert_int_equal(drain(), -EIO);
	}
	assert_int_equal(drain(), 0);
	expect_sunk(0, (uint32_t)side->pushed);
	assert_int_equal(side->reset_index, side->dirty_index);
}

static void statistics_count(void **state)
{
	push(100);
	assert_int_equal(drain(), 0);
	push(30);
	assert_int_equal(drain(), 0);
	assert_int_equal(stats()->entries, 130);
	assert_int_equal(stats()->new_pages, 128);
	assert_int_equal(stats()->stale, 2);
	assert_int_equal(stats()->resets, 2);
	assert_int_equal(stats()->high_water_entries, 100);
	assert_int_equal(stats()->full_exits, 0);
	assert_int_equal(dli_ring_take_recent(ring), 130);
	assert_int_equal(dli_ring_take_recent(ring), 0);
	push(SOFT_LIMIT);
	assert_false(fake_ring_enter(&kernel, side));
	assert_int_equal(drain(), 0);
	assert_int_equal(stats()->full_exits, 1);
	assert_true(fake_ring_enter(&kernel, side));
	assert_int_equal(dli_ring_take_recent(ring), SOFT_LIMIT);
}

/* A vCPU may be asked to drain as often as one likes; that is no overflow. */
static void a_drain_too_many_is_harmless(void **state)
{
	uint32_t total = 0;

	for (int i = 0; i < 30; i++) {
		push(SOFT_LIMIT);
		total += SOFT_LIMIT;
		assert_false(fake_ring_enter(&kernel, side));
		for (int n = 0; n <= i % 5; n++)
			assert_int_equal(drain(), 0);
		assert_true(fake_ring_enter(&kernel, side));
		expect_sunk(0, total);
	}
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* Another thread empties the ring just before its vCPU, which came out for that, asks for it. */
static void a_harvest_before_the_drain_is_harmless(void **state)
{
	for (int i = 0; i < 30; i++) {
		push(SOFT_LIMIT);
		assert_false(fake_ring_enter(&kernel, side));
		dli_ring_lock(ring);
		dli_ring_copy(ring);
		assert_int_equal(dli_reset_begin(&reset_lock), 0);
		assert_true(dli_ring_release(ring, &reset_lock));
		assert_int_equal(dli_reset_rings(&reset_lock), SOFT_LIMIT);
		assert_true(dli_ring_verify(ring, &reset_lock, false));
		dli_reset_end(&reset_lock);
		dli_ring_publish(ring, NULL);
		dli_ring_unlock(ring);
		for (int n = 0; n < i % 4; n++)
			assert_int_equal(drain(), 0);
		assert_true(fake_ring_enter(&kernel, side));
	}
	expect_sunk(0, 30 * SOFT_LIMIT);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void after_close_nothing_is_asked_of_the_kernel(void **state)
{
	unsigned int before;

	push(10);
	dli_reset_close(&reset_lock, false);
	before = kernel.fake.ioctls;
	assert_int_equal(drain(), -ECANCELED);
	assert_int_equal(kernel.fake.ioctls, before);
	assert_int_equal(sunk.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(an_empty_ring_costs_no_ioctl),
		ring_test(entries_arrive_in_order_and_once),
		ring_test(entries_are_told_only_after_the_reset),
		ring_test(only_dirty_alone_is_dirty),
		ring_test(slot_and_offset_are_never_written),
		ring_test(nothing_is_released_that_was_not_read),
		ring_test(indices_wrap),
		ring_test(what_a_failed_reset_left_is_told_later_and_once),
		ring_test(failed_resets_never_lose_room),
		ring_test(statistics_count),
		ring_test(a_drain_too_many_is_harmless),
		ring_test(a_harvest_before_the_drain_is_harmless),
		ring_test(after_close_nothing_is_asked_of_the_kernel),
	};

	return RUN_TESTS("ring", tests);
}
