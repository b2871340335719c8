/* SPDX-License-Identifier: MIT */
/*
 * Opening a ring: where it is mapped, and at which cell its reader begins, also in a ring that was
 * used before or has overflowed.
 */
#include "one_ring.h"
#include "ring/vcpu_list.h"
#include "words_of.h"

#include <errno.h>
#include <string.h>

enum { FD = FAKE_VCPU_FD, MAX_EXITS = 64 };

#define start_test(function) cmocka_unit_test_setup_teardown(function, setup_unopened, teardown)

/* A former reader released n cells. */
static void consume(uint32_t n, bool and_reset)
{
	for (uint32_t i = 0; i < n; i++)
		kernel_ring->cells[(kernel_ring->reset_index + i) & (ENTRIES - 1)].flags =
			CELL_RESET;
	if (and_reset)
		assert_int_equal(
			kernel.fake.os.ioctl(&kernel.fake, FAKE_VM_FD, KVM_RESET_DIRTY_RINGS, NULL),
			n);
}

static void a_used_ring_is_read_from_its_first_dirty_cell(void **state)
{
	push(150);
	consume(150, true);
	push(60);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_published(150, 60);
	push(100);
	assert_int_equal(drain(), 0);
	expect_published(150, 160);
	assert_int_equal(kernel_ring->reset_index, kernel_ring->dirty_index);
}

/* All entries name page 0 of slot 0, so only a flag shows that the ring was used. */
static void entries_of_zeroes_show_that_the_ring_was_used(void **state)
{
	for (int i = 0; i < 6; i++)
		fake_ring_push(&kernel, kernel_ring, 0, 0);
	consume(5, true);
	open_ring();
	assert_int_equal(drain(), 0);
	assert_int_equal(published.n, 1);
	assert_int_equal(published.slots[0], 0);
	assert_int_equal(published.offsets[0], 0);
	published.n = 0;
	push(20);
	assert_int_equal(drain(), 0);
	expect_published(6, 20);
	assert_int_equal(kernel_ring->reset_index, kernel_ring->dirty_index);
}

static void released_cells_of_zeroes_show_that_the_ring_was_used(void **state)
{
	for (int i = 0; i < 3; i++)
		fake_ring_push(&kernel, kernel_ring, 0, 0);
	consume(3, false);
	open_ring();
	assert_int_equal(kernel_ring->reset_index, 3);
	kernel_ring->pushed = 0;
	push(20);
	assert_int_equal(drain(), 0);
	expect_published(0, 20);
}

/* The VMM's part of a migration over one ring. */
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
	published.override = hand_out;
	assert_int_equal(dli_drain_all(&vmm.vcpus, &reset_lock, last, NULL), 0);
	if (!dli_reset_repair_needed(&reset_lock))
		return;
	memset(vmm.handed_out, true, kernel_ring->pushed);
	dli_reset_repaired(&reset_lock);
}

/* Each page is written once: only its entry or a later repair can hand it out. */
static void write_page(void)
{
	for (int exits = 0; !fake_ring_enter(&kernel, kernel_ring); exits++) {
		assert_true(exits < MAX_EXITS);
		published.override = hand_out;
		assert_int_equal(dli_drain_ring(ring, &reset_lock, NULL), 0);
	}
	push(1);
}

/* All entries name page 0 of slot 0, and all are reset. */
static void make_used_ring_of_zeroes(uint32_t index)
{
	static const struct kvm_dirty_gfn zeroes[ENTRIES];

	for (uint32_t i = 0; i < index; i++)
		fake_ring_push(&kernel, kernel_ring, 0, 0);
	consume(index, true);
	assert_memory_equal(kernel_ring->cells, zeroes, sizeof(zeroes));
	assert_int_equal(kernel_ring->reset_index, index);
	kernel_ring->pushed = 0;
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
			fail_msg("index %u, %u pages, %u a pass: page %u is lost", index, pages,
				 pages_a_pass, i);
	pthread_mutex_destroy(&vmm.vcpus.lock);
	teardown(NULL);
}

/*
 * Such a ring looks unused, but the kernel does not continue at the first cell. Entries may be
 * found late, yet the final pass must hand out every page, and the vCPU must run.
 */
