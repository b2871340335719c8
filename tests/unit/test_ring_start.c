/* SPDX-License-Identifier: MIT */
/*
 * Where a ring lies, and where its reader begins, also in one that somebody used before or that
 * overflowed.
 */
#include "cmocka_all.h"
#include "drain.h"
#include "fake_rings.h"
#include "ring_cells.h"
#include "words_of.h"

#include <errno.h>
#include <string.h>

enum { ENTRIES = 256, SOFT_LIMIT = 192, FD = FAKE_VCPU_FD, MAX_EXITS = 64 };

static struct fake_rings kernel;
static struct fake_ring *side;
static struct dli_reset reset_lock;
static struct dli_ring *ring;
static uint64_t sunk[4 * ENTRIES];
static uint32_t n_sunk;

static struct dli_sunk sink(void *opaque, const struct dli_dirty_word *words, uint32_t n)
{
	/* There is room for a word a cell, and none for words that say nothing. */
	for (uint32_t i = 0; i < n; i++)
		assert_true(words[i].bits != 0);
	FOR_EACH_PAGE(words, n, slot, page)
	sunk[n_sunk++] = page;
	return (struct dli_sunk){ 0 };
}

static int setup(void **state)
{
	fake_rings_init(&kernel, ENTRIES, SOFT_LIMIT, 0);
	side = &kernel.rings[0];
	memset(&reset_lock, 0, sizeof(reset_lock));
	ring = NULL;
	n_sunk = 0;
	return dli_reset_init(&reset_lock, &kernel.fake.os, FAKE_VM_FD);
}

static int teardown(void **state)
{
	dli_ring_free(ring);
	dli_reset_fini(&reset_lock);
	fake_rings_free(&kernel);
	return 0;
}

#define start_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void push(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fake_ring_push(&kernel, side, 0, side->pushed);
}

/* What a reader did that is gone now. */
static void consume(uint32_t n, bool and_reset)
{
	for (uint32_t i = 0; i < n; i++)
		side->cells[(side->reset_index + i) & (ENTRIES - 1)].flags = CELL_RESET;
	if (and_reset)
		assert_int_equal(
			kernel.fake.os.ioctl(&kernel.fake, FAKE_VM_FD, KVM_RESET_DIRTY_RINGS, NULL),
			n);
}

static void open_ring(void)
{
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &ring), 0);
}

static int drain(void)
{
	return dli_drain_ring(ring, &reset_lock, sink, NULL);
}

static void expect_sunk(uint64_t first, uint32_t n)
{
	assert_int_equal(n_sunk, n);
	for (uint32_t i = 0; i < n; i++)
		assert_int_equal(sunk[i], first + i);
	assert_false(kernel.overshot);
}

static void an_unread_run_is_read_from_its_beginning(void **state)
{
	push(150);
	consume(150, true);
	push(60);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_sunk(150, 60);
	push(100);
	assert_int_equal(drain(), 0);
	expect_sunk(150, 160);
	assert_int_equal(side->reset_index, side->dirty_index);
}

/* Nothing but a flag tells that it was used: all was about the first page of slot 0. */
static void entries_of_zeroes_are_entries(void **state)
{
	for (int i = 0; i < 6; i++)
		fake_ring_push(&kernel, side, 0, 0);
	consume(5, true);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_sunk(0, 1);
	side->pushed = 1;
	push(20);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 21);
	assert_int_equal(side->reset_index, side->dirty_index);
}

static void released_cells_of_zeroes_are_used_ones(void **state)
{
	for (int i = 0; i < 3; i++)
		fake_ring_push(&kernel, side, 0, 0);
	consume(3, false);
	open_ring();
	assert_int_equal(side->reset_index, 3);
	side->pushed = 0;
	push(20);
	assert_int_equal(drain(), 0);
	expect_sunk(0, 20);
}

static void a_run_over_the_end_is_found(void **state)
{
	push(190);
	consume(190, true);
	push(120);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_sunk(190, 120);
	assert_int_equal(side->reset_index, side->dirty_index);
}

static void what_was_released_is_reset_first(void **state)
{
	push(100);
	consume(40, false);
	open_ring();
	assert_int_equal(side->reset_index, 40);
	assert_int_equal(drain(), 0);
	expect_sunk(40, 60);
	assert_int_equal(side->reset_index, 100);
}

static void a_reset_that_fails_is_an_error(void **state)
{
	push(10);
	consume(10, false);
	kernel.reset_errors = 1;
	kernel.reset_error = -EIO;
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &ring), -EIO);
	assert_null(ring);
	assert_int_equal(kernel.fake.maps_live, 0);
	dli_reset_close(&reset_lock, false);
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &ring),
			 -ECANCELED);
}

static void an_empty_used_ring_waits_for_its_first_entry(void **state)
{
	push(77);
	consume(77, true);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_sunk(0, 0);
	push(5);
	assert_int_equal(drain(), 0);
	expect_sunk(77, 5);
	assert_int_equal(side->reset_index, 82);
}

/* Nobody read it: full to the soft limit, from the first cell on. */
static void a_full_one_is_read_and_its_vcpu_runs(void **state)
{
	push(SOFT_LIMIT);
	open_ring();
	assert_false(fake_ring_enter(&kernel, side));
	assert_int_equal(drain(), 0);
	expect_sunk(0, SOFT_LIMIT);
	assert_true(fake_ring_enter(&kernel, side));
}

