/* SPDX-License-Identifier: MIT */
/* One ring, its cells written by hand: what is read, what is written, and when it is told. */
#include "cmocka_all.h"
#include "drain.h"
#include "fake_rings.h"
#include "random.h"
#include "ring_cells.h"
#include "words_of.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ENTRIES = 256, SOFT_LIMIT = 192, FD = FAKE_VCPU_FD, MAX_SUNK = 100000 };

static struct fake_rings kernel;
static struct fake_ring *side; /* the kernel's, of ring */
static struct dli_reset reset_lock;
static struct dli_ring *ring;

/* What the sink got. */
static struct {
	uint64_t offsets[MAX_SUNK];
	uint32_t slots[MAX_SUNK];
	uint32_t n, calls;
	unsigned int resets_before;
} sunk;

static struct dli_sunk sink(void *opaque, const struct dli_dirty_word *words, uint32_t n)
{
	uint32_t before = sunk.n;

	assert_ptr_equal(opaque, &sunk);
	assert_true(n > 0);
	FOR_EACH_PAGE(words, n, slot, page)
	{
		assert_true(sunk.n < MAX_SUNK);
		sunk.offsets[sunk.n] = page;
		sunk.slots[sunk.n++] = slot;
	}
	n = sunk.n - before;
	sunk.calls++;
	sunk.resets_before = kernel.resets;
	return (struct dli_sunk){ .new_pages = n - 1, .stale = n > 2 };
}

static void begin(uint32_t entries, uint32_t soft_limit)
{
	memset(&sunk, 0, sizeof(sunk));
	fake_rings_init(&kernel, entries, soft_limit, 0);
	side = &kernel.rings[0];
	memset(&reset_lock, 0, sizeof(reset_lock));
	assert_int_equal(dli_reset_init(&reset_lock, &kernel.fake.os, FAKE_VM_FD), 0);
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, entries, &reset_lock, &ring), 0);
}

static void end(void)
{
	dli_ring_free(ring);
	dli_reset_fini(&reset_lock);
	assert_int_equal(kernel.fake.maps_live, 0);
	fake_rings_free(&kernel);
}

static int setup(void **state)
{
	begin(ENTRIES, SOFT_LIMIT);
	return 0;
}

static int teardown(void **state)
{
	end();
	return 0;
}

#define ring_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static int drain(void)
{
	return dli_drain_ring(ring, &reset_lock, sink, &sunk);
}

static void push(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fake_ring_push(&kernel, side, 5, side->pushed);
}

static const struct dli_ring_stats *stats(void)
{
	return dli_ring_stats(ring);
}

/* In order, each once, from the first push on. */
static void expect_sunk(uint32_t n)
{
	assert_int_equal(sunk.n, n);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(sunk.offsets[i], i);
		assert_int_equal(sunk.slots[i], 5);
	}
}

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
	expect_sunk(100);
	assert_int_equal(kernel.resets, 1);
	assert_int_equal(side->reset_index, 100);
	assert_int_equal(drain(), 0);
	assert_int_equal(sunk.n, 100);
	push(190);
	assert_int_equal(drain(), 0);
	expect_sunk(290);
	assert_int_equal(side->reset_index, side->dirty_index);
	assert_false(dli_reset_wants_repair(&reset_lock));
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
		assert_int_equal(ring->fresh, 0);
		assert_false(dli_ring_release(ring, &reset_lock));
		dli_ring_unlock(ring);
		assert_int_equal(side->cells[0].flags, others[i]);
		assert_int_equal(side->cells[1].flags, CELL_DIRTY);
	}
	side->cells[0].flags = CELL_DIRTY;
	dli_ring_copy(ring);
	assert_int_equal(ring->fresh, 2);
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
	expect_sunk(10);
	assert_int_equal(side->reset_index, 10);
	for (uint32_t i = 10; i < 20; i++)
		assert_int_equal(side->cells[i].flags, CELL_DIRTY);
	assert_int_equal(drain(), 0);
	expect_sunk(20);
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
	expect_sunk(1000);
	assert_true(side->dirty_index < 1000);
	assert_int_equal(ring->head, side->dirty_index);
	assert_false(dli_reset_wants_repair(&reset_lock));
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
	expect_sunk(90);
	assert_int_equal(side->reset_index, 90);
	/* Another ring's drain may have had these taken back meanwhile, and not all of them well. */
	assert_true(dli_reset_wants_repair(&reset_lock));
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
	expect_sunk((uint32_t)side->pushed);
	assert_int_equal(side->reset_index, side->dirty_index);
}

static void a_short_reset_is_made_again_and_owes_a_repair(void **state)
{
	push(50);
	kernel.short_resets = 1;
	kernel.short_entries = 20;
	assert_int_equal(drain(), 0);
	expect_sunk(50);
	assert_int_equal(kernel.resets, 2);
	assert_int_equal(stats()->short_resets, 1);
	assert_int_equal(stats()->overflows, 0);
	assert_true(dli_reset_wants_repair(&reset_lock));
	assert_true(dli_reset_wants_repair(&reset_lock));
	dli_reset_repaired(&reset_lock);
	assert_false(dli_reset_wants_repair(&reset_lock));
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
			assert_true(dli_reset_wants_repair(&reset_lock));
	}
	dli_reset_repaired(&reset_lock);
	assert_true(dli_reset_wants_repair(&reset_lock));
	dli_reset_repaired(&reset_lock);
	assert_false(dli_reset_wants_repair(&reset_lock));
}