static void a_used_ring_of_zeroes_loses_nothing(void **state)
{
	/* Around the limit, and around a quarter of the ring, which is offered at once. */
	static const uint32_t indices[] = { 1, 2, 63, 64, 65, 128, 191, 192, 193, 254, 255 };
	static const uint32_t pages[] = { 1, 2, 100, 191, 192, 193, 255, 256, 700 };
	static const uint32_t pages_a_pass[] = { 1, 7, 50, 256, UINT32_MAX };

	for (size_t i = 0; i < sizeof(indices) / sizeof(indices[0]); i++)
		for (size_t n = 0; n < sizeof(pages) / sizeof(pages[0]); n++)
			for (size_t p = 0; p < sizeof(pages_a_pass) / sizeof(pages_a_pass[0]); p++)
				migrate_with_used_ring_of_zeroes(indices[i], pages[n],
								 pages_a_pass[p]);
}

static void entries_that_wrap_are_read_from_the_first(void **state)
{
	push(190);
	consume(190, true);
	push(120);
	open_ring();
	assert_int_equal(drain(), 0);
	expect_published(190, 120);
	assert_int_equal(kernel_ring->reset_index, kernel_ring->dirty_index);
}

static void released_cells_are_reset_first(void **state)
{
	push(100);
	consume(40, false);
	open_ring();
	assert_int_equal(kernel_ring->reset_index, 40);
	assert_int_equal(drain(), 0);
	expect_published(40, 60);
	assert_int_equal(kernel_ring->reset_index, 100);
}

static void a_failed_reset_fails_the_opening(void **state)
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
	expect_published(0, 0);
	push(5);
	assert_int_equal(drain(), 0);
	expect_published(77, 5);
	assert_int_equal(kernel_ring->reset_index, 82);
}

/* The ring had no reader: it is full up to the soft limit, from the first cell on. */
static void a_full_ring_is_read_and_its_vcpu_runs(void **state)
{
	push(SOFT_LIMIT);
	open_ring();
	assert_false(fake_ring_enter(&kernel, kernel_ring));
	assert_int_equal(drain(), 0);
	expect_published(0, SOFT_LIMIT);
	assert_true(fake_ring_enter(&kernel, kernel_ring));
}

/* No cell shows where to begin. The vCPU must run again, and a repair is needed. */
static void an_overflowed_ring_is_recovered(void **state)
{
	push(ENTRIES + 30);
	open_ring();
	for (int exits = 0; !fake_ring_enter(&kernel, kernel_ring); exits++) {
		assert_true(exits < MAX_EXITS);
		assert_int_equal(drain(), 0);
	}
	assert_true(dli_reset_repair_needed(&reset_lock));
	published.n = 0;
	push(50);
	assert_int_equal(drain(), 0);
	expect_published(ENTRIES + 30, 50);
	push(100);
	assert_int_equal(drain(), 0);
	expect_published(ENTRIES + 30, 150);
}

/* While the kernel resets cell 5, the vCPU laps the ring up to that cell. */
static void push_onto_the_cell_being_reset(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	if (kernel_ring->reset_index == 6)
		push(ENTRIES - 5);
}

/* The reset then cleans the cell, which destroys the new entry in it. */
static void lap_while_cells_are_offered(bool overflowed)
{
	open_ring();
	push(ENTRIES + 10);
	assert_int_equal(drain(), 0);
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
	atomic_store(&reset_lock.overflowed, overflowed);
	push(1);
	kernel.on_consumed = push_onto_the_cell_being_reset;
	assert_int_equal(drain(), 0);
	kernel.on_consumed = NULL;
	assert_true(dli_reset_repair_needed(&reset_lock));
	dli_reset_repaired(&reset_lock);
}

static void lapping_while_cells_are_offered_requests_a_repair(void **state)
{
	lap_while_cells_are_offered(false);
	assert_int_equal(published.n, 1 + ENTRIES - 5 - 1);
}

/* The cell that was cleaned could hide that the kernel laps on. */
static void lapping_while_cells_are_offered_keeps_a_ring_out_of_sync(void **state)
{
	lap_while_cells_are_offered(true);
	assert_int_equal(published.n, 0);
	assert_int_equal(stats()->overflows, 2);
	push(3);
	assert_int_equal(drain(), 0);
	expect_published(ENTRIES + 10 + 1 + ENTRIES - 5, 3);
}

