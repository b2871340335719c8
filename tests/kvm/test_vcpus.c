/* SPDX-License-Identifier: MIT */
/* vCPUs that are added, removed and added again while others run and are harvested. */
#include "rig.h"

#include <errno.h>

enum {
	PAGES = 300,
	RING_PAGES = 1200, /* more than a ring of 1024 entries holds */
	ROUNDS = 12,
};

static struct rig *open_rig(uint32_t mode, unsigned int vcpus)
{
	struct rig_config config = { .mode = mode, .vcpus = vcpus };

	return rig_new(&config);
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

static void park(struct rig *rig, unsigned int vcpu)
{
	dl_vcpu_remove(rig->vcpus[vcpu].log);
	rig->vcpus[vcpu].log = NULL;
}

static void vcpus_are_added_late(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);

	rig_join(rig, 0);
	rig_count(rig, 0, &range);
	for (unsigned int i = 1; i < 6; i++) {
		rig_passes(rig, 1);
		rig_vcpu(rig, true);
		range.shuffled = i % 2;
		rig_count(rig, i, &range);
	}
	rig_passes(rig, 2);
	rig_finish(rig);
}

static void ring_vcpus_are_added_late(void **state)
{
	(void)state;
	vcpus_are_added_late(DL_MODE_RING);
}

static void bitmap_vcpus_are_added_late(void **state)
{
	(void)state;
	vcpus_are_added_late(DL_MODE_BITMAP);
}

/*
 * Hazard 23 of doc/kernel.md: the entries of a removed vCPU stay in its ring, which is harvested.
 */
static void parked_vcpu_is_harvested(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, 2);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 1; round < ROUNDS; round++) {
		uint64_t sent = slot->block->pages_sent;

		rig_write(rig, 1, &range, round);
		park(rig, 1);
		rig_pass(rig, round % 2 ? DL_HARVEST_PAUSED : 0);
		assert_true(slot->block->pages_sent >= sent + PAGES);
		checker_expect_equal(&rig->checker);
		rig_vcpu_add(rig, &rig->vcpus[1]);
	}
	rig_finish(rig);
}

/* The vCPU is added again before its ring was harvested. */
static void parked_vcpu_continues_its_ring(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, 2);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .pages = PAGES / 3 };
	struct dl_vcpu *again;

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 0; round < ROUNDS; round++) {
		range.first_page = (round % 3) * range.pages;
		rig_write(rig, 1, &range, round);
		park(rig, 1);
		rig_vcpu_add(rig, &rig->vcpus[1]);
		assert_int_equal(dl_vcpu_add(rig->log, rig->vcpus[1].machine->fd, 0, 0, &again),
				 -EEXIST);
		if (round % 4 == 3) {
			rig_pass(rig, 0);
			checker_expect_equal(&rig->checker);
		}
	}
	rig_finish(rig);
}

/* The vCPU ran before logging started, and is added while logging is on. */
static void vcpu_that_ran_unlogged_may_be_added(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);

	(void)state;
	rig_vcpu(rig, false);
	rig_write(rig, 1, &range, 1);
	rig_join(rig, 0);
	rig_vcpu_add(rig, &rig->vcpus[1]);
	rig_pass(rig, 0);
	rig_write(rig, 1, &range, 2);
	rig_finish(rig);
}

/* Removes and adds vCPUs repeatedly, while the others write and a second thread harvests. */
static void hotplug_loop(uint32_t mode, enum guest_mode guest)
{
	struct rig_config config = { .mode = mode, .guest = guest, .vcpus = 3 };
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_start_worker(rig, 0, rig_harvest_step);
	for (int round = 0; round < ROUNDS; round++) {
		unsigned int parked = 1 + (unsigned int)round % 2;

		assert_int_equal(machine_stop(rig->vcpus[parked].machine), MACHINE_STOPPED);
		park(rig, parked);
		rig_passes(rig, 1);
		rig_vcpu_add(rig, &rig->vcpus[parked]);
		assert_int_equal(machine_go(rig->vcpus[parked].machine, NULL), 0);
		rig_passes(rig, 1);
	}
	rig_end_workers(rig);
	rig_finish(rig);
}

static void ring_hotplug_loop_user_guest(void **state)
{
	(void)state;
	hotplug_loop(DL_MODE_RING, GUEST_USER);
}

static void ring_hotplug_loop_kernel_guest(void **state)
{
	(void)state;
	hotplug_loop(DL_MODE_RING, GUEST_KERNEL);
}

static void bitmap_hotplug_loop(void **state)
{
	(void)state;
	hotplug_loop(DL_MODE_BITMAP, GUEST_USER);
}

/*
 * Hazards 9 and 10 of doc/kernel.md: two threads reset at the same time, a vCPU because its ring is
 * full and a harvester. Neither may assume that the entries of the other are protected before they
 * are, and neither reset may make the other one look short.
 */
