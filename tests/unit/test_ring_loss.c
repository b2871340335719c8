/* SPDX-License-Identifier: MIT */
/*
 * A ring that may have lost entries requests a repair: after a reset that ended early, after the
 * kernel has lapped the ring, and after an entry that names no page of its slot.
 */
#include "one_ring.h"

#include <errno.h>

#define ring_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void a_short_reset_is_retried_and_requests_a_repair(void **state)
{
	push(50);
	kernel.short_resets = 1;
	kernel.short_entries = 20;
	assert_int_equal(drain(), 0);
	expect_published(0, 50);
	assert_int_equal(kernel.resets, 2);
	assert_int_equal(stats()->short_resets, 1);
	assert_int_equal(stats()->overflows, 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* A loss after dli_reset_repair_needed() needs another repair. */
static void a_repair_covers_only_losses_known_before_it(void **state)
{
	kernel.short_entries = 0;
	for (int i = 0; i < 2; i++) {
		push(5);
		kernel.short_resets = 1;
		assert_int_equal(drain(), 0);
		if (!i)
			assert_true(dli_reset_repair_needed(&reset_lock));
	}
	dli_reset_repaired(&reset_lock);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* A reset for another ring may have taken its cells meanwhile, and have been cut short unseen. */
static void cells_that_a_failed_reset_left_request_a_repair_when_they_are_taken(void **state)
{
	push(10);
	kernel.reset_errors = 1;
	kernel.reset_error = -EIO;
	assert_int_equal(drain(), -EIO);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	for (int i = 0; i < 2; i++) {
		push(1);
		assert_int_equal(drain(), 0);
		assert_int_equal(dli_reset_repair_needed(&reset_lock), !i);
		dli_reset_repaired(&reset_lock);
	}
}

static void a_ring_whose_reset_never_completes_is_desynced(void **state)
{
	push(50);
	kernel.short_resets = 1000;
	kernel.short_entries = 0;
	assert_int_equal(drain(), 0);
	assert_true(kernel.resets < 100);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
	/* The ring is wiped: no cell is left to reset. */
	kernel.resets = 0;
	assert_int_equal(drain(), 0);
	assert_int_equal(kernel.resets, 0);
}

static void a_ring_with_every_cell_dirty_has_overflowed(void **state)
{
	push(ENTRIES);
	assert_int_equal(drain(), 0);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_true(atomic_load(&reset_lock.overflowed));
	assert_int_equal(published.n, 0);
}

static void a_ring_with_one_clean_cell_has_not_overflowed(void **state)
{
	push(ENTRIES - 1);
	assert_int_equal(drain(), 0);
	expect_published(0, ENTRIES - 1);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* Copies cells 40 to 139 of a ring that was reset up to cell 40, and keeps it locked. */
static void copy_100_cells(void)
{
	push(40);
	assert_int_equal(drain(), 0);
	push(100);
	dli_ring_lock(ring);
	dli_ring_copy(ring);
}

/* The copied entries are not published: the repair covers their pages. */
static void expect_overflow_at_release(void)
{
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_false(dli_ring_release(ring, &reset_lock));
	dli_reset_end(&reset_lock);
	dli_ring_publish(ring, NULL);
	dli_ring_unlock(ring);
	expect_published(0, 40);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

/* The kernel laps the ring between the copy and the release, and fills the same cells again. */
static void lapping_between_copy_and_release_is_an_overflow(void **state)
{
	copy_100_cells();
	push(ENTRIES - 100 + 10);
	expect_overflow_at_release();
}

/* As above, but a reset has cleaned the cell in front, which would have shown it. */
static void lapping_is_detected_with_the_cell_in_front_clean(void **state)
{
	copy_100_cells();
	push(ENTRIES - 100 + 1);
	kernel_ring->cells[39].flags = CELL_CLEAN;
	expect_overflow_at_release();
}

/* As above, but the first copied cell shows nothing: it holds the same page again. */
static void lapping_is_detected_with_the_same_page_at_the_head(void **state)
{
	copy_100_cells();
	push(ENTRIES - 100);
	fake_ring_push(&kernel, kernel_ring, kernel_ring->cells[40].slot,
		       kernel_ring->cells[40].offset);
	expect_overflow_at_release();
}

static void a_released_cell_that_is_dirty_again_is_an_overflow(void **state)
{
	push(100);
	dli_ring_lock(ring);
	dli_ring_copy(ring);
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_true(dli_ring_release(ring, &reset_lock));
	push(ENTRIES);
	assert_true(dli_ring_verify(ring, &reset_lock, false));
	dli_reset_end(&reset_lock);
	dli_ring_unlock(ring);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

static void push_up_to_the_head(struct fake_rings *rings, bool ends)
{
	if (ends)
		push(ENTRIES - 100);
}

/* A healthy kernel may do this, too, so it counts as an overflow only after another one. */
static void a_full_ring_after_a_reset_is_suspect_only_after_an_overflow(void **state)
{
	for (int overflowed = 0; overflowed < 2; overflowed++) {
		atomic_store(&reset_lock.overflowed, overflowed);
		push(100);
		kernel.on_reset = push_up_to_the_head;
		assert_int_equal(drain(), 0);
		kernel.on_reset = NULL;
		assert_int_equal(dli_reset_repair_needed(&reset_lock), overflowed);
		assert_int_equal(stats()->overflows, overflowed);
		assert_int_equal(drain(), 0);
	}
	expect_published(0, ENTRIES);
}

/* While the reset is at the last released cell, the vCPU laps the ring and fills that cell. */
static void fill_the_last_released_cell(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	if (kernel_ring->reset_index == 100)
		push(ENTRIES);
}

/*
 * The reset cleans that cell, which so hides that every cell was filled. The repair is over when
 * the vCPU overwrites more; the next drain must not take what it copied before for what it resets.
 */
static void a_cell_filled_during_its_reset_hides_nothing_after_an_overflow(void **state)
{
	atomic_store(&reset_lock.overflowed, true);
	push(100);
	kernel.on_consumed = fill_the_last_released_cell;
	assert_int_equal(drain(), 0);
	kernel.on_consumed = NULL;
	assert_int_equal(kernel_ring->dirty_index, ENTRIES + 100);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	published.n = 0;
	push(3);
	assert_int_equal(drain(), 0);
	assert_int_equal(published.n, 3);
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(published.offsets[i], ENTRIES + 100 + i);
}

/* The kernel then protects no page of the batch that this entry is in. */
static void an_entry_outside_its_slot_requests_a_repair(void **state)
{
	push(3);
	published.outside = true;
	assert_int_equal(drain(), 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

static void an_entry_left_in_the_final_pass_requests_a_repair(void **state)
{
	push(10);
	assert_int_equal(drain(), 0);
	dli_ring_check_empty(ring, &reset_lock);
	assert_false(dli_reset_repair_needed(&reset_lock));
	kernel_ring->cells[200].flags = CELL_DIRTY;
	dli_ring_check_empty(ring, &reset_lock);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

/* Fills all cells but the one that the reset consumes now. */
static void lap_at_cell_43(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	if (kernel_ring->reset_index == 44)
		push(ENTRIES - 2);
}

/* The kernel would reset from cell 0 on, and has filled cell 44. */
static void resync_an_overflowed_ring(void)
{
	push(ENTRIES + 44);
	assert_int_equal(drain(), 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	push(1);
	assert_int_equal(dli_ring_resync(ring, &reset_lock), 0);
	assert_int_equal(kernel_ring->reset_index, 44);
}

static void a_resync_requests_no_repair(void **state)
{
	resync_an_overflowed_ring();
	assert_false(dli_reset_repair_needed(&reset_lock));
}

static void lapping_while_cells_are_offered_requests_a_repair(void **state)
{
	kernel.on_consumed = lap_at_cell_43;
	resync_an_overflowed_ring();
	assert_true(dli_reset_repair_needed(&reset_lock));
}

/* The kernel lapped the ring during the wipe: it continues at the 20th cell of the run. */
static void resync_inside_a_run(void)
{
	push(ENTRIES + 44);
	assert_int_equal(drain(), 0);
	dli_reset_repaired(&reset_lock);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	push(50);
	kernel_ring->dirty_index -= 30;
	dli_ring_lock(ring);
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_int_equal(dli_ring_resync(ring, &reset_lock), 0);
	assert_int_equal(dli_ring_copy(ring), 50);
}

static void expect_release(bool released)
{
	assert_int_equal(dli_ring_release(ring, &reset_lock), released);
	dli_reset_end(&reset_lock);
	dli_ring_unlock(ring);
	assert_int_equal(dli_reset_repair_needed(&reset_lock), !released);
}

static void a_copy_that_is_overwritten_after_a_resync_is_an_overflow(void **state)
{
	resync_inside_a_run();
	push(1);
	expect_release(false);
	assert_int_equal(stats()->overflows, 2);
	assert_int_equal(published.n, 0);
}

static void a_copy_that_stays_after_a_resync_is_none(void **state)
{
	resync_inside_a_run();
	expect_release(true);
}

/* The entries from before the resync may be anywhere in the ring. */
static void a_copy_is_doubtful_for_a_whole_ring(void **state)
{
	for (uint32_t before = 0; before <= ENTRIES; before += ENTRIES / 8) {
		uint32_t overflows = (uint32_t)stats()->overflows;

		push(2 * ENTRIES);
		assert_int_equal(drain(), 0);
		assert_int_equal(stats()->overflows, overflows + 1);
		for (uint32_t i = 0; i < before; i += ENTRIES / 8) {
			push(ENTRIES / 8);
			assert_int_equal(drain(), 0);
		}
		push(10);
		if (!before)
			assert_int_equal(drain(), 0);
		assert_int_equal(ring->doubtful_entries, before ? ENTRIES - before : ENTRIES - 10);
		assert_int_equal(drain(), 0);
		assert_int_equal(stats()->overflows, overflows + 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(a_short_reset_is_retried_and_requests_a_repair),
		ring_test(a_repair_covers_only_losses_known_before_it),
		ring_test(cells_that_a_failed_reset_left_request_a_repair_when_they_are_taken),
		ring_test(a_ring_whose_reset_never_completes_is_desynced),
		ring_test(a_ring_with_every_cell_dirty_has_overflowed),
		ring_test(a_ring_with_one_clean_cell_has_not_overflowed),
		ring_test(lapping_between_copy_and_release_is_an_overflow),
		ring_test(lapping_is_detected_with_the_cell_in_front_clean),
		ring_test(lapping_is_detected_with_the_same_page_at_the_head),
		ring_test(a_released_cell_that_is_dirty_again_is_an_overflow),
		ring_test(a_full_ring_after_a_reset_is_suspect_only_after_an_overflow),
		ring_test(a_cell_filled_during_its_reset_hides_nothing_after_an_overflow),
		ring_test(an_entry_outside_its_slot_requests_a_repair),
		ring_test(an_entry_left_in_the_final_pass_requests_a_repair),
		ring_test(a_resync_requests_no_repair),
		ring_test(lapping_while_cells_are_offered_requests_a_repair),
		ring_test(a_copy_that_is_overwritten_after_a_resync_is_an_overflow),
		ring_test(a_copy_that_stays_after_a_resync_is_none),
		ring_test(a_copy_is_doubtful_for_a_whole_ring),
	};

	return RUN_TESTS("ring loss", tests);
}