/* A cell left released would be reset before it is filled, and keep the vCPU out for ever. */
static void cells_offered_in_vain_are_withdrawn(void **state)
{
	open_ring();
	push(ENTRIES);
	assert_int_equal(drain(), 0);
	push(1);
	/* Both of the kernel's indices are at the same dirty cell, so the reset consumes none. */
	assert_int_equal(drain(), 0);
	expect_published(ENTRIES, 1);
	for (int i = 0; i < ENTRIES; i++)
		assert_int_equal(kernel_ring->cells[i].flags, CELL_CLEAN);
}

static void the_ring_is_mapped_at_64_host_pages(void **state)
{
	static const uint32_t pages[] = { 4096, 16384, 65536 };

	for (size_t i = 0; i < 3; i++) {
		struct dli_ring *other = NULL;

		kernel.fake.os.page_bytes = pages[i];
		/* The fake accepts exactly this offset and length. */
		assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &other),
				 0);
		dli_ring_free(other);
	}
	kernel.fake.os.page_bytes = 4096;
}

static void a_failed_mapping_leaves_nothing(void **state)
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

static void a_second_mapping_of_a_ring_is_recognized(void **state)
{
	static const uint32_t flags[] = { CELL_CLEAN, CELL_DIRTY, CELL_RESET };
	struct dli_ring *same, *other;

	open_ring();
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD, ENTRIES, &reset_lock, &same), 0);
	assert_int_equal(dli_ring_new(&kernel.fake.os, FD + 1, ENTRIES, &reset_lock, &other), 0);
	for (size_t i = 0; i < 3; i++) {
		kernel_ring->cells[0].flags = flags[i];
		assert_true(dli_ring_same(same, ring));
		assert_false(dli_ring_same(other, ring));
		assert_int_equal(kernel_ring->cells[0].flags, flags[i]);
		assert_int_equal(kernel.rings[1].cells[0].flags, 0);
	}
	/* A bit that was set before proves nothing. */
	kernel_ring->cells[0].flags = 4;
	assert_false(dli_ring_same(other, ring));
	dli_ring_free(same);
	dli_ring_free(other);
}

/*
 * Two full exits that find little nudge the kernel. Not if a resync was possible and its reset
 * failed: the drain returns that failure.
 */
static void a_failed_resync_is_returned(void **state)
{
	open_ring();
	push(ENTRIES + 10);
	assert_int_equal(drain(), 0);
	assert_false(fake_ring_enter(&kernel, kernel_ring));
	assert_int_equal(drain(), 0);
	assert_false(fake_ring_enter(&kernel, kernel_ring));
	push(1);
	kernel.reset_errors = 1;
	kernel.reset_error = -EIO;
	assert_int_equal(drain(), -EIO);
	assert_int_equal(kernel.reset_errors, 0);
	/* The failed reset may have taken cells back: what was found before proves nothing now. */
	assert_false(dli_ring_nudge_armed(ring));
	for (int exits = 0; !fake_ring_enter(&kernel, kernel_ring); exits++) {
		assert_true(exits < MAX_EXITS);
		assert_int_equal(drain(), 0);
	}
	assert_false(kernel.overshot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		start_test(a_used_ring_is_read_from_its_first_dirty_cell),
		start_test(entries_of_zeroes_show_that_the_ring_was_used),
		start_test(released_cells_of_zeroes_show_that_the_ring_was_used),
		cmocka_unit_test(a_used_ring_of_zeroes_loses_nothing),
		start_test(entries_that_wrap_are_read_from_the_first),
		start_test(released_cells_are_reset_first),
		start_test(a_failed_reset_fails_the_opening),
		start_test(an_empty_used_ring_waits_for_its_first_entry),
		start_test(a_full_ring_is_read_and_its_vcpu_runs),
		start_test(an_overflowed_ring_is_recovered),
		start_test(lapping_while_cells_are_offered_requests_a_repair),
		start_test(lapping_while_cells_are_offered_keeps_a_ring_out_of_sync),
		start_test(cells_offered_in_vain_are_withdrawn),
		start_test(the_ring_is_mapped_at_64_host_pages),
		start_test(a_failed_mapping_leaves_nothing),
		start_test(a_second_mapping_of_a_ring_is_recognized),
		start_test(a_failed_resync_is_returned),
	};

	return RUN_TESTS("ring start", tests);
}
