/* SPDX-License-Identifier: MIT */
/*
 * One test for each way to get the ring protocol wrong that a real kernel can show; the numbers are
 * those of the list of hazards in doc/kernel.md. Others of that list are in the files that are
 * about their subject.
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

/* All is sent and nothing is written: from here on a pass sends what the test writes. */
static void settle(struct rig *rig)
{
	rig_pass(rig, 0);
	assert_int_equal(rig_pass(rig, 0), 0);
}

/* Handing back a cell that the kernel did not fill makes a vCPU exit for ever. */
static void hazard_03_harvesting_an_empty_ring(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	unsigned long long exits;

	(void)state;
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	for (int i = 0; i < 3 * ENTRIES; i++) {
		assert_int_equal(dl_harvest(rig->log, 0, NULL), 0);
		assert_int_equal(dl_vcpu_drain(rig->vcpus[0].log), 0);
	}
	for (uint64_t value = 1; value < 4; value++)
		rig_write(rig, 0, &range, value);
	exits = rig->vcpus[0].machine->full_exits;
	if (exits > 3 * PAGES / (ENTRIES / 2))
		fail_msg("%llu full exits for %d writes", exits, 3 * PAGES);
	rig_finish(rig);
}

/* An entry that was harvested in one lap is not dirty in the next. */
static void hazard_04_every_lap_counts_each_write_once(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .pages = 100 };
	uint64_t entries, writes = 0;

	(void)state;
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	settle(rig);
	entries = rig_stats(rig).entries;
	/* Parts of a lap, at every offset in the ring. */
	for (unsigned int round = 0; round < 50; round++) {
		range.first_page = round;
		rig_write(rig, 0, &range, round);
		assert_int_equal(dl_harvest(rig->log, 0, NULL), 0);
		writes += range.pages;
	}
	entries = rig_stats(rig).entries - entries;
	assert_in_range(entries, writes, writes + writes / 8);
	rig_finish(rig);
}

/* What KVM wrote into a cell is KVM's: it resets the page that the cell names. */
static void hazard_11_slot_and_offset_are_never_written(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct rig *rig;
	struct rig_slot *slot;
	struct kvm_dirty_gfn before[ENTRIES];

	(void)state;
	spy_init(&spy);
	rig = ring_rig(GUEST_USER, 1, &spy);
	slot = rig_slot(rig, 3, GUEST_DATA_GPA, PAGES);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
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

/* Entries of a slot that nobody told the log about are skipped, not looked up. */
static void hazard_12_entries_of_unknown_slots(void **state)
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
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	settle(rig);
	rig_write(rig, 0, &other, 1);
	rig_write(rig, 0, &range, 2);
	rig_write(rig, 0, &other, 3);
	rig_finish(rig);
	assert_in_range(rig_stats(rig).stale_entries, 200, 400);
	assert_int_equal(unknown->block->pages_sent, 0);
}

/*
 * A slot dies with entries in the ring and a smaller one takes its number before the log is told:
 * offsets behind its end must not reach it.
 */
static void hazard_12_slot_shrinks_with_entries_pending(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *large = rig_slot(rig, 5, GUEST_DATA_GPA, 600);
	struct rig_slot *small = rig_memory(rig, 5, GUEST_DATA_GPA, 64);
	struct rig_range range = whole(rig, large);

	(void)state;
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	settle(rig);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(machine_set_region(&rig->machine, 5, 0, large->gpa, 0, NULL), 0);
	assert_int_equal(machine_set_region(&rig->machine, 5, KVM_MEM_LOG_DIRTY_PAGES, small->gpa,
					    small->bytes, small->memory),
			 0);
	assert_int_equal(rig_slot_remove(rig, large, DL_SLOT_CALLER_IOCTL), 0);
	assert_int_equal(rig_slot_set(rig, small, DL_SLOT_CALLER_IOCTL, 0), 0);
	range = whole(rig, small);
	rig_write(rig, 0, &range, 2);
	rig_finish(rig);
}