/* No cell says where to begin. The vCPU must run again, and a repair must be owed. */
static void an_overflowed_one_is_recovered(void **state)
{
	push(ENTRIES + 30);
	open_ring();
	for (int exits = 0; !fake_ring_enter(&kernel, side); exits++) {
		assert_true(exits < MAX_EXITS);
		assert_int_equal(drain(), 0);
	}
	assert_true(dli_reset_wants_repair(&reset_lock));
	n_sunk = 0;
	push(50);
	assert_int_equal(drain(), 0);
	expect_sunk(ENTRIES + 30, 50);
	push(100);
	assert_int_equal(drain(), 0);
	expect_sunk(ENTRIES + 30, 150);
}

/* The kernel has cell 5 in hand, and goes round as far as that cell itself. */
static void push_onto_what_is_being_taken(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	if (side->reset_index == 6)
		push(ENTRIES - 5);
}

/* What it writes into the cell is gone when the cell is clean: nobody is told of that page. */
static void coming_round_while_cells_are_offered_owes_a_repair(void **state)
{
	open_ring();
	push(ENTRIES + 10);
	assert_int_equal(drain(), 0);
	assert_true(dli_reset_wants_repair(&reset_lock));
	dli_reset_repaired(&reset_lock);
	push(1);
	kernel.on_taken = push_onto_what_is_being_taken;
	assert_int_equal(drain(), 0);
	assert_int_equal(n_sunk, 1 + ENTRIES - 5 - 1);
	assert_true(dli_reset_wants_repair(&reset_lock));
}

/* A cell that stayed offered would be taken before it is filled: its vCPU would never run again. */
static void what_is_offered_in_vain_is_taken_back(void **state)
{
	open_ring();
	push(ENTRIES);
	assert_int_equal(drain(), 0);
	push(1);
	/* The kernel's two indices are at the same cell, which is dirty: it takes none. */
	assert_int_equal(drain(), 0);
	expect_sunk(ENTRIES, 1);
	for (int i = 0; i < ENTRIES; i++)
		assert_int_equal(side->cells[i].flags, CELL_CLEAN);
}

static void the_ring_lies_behind_64_host_pages(void **state)
{
	static const uint32_t pages[] = { 4096, 16384, 65536 };

	for (size_t i = 0; i < 3; i++) {
		struct dli_ring *other = NULL;

		kernel.fake.os.page_bytes = pages[i];
		/* The fake answers at exactly that place and length only. */
		assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &other),
				 0);
		dli_ring_free(other);
	}
	kernel.fake.os.page_bytes = 4096;
}

static void a_mapping_that_fails_leaves_nothing(void **state)
{
	long before = kernel.fake.maps_live;

	for (unsigned int i = 0; i < 2; i++) {
		struct dli_ring *other = NULL;

		kernel.fake.maps_that_succeed = i;
		kernel.fake.map_error = -ENOMEM;
		assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &other),
				 -ENOMEM);
		assert_null(other);
		assert_int_equal(kernel.fake.maps_live, before);
	}
	kernel.fake.map_error = 0;
	assert_int_equal(dli_ring_new(&kernel.fake.os, 7, ENTRIES, &reset_lock, &ring), -EBADF);
	dli_ring_free(NULL);
}

static void the_same_ring_is_known_by_its_memory(void **state)
{
	static const uint32_t flags[] = { CELL_CLEAN, CELL_DIRTY, CELL_RESET };
	struct dli_ring *same, *other;

	open_ring();
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &same), 0);
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD + 1, ENTRIES, &reset_lock, &other), 0);
	for (size_t i = 0; i < 3; i++) {
		side->cells[0].flags = flags[i];
		assert_true(dli_ring_same(same, ring));
		assert_false(dli_ring_same(other, ring));
		assert_int_equal(side->cells[0].flags, flags[i]);
		assert_int_equal(kernel.rings[1].cells[0].flags, 0);
	}
	/* A bit that is there already proves nothing. */
	side->cells[0].flags = 4;
	assert_false(dli_ring_same(other, ring));
	dli_ring_free(same);
	dli_ring_free(other);
}

/*
 * Twice out with little in the ring is what moves the kernel on. Not where the way into step was
 * open and its reset failed: that failure is the answer.
 */
static void a_failure_on_the_way_into_step_is_told(void **state)
{
	open_ring();
	push(ENTRIES + 10);
	assert_int_equal(drain(), 0);
	assert_false(fake_ring_enter(&kernel, side));
	assert_int_equal(drain(), 0);
	assert_false(fake_ring_enter(&kernel, side));
	push(1);
	kernel.reset_errors = 1;
	kernel.reset_error = -EIO;
	assert_int_equal(drain(), -EIO);
	assert_int_equal(kernel.reset_errors, 0);
	for (int exits = 0; !fake_ring_enter(&kernel, side); exits++) {
		assert_true(exits < MAX_EXITS);
		assert_int_equal(drain(), 0);
	}
	assert_false(kernel.overshot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		start_test(an_unread_run_is_read_from_its_beginning),
		start_test(entries_of_zeroes_are_entries),
		start_test(released_cells_of_zeroes_are_used_ones),
		start_test(a_run_over_the_end_is_found),
		start_test(what_was_released_is_reset_first),
		start_test(a_reset_that_fails_is_an_error),
		start_test(an_empty_used_ring_waits_for_its_first_entry),
		start_test(a_full_one_is_read_and_its_vcpu_runs),
		start_test(an_overflowed_one_is_recovered),
		start_test(coming_round_while_cells_are_offered_owes_a_repair),
		start_test(what_is_offered_in_vain_is_taken_back),
		start_test(the_ring_lies_behind_64_host_pages),
		start_test(a_mapping_that_fails_leaves_nothing),
		start_test(the_same_ring_is_known_by_its_memory),
		start_test(a_failure_on_the_way_into_step_is_told),
	};

	return RUN_TESTS("ring start", tests);
}