static void a_reset_without_end_is_out_of_step(void **state)
{
	push(50);
	kernel.short_resets = 1000;
	kernel.short_entries = 0;
	assert_int_equal(drain(), 0);
	assert_true(kernel.resets < 100);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_wants_repair(&reset_lock));
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
	assert_true(dli_reset_wants_repair(&reset_lock));
	assert_true(atomic_load(&reset_lock.overflowed));
	assert_int_equal(sunk.n, 0);
}

static void one_cell_less_is_none(void **state)
{
	push(ENTRIES - 1);
	assert_int_equal(drain(), 0);
	expect_sunk(ENTRIES - 1);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_wants_repair(&reset_lock));
}

/* Between the look at the cells and their release the kernel went round, onto the same cells. */
static void going_round_while_reading_is_an_overflow(void **state)
{
	push(40);
	assert_int_equal(drain(), 0);
	push(100);
	dli_ring_lock(ring);
	dli_ring_copy(ring);
	push(ENTRIES - 100 + 10);
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_false(dli_ring_release(ring, &reset_lock));
	dli_reset_end(&reset_lock);
	dli_ring_publish(ring, sink, &sunk);
	dli_ring_unlock(ring);
	expect_sunk(40);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_wants_repair(&reset_lock));
}

/* The same, where a reset was at the cell before when the kernel filled it, and made it clean. */
static void going_round_behind_a_clean_cell_is_an_overflow(void **state)
{
	push(40);
	assert_int_equal(drain(), 0);
	push(100);
	dli_ring_lock(ring);
	dli_ring_copy(ring);
	push(ENTRIES - 100 + 1);
	side->cells[39].flags = CELL_CLEAN;
	assert_int_equal(dli_reset_begin(&reset_lock), 0);
	assert_false(dli_ring_release(ring, &reset_lock));
	dli_reset_end(&reset_lock);
	dli_ring_unlock(ring);
	assert_int_equal(stats()->overflows, 1);
	assert_true(dli_reset_wants_repair(&reset_lock));
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
	assert_true(dli_reset_wants_repair(&reset_lock));
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
		assert_int_equal(dli_reset_wants_repair(&reset_lock), overflowed);
		assert_int_equal(stats()->overflows, 0);
		assert_int_equal(drain(), 0);
	}
	expect_sunk(2 * ENTRIES);
}

static struct dli_sunk sink_of_outside(void *opaque, const struct dli_dirty_word *words, uint32_t n)
{
	return (struct dli_sunk){ .stale = n, .outside = true };
}

/* The kernel then protects none of what it took back together with that entry. */
static void an_entry_outside_its_slot_owes_a_repair(void **state)
{
	push(3);
	assert_int_equal(dli_drain_ring(ring, &reset_lock, sink_of_outside, NULL), 0);
	assert_true(dli_reset_wants_repair(&reset_lock));
}

static void what_is_left_when_all_has_stopped_was_missed(void **state)
{
	push(10);
	assert_int_equal(drain(), 0);
	dli_ring_check_empty(ring);
	assert_false(dli_reset_wants_repair(&reset_lock));
	side->cells[200].flags = CELL_DIRTY;
	dli_ring_check_empty(ring);
	assert_true(dli_reset_wants_repair(&reset_lock));
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
		expect_sunk(total);
	}
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_wants_repair(&reset_lock));
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
		dli_ring_publish(ring, sink, &sunk);
		dli_ring_unlock(ring);
		for (int n = 0; n < i % 4; n++)
			assert_int_equal(drain(), 0);
		assert_true(fake_ring_enter(&kernel, side));
	}
	expect_sunk(30 * SOFT_LIMIT);
	assert_int_equal(stats()->overflows, 0);
	assert_false(dli_reset_wants_repair(&reset_lock));
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
		ring_test(a_short_reset_is_made_again_and_owes_a_repair),
		ring_test(a_repair_pays_only_for_what_was_seen),
		ring_test(a_reset_without_end_is_out_of_step),
		ring_test(every_cell_dirty_is_an_overflow),
		ring_test(one_cell_less_is_none),
		ring_test(going_round_while_reading_is_an_overflow),
		ring_test(going_round_behind_a_clean_cell_is_an_overflow),
		ring_test(a_released_cell_that_is_dirty_again_is_an_overflow),
		ring_test(coming_round_during_a_reset_counts_after_an_overflow),
		ring_test(an_entry_outside_its_slot_owes_a_repair),
		ring_test(what_is_left_when_all_has_stopped_was_missed),
		ring_test(statistics_count),
		ring_test(a_drain_too_many_is_harmless),
		ring_test(a_harvest_before_the_drain_is_harmless),
		ring_test(after_close_nothing_is_asked_of_the_kernel),
	};

	return RUN_TESTS("ring", tests);
}
