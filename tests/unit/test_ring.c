/* SPDX-License-Identifier: MIT */
/* Draining one ring: which cells are read, which are written, and when pages are published. */
#include "one_ring.h"
#include "random.h"

#include <errno.h>
#include <string.h>

#define ring_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void an_empty_ring_costs_no_ioctl(void **state)
{
	assert_int_equal(drain(), 0);
	assert_int_equal(kernel.resets, 0);
	assert_int_equal(published.calls, 0);
}

static void entries_are_published_in_order_and_once(void **state)
{
	push(100);
	assert_int_equal(drain(), 0);
	expect_published(0, 100);
	assert_int_equal(kernel.resets, 1);
	assert_int_equal(kernel_ring->reset_index, 100);
	assert_int_equal(drain(), 0);
	assert_int_equal(published.n, 100);
	push(190);
	assert_int_equal(drain(), 0);
	expect_published(0, 290);
	assert_int_equal(kernel_ring->reset_index, kernel_ring->dirty_index);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void entries_are_published_only_after_the_reset(void **state)
{
	push(3);
	assert_int_equal(drain(), 0);
	assert_int_equal(published.calls, 1);
	assert_int_equal(published.resets_before, 1);
}

/* KVM tests the RESET bit only, so releasing a cell with both bits set would release it twice. */
static void only_the_dirty_flag_alone_makes_a_cell_dirty(void **state)
{
	static const uint32_t others[] = { 0, 2, 3, 4, 5, 0x80000001, 0x101, UINT32_MAX };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		kernel_ring->cells[0] = (struct kvm_dirty_gfn){ others[i], 1, 2 };
		kernel_ring->cells[1] = (struct kvm_dirty_gfn){ CELL_DIRTY, 3, 4 };
		dli_ring_lock(ring);
		dli_ring_copy(ring);
		assert_int_equal(ring->copied, 0);
		assert_false(dli_ring_release(ring, &reset_lock));
		dli_ring_unlock(ring);
		assert_int_equal(kernel_ring->cells[0].flags, others[i]);
		assert_int_equal(kernel_ring->cells[1].flags, CELL_DIRTY);
	}
	kernel_ring->cells[0].flags = CELL_DIRTY;
	dli_ring_copy(ring);
	assert_int_equal(ring->copied, 2);
}

