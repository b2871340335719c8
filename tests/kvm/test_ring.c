/* SPDX-License-Identifier: MIT */
/*
 * The ring protocol: which cells the library releases and what it makes of their entries. Each test
 * provokes a mistake that shows on a real kernel.
 */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	PAGES = 2048,
	ENTRIES = 1024,
};

static struct rig *ring_rig(enum guest_mode guest, unsigned int vcpus, struct spy *spy)
{
	struct rig_config config = {
		.guest = guest,
		.mode = DL_MODE_RING,
		.ring_entries = ENTRIES,
		.vcpus = vcpus,
		.spy = spy,
	};

	return rig_new(&config);
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

/* Sends all pending pages, so that the next pass sends only what the test writes from here on. */
static void settle(struct rig *rig)
{
	rig_pass(rig, 0);
	assert_int_equal(rig_pass(rig, 0), 0);
}

/*
 * Hazard 3 of doc/kernel.md: releasing a cell that the kernel has not filled can keep the vCPU from
 * ever entering the guest again.
 */
static void harvests_of_an_empty_ring_release_no_cell(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	unsigned long long exits;

	(void)state;
	rig_join(rig, 0);
	for (int i = 0; i < 3 * ENTRIES; i++) {
		(void)rig_harvest(rig, 0);
		assert_int_equal(dl_vcpu_drain(rig->vcpus[0].log, 0), 0);
	}
	for (uint64_t value = 1; value < 4; value++)
		rig_write(rig, 0, &range, value);
	exits = rig->vcpus[0].machine->full_exits;
	if (exits > 3 * PAGES / (ENTRIES / 2))
		fail_msg("%llu exits for a full ring after %d writes, expected at most %d", exits,
			 3 * PAGES, 3 * PAGES / (ENTRIES / 2));
	rig_finish(rig);
}

/* Hazard 4 of doc/kernel.md: an entry harvested in one lap is not dirty in the next. */
static void every_lap_counts_each_write_once(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .pages = 100 };
	uint64_t entries, writes = 0;

	(void)state;
	rig_join(rig, 0);
	settle(rig);
	entries = rig_stats(rig).entries;
	/* 100 does not divide the ring size, so every round starts at another cell. */
	for (unsigned int round = 0; round < 50; round++) {
		range.first_page = round;
		rig_write(rig, 0, &range, round);
		(void)rig_harvest(rig, 0);
		writes += range.pages;
	}
	entries = rig_stats(rig).entries - entries;
	assert_in_range(entries, writes, writes + writes / 8);
	rig_finish(rig);
}

/*
 * Hazard 11 of doc/kernel.md: slot and offset of a cell belong to the kernel, which reads them
 * again at reset to find the page to protect.
 */
static void slot_and_offset_of_a_cell_are_never_written(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct rig *rig;
	struct rig_slot *slot;
	struct kvm_dirty_gfn before[ENTRIES];

	(void)state;
	spy_init(&spy);
	rig = ring_rig(GUEST_USER, 1, &spy);
	slot = rig_slot(rig, 3, GUEST_DATA_GPA, PAGES);
	rig_join(rig, 0);
	settle(rig);
	assert_int_equal(spy.ring_count, 1);
	assert_int_equal(spy.rings[0].entries, ENTRIES);
	for (uint64_t round = 0; round < 8; round++) {
		struct rig_range range = { .slot = slot, .first_page = 300, .pages = 700 };
		int dirty = 0;

		range.shuffled = round % 2;
		rig_write(rig, 0, &range, round);
		memcpy(before, spy.rings[0].cells, sizeof(before));
		rig_pass(rig, 0);
		for (int i = 0; i < ENTRIES; i++) {
			const struct kvm_dirty_gfn *now = &spy.rings[0].cells[i];

			dirty += before[i].flags == KVM_DIRTY_GFN_F_DIRTY;
			assert_int_equal(now->slot, before[i].slot);
			assert_int_equal(now->offset, before[i].offset);
			assert_int_equal(now->flags, 0);
		}
		assert_true(dirty >= 700);
	}
	rig_finish(rig);
}