static void concurrent_resets(enum guest_mode guest)
{
	const struct rig_config config = {
		.mode = DL_MODE_RING,
		.guest = guest,
		.vcpus = 2,
		.ring_entries = 1024,
	};
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 2 * RING_PAGES);
	struct rig_range half = { .slot = slot, .pages = RING_PAGES };

	rig_join(rig, 0);
	for (unsigned int i = 0; i < 2; i++) {
		half.first_page = i * RING_PAGES;
		half.shuffled = i;
		rig_count(rig, i, &half);
	}
	rig_start_worker(rig, 0, rig_harvest_step);
	rig_start_worker(rig, 1, rig_harvest_step);
	rig_passes(rig, 6);
	rig_end_workers(rig);
	/* Now without harvests: each vCPU has to drain its own ring. */
	for (unsigned int i = 0; i < 2; i++) {
		unsigned long long before = atomic_load(&rig->vcpus[i].machine->full_exits);

		rig_wait_rounds(rig, i, 2);
		while (guest == GUEST_USER &&
		       atomic_load(&rig->vcpus[i].machine->full_exits) == before)
			rig_wait_rounds(rig, i, 1);
	}
	rig_passes(rig, 2);
	rig_finish(rig);
	if (guest == GUEST_USER)
		assert_int_equal(rig_stats(rig).short_resets, 0);
}

static void concurrent_resets_user_guest(void **state)
{
	(void)state;
	concurrent_resets(GUEST_USER);
}

static void concurrent_resets_kernel_guest(void **state)
{
	(void)state;
	concurrent_resets(GUEST_KERNEL);
}

static void vcpu_statistics_match_the_writes(void **state)
{
	const struct rig_config config = {
		.mode = DL_MODE_RING,
		.vcpus = 2,
		.ring_entries = 1024,
	};
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 2000);
	struct rig_range range = whole(rig, slot);
	struct dl_stats busy = { .size = sizeof(busy) }, idle = busy, all;

	(void)state;
	rig_join(rig, DL_CURSOR_CLEAN);
	rig_write(rig, 1, &range, 1);
	(void)rig_harvest(rig, 0);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[0].log, &idle), 0);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[1].log, &busy), 0);
	all = rig_stats(rig);
	assert_int_equal(idle.entries, 0);
	assert_int_equal(idle.full_exits, 0);
	assert_true(busy.entries >= 2000);
	assert_int_equal(busy.new_pages, 2000);
	assert_int_equal(busy.full_exits, rig->vcpus[1].machine->full_exits);
	assert_true(busy.full_exits >= 1);
	assert_in_range(busy.high_water_entries, 256, 1024);
	assert_int_equal(all.entries, busy.entries);
	assert_int_equal(all.new_pages, 2000);
	assert_int_equal(all.full_exits, busy.full_exits);
	assert_int_equal(all.overflows, 0);
	assert_int_equal(checker_pending(&rig->checker), 2000 * rig->page_bytes);
}

/* Soon while a ring fills; never without a consumer, or with bitmaps. */
static void a_reaper_is_told_when_to_come_back(void **state)
{
	const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig *rig = open_rig(modes[i], 1);
		struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
		struct rig_range range = whole(rig, slot);
		uint64_t again_ns = 0;

		assert_int_equal(dl_log_reap(rig->log, 0, &again_ns), 0);
		assert_true(again_ns == UINT64_MAX);
		rig_join(rig, 0);
		rig_write(rig, 0, &range, 1);
		assert_int_equal(dl_log_reap(rig->log, 0, &again_ns), 0);
		assert_int_equal(again_ns == UINT64_MAX, modes[i] == DL_MODE_BITMAP);
		rig_leave(rig);
		assert_int_equal(dl_log_reap(rig->log, 0, &again_ns), 0);
		assert_true(again_ns == UINT64_MAX);
		rig_free(rig);
	}
}

/* KVM maps the ring of such a vCPU at any length, and raises SIGBUS at the first touch. */
static void vcpus_of_other_vms_are_recognised_by_their_rings(void **state)
{
	static const uint32_t ring_entries[] = { 0, 1024 };
	struct rig *rig = open_rig(DL_MODE_RING, 1);

	(void)state;
	assert_true(rig->log_config.ring_entries > 1024);
	for (unsigned int i = 0; i < 2; i++) {
		struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_BITMAP };
		struct machine_vcpu *vcpu;
		struct machine other;
		struct dl_vcpu *added;
		struct dl_log *log;

		options.ring_entries = ring_entries[i];
		if (ring_entries[i])
			options.mode = DL_MODE_RING;
		assert_int_equal(machine_open(&other), 0);
		assert_int_equal(dl_log_open(other.vm_fd, &options, &log, NULL, 0), 0);
		assert_int_equal(machine_add_vcpu(&other, &vcpu), 0);
		assert_int_equal(dl_vcpu_add(rig->log, vcpu->fd, 0, 0, &added), -EBADF);
		dl_log_close(log);
		machine_close(&other);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_vcpus_are_added_late),
		rig_test(bitmap_vcpus_are_added_late),
		rig_test(parked_vcpu_is_harvested),
		rig_test(parked_vcpu_continues_its_ring),
		rig_test(vcpu_that_ran_unlogged_may_be_added),
		rig_test(ring_hotplug_loop_user_guest),
		rig_test(ring_hotplug_loop_kernel_guest),
		rig_test(bitmap_hotplug_loop),
		rig_test(concurrent_resets_user_guest),
		rig_test(concurrent_resets_kernel_guest),
		rig_test(vcpu_statistics_match_the_writes),
		rig_test(a_reaper_is_told_when_to_come_back),
		rig_test(vcpus_of_other_vms_are_recognised_by_their_rings),
	};

	return rig_run_tests("vcpus", tests);
}