static void slot_and_offset_are_never_written(void **state)
{
	struct random random = { .state = 5 };
	struct kvm_dirty_gfn before[ENTRIES];

	for (int round = 0; round < 20; round++) {
		for (uint64_t n = random_below(&random, SOFT_LIMIT); n; n--)
			fake_ring_push(&kernel, kernel_ring, (uint32_t)random_next(&random),
				       random_next(&random));
		memcpy(before, kernel_ring->cells, sizeof(before));
		assert_int_equal(drain(), 0);
		for (uint32_t i = 0; i < ENTRIES; i++) {
			assert_int_equal(kernel_ring->cells[i].slot, before[i].slot);
			assert_int_equal(kernel_ring->cells[i].offset, before[i].offset);
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

static void a_cell_that_was_not_read_is_not_released(void **state)
{
	push(10);
	kernel.on_reset = push_more_at_the_end;
	assert_int_equal(drain(), 0);
	kernel.on_reset = NULL;
	expect_published(0, 10);
	assert_int_equal(kernel_ring->reset_index, 10);
	for (uint32_t i = 10; i < 20; i++)
		assert_int_equal(kernel_ring->cells[i].flags, CELL_DIRTY);
	assert_int_equal(drain(), 0);
	expect_published(0, 20);
	assert_false(kernel.overshot);
}

static void indices_wrap(void **state)
{
	/* The first cell again, after nearly 2^32 entries. */
	ring->head = kernel_ring->dirty_index = kernel_ring->reset_index =
		UINT32_MAX - 2 * ENTRIES + 1;
	for (int i = 0; i < 10; i++) {
		push(100);
		assert_int_equal(drain(), 0);
	}
	expect_published(0, 1000);
	assert_true(kernel_ring->dirty_index < 1000);
	assert_int_equal(ring->head, kernel_ring->dirty_index);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void entries_of_a_failed_reset_are_published_later_and_once(void **state)
{
	push(50);
	kernel.reset_errors = 2;
	kernel.reset_error = -EIO;
	assert_int_equal(drain(), -EIO);
	assert_int_equal(published.n, 0);
	push(40);
	assert_int_equal(drain(), -EIO);
	assert_int_equal(published.n, 0);
	assert_int_equal(drain(), 0);
	expect_published(0, 90);
	assert_int_equal(kernel_ring->reset_index, 90);
	/* Another ring's drain may have reset these cells meanwhile, and cut that reset short. */
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_int_equal(drain(), 0);
	assert_int_equal(published.n, 90);
}

/* The vCPU runs as far as it can while resets fail. The buffer of one ring must suffice. */
static void failed_resets_do_not_exhaust_the_buffer(void **state)
{
	kernel.reset_errors = 20;
	kernel.reset_error = -EIO;
	for (int i = 0; i < 20; i++) {
		if (kernel_ring->dirty_index - kernel_ring->reset_index < SOFT_LIMIT)
			push(11);
		assert_int_equal(drain(), -EIO);
	}
	assert_int_equal(drain(), 0);
	expect_published(0, (uint32_t)kernel_ring->pushed);
	assert_int_equal(kernel_ring->reset_index, kernel_ring->dirty_index);
}

static void statistics_are_counted(void **state)
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
	assert_false(fake_ring_enter(&kernel, kernel_ring));
	assert_int_equal(drain(), 0);
	assert_int_equal(stats()->full_exits, 1);
	assert_true(fake_ring_enter(&kernel, kernel_ring));
	assert_int_equal(dli_ring_take_recent(ring), SOFT_LIMIT);
}

/* Repeated drains of a full ring must not look like an overflow. */
static void extra_drains_are_harmless(void **state)
{
	uint32_t total = 0;

	for (int i = 0; i < 30; i++) {
		push(SOFT_LIMIT);
		total += SOFT_LIMIT;
		assert_false(fake_ring_enter(&kernel, kernel_ring));
		for (int n = 0; n <= i % 5; n++)
			assert_int_equal(drain(), 0);
		assert_true(fake_ring_enter(&kernel, kernel_ring));
		expect_published(0, total);
	}
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* A harvest empties the ring between the vCPU's full exit and its own drain. */
static void a_harvest_before_the_drain_is_harmless(void **state)
{
	for (int i = 0; i < 30; i++) {
		push(SOFT_LIMIT);
		assert_false(fake_ring_enter(&kernel, kernel_ring));
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
		assert_true(fake_ring_enter(&kernel, kernel_ring));
	}
	expect_published(0, 30 * SOFT_LIMIT);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void a_drain_after_close_makes_no_ioctl(void **state)
{
	unsigned int before;

	push(10);
	dli_reset_close(&reset_lock, false);
	before = kernel.fake.ioctls;
	assert_int_equal(drain(), -ECANCELED);
	assert_int_equal(kernel.fake.ioctls, before);
	assert_int_equal(published.n, 0);
}

/* Nothing has looked into the ring: what the exit means is not known. */
static void a_full_exit_after_close_is_left_as_it_is(void **state)
{
	push(1);
	ring->run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
	dli_reset_close(&reset_lock, false);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(drain(), -ECANCELED);
		assert_int_equal(ring->run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
		assert_false(dli_ring_nudge_armed(ring));
		assert_int_equal(stats()->full_exits, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(an_empty_ring_costs_no_ioctl),
		ring_test(entries_are_published_in_order_and_once),
		ring_test(entries_are_published_only_after_the_reset),
		ring_test(only_the_dirty_flag_alone_makes_a_cell_dirty),
		ring_test(slot_and_offset_are_never_written),
		ring_test(a_cell_that_was_not_read_is_not_released),
		ring_test(indices_wrap),
		ring_test(entries_of_a_failed_reset_are_published_later_and_once),
		ring_test(failed_resets_do_not_exhaust_the_buffer),
		ring_test(statistics_are_counted),
		ring_test(extra_drains_are_harmless),
		ring_test(a_harvest_before_the_drain_is_harmless),
		ring_test(a_drain_after_close_makes_no_ioctl),
		ring_test(a_full_exit_after_close_is_left_as_it_is),
	};

	return RUN_TESTS("ring", tests);
}