static int leave_region(void *opaque, uint32_t slot, uint32_t kvm_flags)
{
	(void)opaque;
	(void)slot;
	(void)kvm_flags;
	return 0;
}

/* A VMM that tells of a slot as smaller than it made it: what lies behind is nobody's. */
static void hazard_12_offsets_behind_the_slots_end(void **state)
{
	const struct rig_config config = {
		.mode = DL_MODE_RING,
		.vcpus = 1,
		.set_region = leave_region,
	};
	struct rig *rig = rig_new(&config);
	struct rig_slot *large = rig_memory(rig, 5, GUEST_DATA_GPA, 600);
	struct rig_slot told = *large;
	struct rig_range range = whole(rig, large);

	(void)state;
	assert_int_equal(machine_set_region(&rig->machine, 5, KVM_MEM_LOG_DIRTY_PAGES, large->gpa,
					    large->bytes, large->memory),
			 0);
	told.bytes = 64 * rig->page_bytes;
	assert_int_equal(rig_slot_set(rig, &told, DL_SLOT_CALLER_IOCTL, 0), 0);
	checker_equalize(&rig->checker);
	assert_int_equal(dl_log_start(rig->log, DL_START_CLEAN), 0);
	rig_write(rig, 0, &range, 1);
	rig_pass(rig, 0);
	assert_in_range(rig_stats(rig).stale_entries, 600 - 64, 600);
	assert_int_equal(large->block->pages_sent, 64);
	assert_int_equal(checker_differing_pages(&rig->checker), 600 - 64);
}

static void set_initially_set(struct machine *machine)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { 3 },
	};

	if (ioctl(machine->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		rig_skip("this kernel has no KVM_DIRTY_LOG_INITIALLY_SET");
}

/* Beside a ring it would leave pages writable that nobody logs. */
static void hazard_18_initially_set_before_a_ring(void **state)
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
	rig_write(rig, 0, &range, 1); /* mapped writable before logging begins */
	checker_equalize(&rig->checker);
	assert_int_equal(dl_log_start(rig->log, DL_START_CLEAN), 0);
	rig_write(rig, 0, &range, 2);
	rig_finish(rig);
	assert_true(rig->checker.pages_sent >= 500);
}

/* The same page may be in the ring more than once; pending counts it once. */
static void hazard_26_pages_are_counted_not_entries(void **state)
{
	struct rig *rig = ring_rig(GUEST_USER, 2, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .first_page = 17, .pages = 300 };
	uint64_t pending_bytes = 0;
	struct dl_stats before, after;

	(void)state;
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	settle(rig);
	before = rig_stats(rig);
	for (uint64_t round = 0; round < 6; round++) {
		rig_write(rig, round % 2, &range, round);
		assert_int_equal(dl_harvest(rig->log, 0, &pending_bytes), 0);
		assert_int_equal(pending_bytes, 300 * rig->page_bytes);
	}
	after = rig_stats(rig);
	assert_int_equal(after.pending_bytes, 300 * rig->page_bytes);
	assert_int_equal(after.new_pages - before.new_pages, 300);
	assert_true(after.entries - before.entries >= 6 * 300);
	assert_int_equal(after.duplicates - before.duplicates,
			 after.entries - before.entries - 300);
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(hazard_03_harvesting_an_empty_ring),
		rig_test(hazard_04_every_lap_counts_each_write_once),
		rig_test(hazard_11_slot_and_offset_are_never_written),
		rig_test(hazard_12_entries_of_unknown_slots),
		rig_test(hazard_12_slot_shrinks_with_entries_pending),
		rig_test(hazard_12_offsets_behind_the_slots_end),
		rig_test(hazard_18_initially_set_before_a_ring),
		rig_test(hazard_26_pages_are_counted_not_entries),
	};

	return rig_run_tests("hazards", tests);
}
