/* SPDX-License-Identifier: MIT */
/*
 * Where a ring lies, and where its reader begins, also in one that somebody used before or that
 * overflowed.
 */
#include "one_ring.h"
#include "ring/vcpu_list.h"
#include "words_of.h"

#include <errno.h>
#include <string.h>

enum { FD = FAKE_VCPU_FD, MAX_EXITS = 64 };

#define start_test(function) cmocka_unit_test_setup_teardown(function, setup_unopened, teardown)

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
	assert_int_equal(sunk.n, 1);
	assert_int_equal(sunk.slots[0], 0);
	assert_int_equal(sunk.offsets[0], 0);
	sunk.n = 0;
	push(20);
	assert_int_equal(drain(), 0);
	expect_sunk(6, 20);
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

/* A VMM over one ring, as far as it asks for what was written. */
static struct {
	struct dli_vcpu_list vcpus;
	struct dl_vcpu vcpu;
	bool handed_out[4 * ENTRIES];
} vmm;

static void hand_out(const struct dli_dirty_word *words, uint32_t n)
{
	FOR_EACH_PAGE(words, n, slot, page)
	vmm.handed_out[page] = true;
}

static void harvest(bool last)
{
	sunk.instead = hand_out;
	assert_int_equal(dli_drain_all(&vmm.vcpus, &reset_lock, last, NULL), 0);
	if (!dli_reset_repair_needed(&reset_lock))
		return;
	memset(vmm.handed_out, true, side->pushed);
	dli_reset_repaired(&reset_lock);
}

/* The next page is new: only its own entry, or a repair after it, can have it handed out. */
static void write_page(void)
{
	for (int exits = 0; !fake_ring_enter(&kernel, side); exits++) {
		assert_true(exits < MAX_EXITS);
		sunk.instead = hand_out;
		assert_int_equal(dli_drain_ring(ring, &reset_lock, NULL), 0);
	}
	push(1);
}

/* All about the first page of slot 0, and all taken back. */
static void make_used_ring_of_zeroes(uint32_t index)
{
	static const struct kvm_dirty_gfn zeroes[ENTRIES];

	for (uint32_t i = 0; i < index; i++)
		fake_ring_push(&kernel, side, 0, 0);
	consume(index, true);
	assert_memory_equal(side->cells, zeroes, sizeof(zeroes));
	assert_int_equal(side->reset_index, index);
	side->pushed = 0;
}

static void migrate_with_used_ring_of_zeroes(uint32_t index, uint32_t pages, uint32_t pages_a_pass)
{
	assert_int_equal(setup_unopened(NULL), 0);
	memset(&vmm, 0, sizeof(vmm));
	assert_int_equal(dli_vcpu_list_init(&vmm.vcpus), 0);
	make_used_ring_of_zeroes(index);
	open_ring();
	vmm.vcpu.ring = ring;
	assert_int_equal(dli_vcpu_list_append(&vmm.vcpus, &vmm.vcpu), 0);
	for (uint32_t i = 1; i <= pages; i++) {
		write_page();
		if (i % pages_a_pass == 0)
			harvest(false);
	}
	harvest(true);
	for (uint32_t i = 0; i < pages; i++)
		if (!vmm.handed_out[i])
			fail_msg("index %u: of %u pages, %u a pass, page %u is lost", index, pages,
				 pages_a_pass, i);
	pthread_mutex_destroy(&vmm.vcpus.lock);
	teardown(NULL);
}

/*
 * Nothing tells it from an unused one, but that the kernel does not go on at the first cell. What
 * it writes may be found late. It must be handed out by the final pass, and the vCPU must run.
 */
static void a_used_ring_of_zeroes_loses_nothing(void **state)
{
	/*
	 * Around the borders of a quarter of the ring, which is offered at once, and of the limit.
	 */
	static const uint32_t indices[] = { 1, 2, 63, 64, 65, 128, 191, 192, 193, 254, 255 };
	static const uint32_t pages[] = { 1, 2, 100, 191, 192, 193, 255, 256, 700 };
	static const uint32_t pages_a_pass[] = { 1, 7, 50, 256, UINT32_MAX };

	for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++)
		for (size_t n = 0; n < sizeof(pages) / sizeof(pages[0]); n++)
			for (size_t p = 0; p < sizeof(pages_a_pass) / sizeof(pages_a_pass[0]); p++)
				migrate_with_used_ring_of_zeroes(indices[i], pages[n],
								 pages_a_pass[p]);
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
	assert_true(dli_reset_repair_needed(&reset_lock));
	sunk.n = 0;
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
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	push(1);
	kernel.on_taken = push_onto_what_is_being_taken;
	assert_int_equal(drain(), 0);
	assert_int_equal(sunk.n, 1 + ENTRIES - 5 - 1);
	assert_true(dli_reset_repair_needed(&reset_lock));
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
		cmocka_unit_test(a_used_ring_of_zeroes_loses_nothing),
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
