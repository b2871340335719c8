/* SPDX-License-Identifier: MIT */
/*
 * What one ring may have lost, and the repair that is owed for it: resets that end early, a kernel
 * that goes round, and what is no entry.
 */
#include "one_ring.h"

#define ring_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void a_short_reset_is_made_again_and_owes_a_repair(void **state)
{
	push(50);
	kernel.short_resets = 1;
	kernel.short_entries = 20;
	assert_int_equal(drain(), 0);
	expect_sunk(0, 50);
	assert_int_equal(kernel.resets, 2);
	assert_int_equal(stats()->short_resets, 1);
	assert_int_equal(stats()->overflows, 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* What comes up between the look and the repair is not repaired by it. */
static void a_repair_pays_only_for_what_was_seen(void **state)
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

static void a_reset_without_end_is_out_of_step(void **state)
{
	push(50);
	kernel.short_resets = 1000;
	kernel.short_entries = 0;
	assert_int_equal(drain(), 0);
	assert_true(kernel.resets < 100);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
	/* It is wiped: there is nothing more to take back. */
	kernel.resets = 0;
	assert_int_equal(drain(), 0);
	assert_int_equal(kernel.resets, 0);
}

static void every_cell_dirty_is_an_overflow(void **state)
{
	push(ENTRIES);
	assert_int_equal(drain(), 0);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
	assert_true(atomic_load(&reset_lock.overflowed));
	assert_int_equal(sunk.n, 0);
}

static void one_cell_less_is_none(void **state)
{
	push(ENTRIES - 1);
	assert_int_equal(drain(), 0);
	expect_sunk(0, ENTRIES - 1);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_repair_needed(&reset_lock));
}

/* Cells 40 to 139, of a ring that is locked and was handed back up to there. */
static void copy_a_hundred(void)
{
	push(40);
	assert_int_equal(drain(), 0);
	push(100);
	dli_ring_lock(ring);
	dli_ring_copy(ring);
}

/* What was copied is told by nobody: the repair sends it. */
static void expect_overflow_at_release(void)
{
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_false(dli_ring_release(ring, &reset_lock));
	dli_reset_end(&reset_lock);
	dli_ring_publish(ring, NULL);
	dli_ring_unlock(ring);
	expect_sunk(0, 40);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

/* Between the look at the cells and their release the kernel went round, onto the same cells. */
static void going_round_while_reading_is_an_overflow(void **state)
{
	copy_a_hundred();
	push(ENTRIES - 100 + 10);
	expect_overflow_at_release();
}

/* The same, where a reset was at the cell before when the kernel filled it, and made it clean. */
static void going_round_behind_a_clean_cell_is_an_overflow(void **state)
{
	copy_a_hundred();
	push(ENTRIES - 100 + 1);
	side->cells[39].flags = CELL_CLEAN;
	expect_overflow_at_release();
}

/* The same, where the first cell says nothing: the page that stood there was written again. */
static void going_round_onto_the_same_page_is_an_overflow(void **state)
{
	copy_a_hundred();
	push(ENTRIES - 100);
	fake_ring_push(&kernel, side, side->cells[40].slot, side->cells[40].offset);
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

static void push_round_to_the_head(struct fake_rings *rings, bool ends)
{
	if (ends)
		push(ENTRIES - 100);
}

/* A healthy kernel can do that too: it counts where one is known to go further. */
static void coming_round_during_a_reset_counts_after_an_overflow(void **state)
{
	for (int overflowed = 0; overflowed < 2; overflowed++) {
		atomic_store(&reset_lock.overflowed, overflowed);
		push(100);
		kernel.on_reset = push_round_to_the_head;
		assert_int_equal(drain(), 0);
		kernel.on_reset = NULL;
		assert_int_equal(dli_reset_repair_needed(&reset_lock), overflowed);
		assert_int_equal(stats()->overflows, 0);
		assert_int_equal(drain(), 0);
	}
	expect_sunk(0, 2 * ENTRIES);
}

/* The kernel then protects none of what it took back together with that entry. */
static void an_entry_outside_its_slot_owes_a_repair(void **state)
{
	push(3);
	sunk.outside = true;
	assert_int_equal(drain(), 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

static void what_is_left_when_all_has_stopped_was_missed(void **state)
{
	push(10);
	assert_int_equal(drain(), 0);
	dli_ring_check_empty(ring);
	assert_false(dli_reset_repair_needed(&reset_lock));
	side->cells[200].flags = CELL_DIRTY;
	dli_ring_check_empty(ring);
	assert_true(dli_reset_repair_needed(&reset_lock));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(a_short_reset_is_made_again_and_owes_a_repair),
		ring_test(a_repair_pays_only_for_what_was_seen),
		ring_test(a_reset_without_end_is_out_of_step),
		ring_test(every_cell_dirty_is_an_overflow),
		ring_test(one_cell_less_is_none),
		ring_test(going_round_while_reading_is_an_overflow),
		ring_test(going_round_behind_a_clean_cell_is_an_overflow),
		ring_test(going_round_onto_the_same_page_is_an_overflow),
		ring_test(a_released_cell_that_is_dirty_again_is_an_overflow),
		ring_test(coming_round_during_a_reset_counts_after_an_overflow),
		ring_test(an_entry_outside_its_slot_owes_a_repair),
		ring_test(what_is_left_when_all_has_stopped_was_missed),
	};

	return RUN_TESTS("ring loss", tests);
}