/* Hazard 12 of doc/kernel.md: entries of a slot that was never registered are skipped. */
static void entries_of_unknown_slots_are_skipped(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *unknown = rig_memory(rig, 77, 8ull * GUEST_DATA_GPA, 200);
	struct rig_range range = whole(rig, slot), other = whole(rig, unknown);

	(void)state;
	unknown->block->ignored = true;
	assert_int_equal(machine_set_region(&rig->machine, unknown->slot, KVM_MEM_LOG_DIRTY_PAGES,
					    unknown->gpa, unknown->bytes, unknown->memory),
			 0);
	rig_join(rig, 0);
	settle(rig);
	rig_write(rig, 0, &other, 1);
	rig_write(rig, 0, &range, 2);
	rig_write(rig, 0, &other, 3);
	rig_finish(rig);
	assert_in_range(rig_stats(rig).stale_entries, 200, 400);
	assert_int_equal(unknown->block->pages_sent, 0);
}

/*
 * Hazard 12 of doc/kernel.md: a slot is deleted with entries in the ring, and a smaller one takes
 * its number before the log learns of it. Offsets past the end of the new slot must be skipped.
 */
static void entries_of_a_deleted_slot_do_not_reach_its_successor(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *large = rig_slot(rig, 5, GUEST_DATA_GPA, 600);
	struct rig_slot *small = rig_memory(rig, 5, GUEST_DATA_GPA, 64);
	struct rig_range range = whole(rig, large);

	(void)state;
	rig_join(rig, 0);
	settle(rig);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(rig_slot_remove(rig, large), 0);
	large->block->ignored = true;
	assert_int_equal(rig_slot_set(rig, small, 0, 0), 0);
	range = whole(rig, small);
	rig_write(rig, 0, &range, 2);
	rig_finish(rig);
}

static void set_initially_set(struct machine *machine)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { 3 },
	};

	if (ioctl(machine->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		rig_skip("this kernel does not support KVM_DIRTY_LOG_INITIALLY_SET");
}

/*
 * Hazard 18 of doc/kernel.md: with KVM_DIRTY_LOG_INITIALLY_SET, starting to log leaves pages
 * writable, and a ring never gets an entry for them. The library must clear it.
 */
static void initially_set_before_open_loses_no_page(void **state)
{
	struct rig_config config = {
		.mode = DL_MODE_RING,
		.vcpus = 1,
		.before_open = set_initially_set,
	};
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 500);
	struct rig_range range = whole(rig, slot);

	(void)state;
	rig_write(rig, 0, &range, 1); /* mapped writable before logging starts */
	checker_equalize(&rig->checker);
	rig_join(rig, DL_CURSOR_CLEAN);
	rig_write(rig, 0, &range, 2);
	rig_finish(rig);
	assert_true(rig->checker.pages_sent >= 500);
}

/* Hazard 26 of doc/kernel.md: a page with several entries in the ring is pending once. */
static void pending_counts_pages_not_entries(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 2, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .first_page = 17, .pages = 300 };
	uint64_t pending_bytes = 0;
	struct dl_stats before, after;

	(void)state;
	rig_join(rig, 0);
	settle(rig);
	before = rig_stats(rig);
	for (uint64_t round = 0; round < 6; round++) {
		rig_write(rig, round % 2, &range, round);
		assert_int_equal(checker_harvest(&rig->checker, 0, &pending_bytes), 0);
		assert_int_equal(pending_bytes, 300 * rig->page_bytes);
	}
	after = rig_stats(rig);
	assert_int_equal(checker_pending(&rig->checker), 300 * rig->page_bytes);
	assert_int_equal(after.new_pages - before.new_pages, 300);
	assert_true(after.entries - before.entries >= 6 * 300);
	assert_int_equal(after.duplicates - before.duplicates,
			 after.entries - before.entries - 300);
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(harvests_of_an_empty_ring_release_no_cell),
		rig_test(every_lap_counts_each_write_once),
		rig_test(slot_and_offset_of_a_cell_are_never_written),
		rig_test(entries_of_unknown_slots_are_skipped),
		rig_test(entries_of_a_deleted_slot_do_not_reach_its_successor),
		rig_test(initially_set_before_open_loses_no_page),
		rig_test(pending_counts_pages_not_entries),
	};

	return rig_run_tests("ring", tests);
}
