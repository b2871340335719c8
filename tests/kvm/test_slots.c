/* SPDX-License-Identifier: MIT */
/*
 * Memslots that come, go and move in the middle of a migration, while vCPUs write: by the library's
 * ioctl, and by the VMM's own.
 */
#include "rig.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

enum {
	PAGES = 300,
	SMALL_PAGES = 100, /* not a multiple of 64 */
	ROUNDS = 6,
};

static const uint64_t HERE = GUEST_DATA_GPA;
static const uint64_t THERE = 8ull * GUEST_DATA_GPA;

/* For VMMs that make the region ioctls: gives a slot its flags, as such a VMM would. */
static int set_region(void *opaque, uint32_t slot, uint32_t kvm_flags)
{
	struct rig *rig = opaque;

	for (unsigned int i = rig->slot_count; i-- > 0;) {
		const struct rig_slot *s = &rig->slots[i];

		if (s->slot == slot)
			return machine_set_region(&rig->machine, slot, kvm_flags, s->gpa, s->bytes,
						  s->memory);
	}
	return -ENOENT;
}

struct variant {
	uint32_t mode;
	bool caller_ioctl;
};

static struct rig *open_rig(const struct variant *variant, unsigned int vcpus)
{
	struct rig_config config = {
		.mode = variant->mode,
		.vcpus = vcpus,
		.set_region = variant->caller_ioctl ? set_region : NULL,
	};

	return rig_new(&config);
}

/* Creates or changes a slot as the variant does it. Logging has to be on in what the VMM creates.
 */
static void set(struct rig *rig, const struct variant *variant, const struct rig_slot *slot,
		uint32_t kvm_flags)
{
	uint32_t flags = 0;

	if (variant->caller_ioctl) {
		flags = DL_SLOT_CALLER_IOCTL;
		assert_int_equal(machine_set_region(&rig->machine, slot->slot, kvm_flags, slot->gpa,
						    slot->bytes, slot->memory),
				 0);
	}
	assert_int_equal(rig_slot_set(rig, slot, flags, kvm_flags), 0);
}

static void remove_slot(struct rig *rig, const struct variant *variant, const struct rig_slot *slot)
{
	uint32_t flags = 0;

	if (variant->caller_ioctl) {
		flags = DL_SLOT_CALLER_IOCTL;
		assert_int_equal(machine_set_region(&rig->machine, slot->slot, 0, slot->gpa, 0,
						    slot->memory),
				 0);
	}
	assert_int_equal(rig_slot_remove(rig, slot, flags), 0);
}

/* vCPU 0 counts in a slot that stays, vCPU 1 in one that the test is going to pull away. */
static void start_counting(struct rig *rig, const struct rig_slot *stays,
			   const struct rig_slot *goes)
{
	struct rig_range range = { .slot = stays, .pages = stays->bytes / rig->page_bytes };

	assert_int_equal(dl_log_start(rig->log, 0), 0);
	rig_count(rig, 0, &range);
	range = (struct rig_range){ .slot = goes, .pages = goes->bytes / rig->page_bytes };
	rig_count(rig, 1, &range);
}

static void slots_are_added_while_logging(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 1);
	struct rig_slot *first = rig_slot(rig, 0, HERE, PAGES);

	assert_int_equal(dl_log_start(rig->log, 0), 0);
	rig_count_all(rig, first);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		struct rig_slot *new = rig_memory(rig, i, THERE + i * HERE, SMALL_PAGES + i);
		struct rig_range range = { .slot = new, .pages = SMALL_PAGES + i };

		set(rig, variant, new, 0);
		rig_passes(rig, 1);
		assert_true(new->block->pages_sent >= SMALL_PAGES + i);
		rig_stop(rig);
		rig_write(rig, 0, &range, i);
		rig_count_all(rig, first);
	}
	rig_finish(rig);
}

/* The same memory under the same number, without a stop of the vCPU that writes to it. */
static void slot_is_recreated_over_its_memory(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, PAGES);

	start_counting(rig, stays, goes);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t sent;

		rig_passes(rig, 1);
		rig_wait_rounds(rig, 1, 1);
		sent = goes->block->pages_sent;
		remove_slot(rig, variant, goes);
		if (round % 2)
			rig_pass(rig, 0);
		set(rig, variant, goes, 0);
		rig_passes(rig, 1);
		assert_true(goes->block->pages_sent >= sent + PAGES);
	}
	rig_finish(rig);
}

/* What was written to a slot that is gone is handed out all the same. */
static void removed_slot_is_handed_out_once_more(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	uint64_t sent;

	start_counting(rig, stays, goes);
	rig_passes(rig, 2);
	rig_wait_rounds(rig, 1, 1);
	sent = goes->block->pages_sent;
	remove_slot(rig, variant, goes);
	while (!atomic_load(&rig->vcpus[1].machine->lost_accesses))
		sched_yield();
	rig_pass(rig, 0);
	assert_true(goes->block->pages_sent >= sent + SMALL_PAGES);
	sent = goes->block->pages_sent;
	rig_finish(rig);
	assert_int_equal(goes->block->pages_sent, sent);
}

static void slot_moves(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = goes, .pages = SMALL_PAGES };

	start_counting(rig, stays, goes);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t sent;

		rig_passes(rig, 1);
		rig_wait_rounds(rig, 1, 1);
		goes->gpa = round % 2 ? THERE : 2 * THERE;
		set(rig, variant, goes, 0);
		sent = goes->block->pages_sent;
		rig_pass(rig, 0);
		assert_true(goes->block->pages_sent >= sent + SMALL_PAGES);
		/* The vCPU goes on where nothing is any more, until it is told the new place. */
		assert_int_equal(machine_stop(rig->vcpus[1].machine), MACHINE_STOPPED);
		rig_write(rig, 1, &range, (uint64_t)round);
		rig_count(rig, 1, &range);
		assert_int_equal(dl_mark(rig->log, 0, goes->gpa, 1), 0);
	}
	rig_finish(rig);
}

/* Two slots that take each other's memory under numbers and addresses that were taken before. */
static void slots_swap_their_memory(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 2);
	struct rig_slot *one = rig_slot(rig, 1, HERE, SMALL_PAGES);
	struct rig_slot *two = rig_slot(rig, 2, THERE, SMALL_PAGES);

	start_counting(rig, one, two);
	for (int round = 0; round < ROUNDS; round++) {
		uint8_t *memory = one->memory;

		rig_stop(rig);
		remove_slot(rig, variant, one);
		remove_slot(rig, variant, two);
		one->memory = two->memory;
		two->memory = memory;
		set(rig, variant, one, 0);
		set(rig, variant, two, 0);
		rig_count_all(rig, round % 2 ? one : two);
		rig_passes(rig, 2);
	}
	rig_finish(rig);
}

static void slot_turns_read_only(const struct variant *variant)
{
	struct rig *rig = open_rig(variant, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *rom = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = rom, .pages = SMALL_PAGES };

	if (machine_capability(&rig->machine, KVM_CAP_READONLY_MEM) <= 0)
		rig_skip("this kernel has no read-only slots");
	set(rig, variant, rom, KVM_MEM_READONLY);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	rig_write(rig, 0, &range, 1); /* changes nothing */
	rig_passes(rig, 1);
	assert_true(rom->block->pages_sent >= SMALL_PAGES);
	remove_slot(rig, variant, rom);
	set(rig, variant, rom, 0);
	rig_write(rig, 0, &range, 2);
	rig_pass(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 2);
	rig_stop(rig);
	remove_slot(rig, variant, rom);
	set(rig, variant, rom, KVM_MEM_READONLY);
	/* The host fills a ROM like any device: it writes, then marks. */
	memset(rom->memory, 0x5a, rom->bytes);
	assert_int_equal(dl_slot_mark(rig->log, 1, 0, rom->bytes), 0);
	rig_finish(rig);
}

static void with_variants(void (*test)(const struct variant *), uint32_t mode)
{
	const struct variant library = { .mode = mode },
			     caller = { .mode = mode, .caller_ioctl = true };

	test(&library);
	rig_free_all();
	test(&caller);
}

#define slot_tests(name)                             \
	static void ring_##name(void **state)        \
	{                                            \
		(void)state;                         \
		with_variants(name, DL_MODE_RING);   \
	}                                            \
	static void bitmap_##name(void **state)      \
	{                                            \
		(void)state;                         \
		with_variants(name, DL_MODE_BITMAP); \
	}

slot_tests(slots_are_added_while_logging) slot_tests(slot_is_recreated_over_its_memory)
	slot_tests(removed_slot_is_handed_out_once_more) slot_tests(slot_moves)
		slot_tests(slots_swap_their_memory) slot_tests(slot_turns_read_only)

	/* A caller that frees the memory at once says so, and the memory is not read again. */
	static void discarded_slot_is_not_handed_out(void **state)
{
	const struct variant variant = { .mode = DL_MODE_AUTO };
	struct rig *rig = open_rig(&variant, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	uint64_t sent;

	(void)state;
	start_counting(rig, stays, goes);
	rig_passes(rig, 2);
	rig_wait_rounds(rig, 1, 1);
	sent = goes->block->pages_sent;
	assert_int_equal(rig_slot_remove(rig, goes, DL_SLOT_DISCARD), 0);
	goes->block->ignored = true;
	rig_pass(rig, 0);
	rig_finish(rig);
	assert_int_equal(goes->block->pages_sent, sent);
}

static void clean_slot_is_not_handed_out_until_written(void **state)
{
	const struct variant variant = { .mode = DL_MODE_RING };
	struct rig *rig = open_rig(&variant, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *new = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = new, .first_page = 10, .pages = 20 };

	(void)state;
	memcpy(new->block->copy, new->memory, new->bytes);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	assert_int_equal(rig_slot_set(rig, new, DL_SLOT_CLEAN, 0), 0);
	rig_pass(rig, 0);
	assert_int_equal(slot->block->pages_sent, PAGES);
	assert_int_equal(new->block->pages_sent, 0);
	rig_write(rig, 0, &range, 3);
	rig_finish(rig);
	assert_in_range(new->block->pages_sent, 20, SMALL_PAGES);
}

/* Memory that KVM cannot log: no flag, no pages from the kernel; marks are the VMM's own affair. */
static void unlogged_slot_gets_no_log_flag(void **state)
{
	const struct variant variant = { .mode = DL_MODE_RING };
	struct rig *rig = open_rig(&variant, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, SMALL_PAGES);
	struct rig_slot *device = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = device, .pages = SMALL_PAGES };

	(void)state;
	device->block->ignored = true;
	assert_int_equal(rig_slot_set(rig, device, DL_SLOT_NO_LOG, 0), 0);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	rig_pass(rig, 0);
	assert_int_equal(device->block->pages_sent, 0);
	assert_int_equal(slot->block->pages_sent, SMALL_PAGES);
	assert_int_equal(rig_stats(rig).entries, 0);
	rig_finish(rig);
}

/* Bitmaps are whole 64-bit words, and a CLEAR whose length is odd has to reach the slot's end. */
static void hazard_16_and_29_slots_of_odd_lengths(void **state)
{
	const struct variant variant = { .mode = DL_MODE_BITMAP };
	const uint64_t lengths[] = { 1, 63, 64, 65, 100, 127, 4097, 4096 + 100 };
	struct rig *rig = open_rig(&variant, 1);

	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		rig_slot(rig, i, THERE * (i + 1), lengths[i]);
	assert_int_equal(dl_log_start(rig->log, 0), 0);
	rig_pass(rig, 0);
	for (unsigned int round = 1; round < 4; round++) {
		uint64_t expected = 0;

		for (unsigned int i = 0; i < 8; i++) {
			struct rig_range range = { .slot = &rig->slots[i] };

			/* The last page of each, and what is before it in the last word. */
			range.pages = 1 + (lengths[i] - 1) % 64;
			range.first_page = lengths[i] - range.pages;
			expected += range.pages;
			rig_write(rig, 0, &range, round);
		}
		expected += rig->checker.pages_sent;
		rig_pass(rig, 0);
		assert_int_equal(rig->checker.pages_sent, expected);
	}
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_slots_are_added_while_logging),
		rig_test(bitmap_slots_are_added_while_logging),
		rig_test(ring_slot_is_recreated_over_its_memory),
		rig_test(bitmap_slot_is_recreated_over_its_memory),
		rig_test(ring_removed_slot_is_handed_out_once_more),
		rig_test(bitmap_removed_slot_is_handed_out_once_more),
		rig_test(ring_slot_moves),
		rig_test(bitmap_slot_moves),
		rig_test(ring_slots_swap_their_memory),
		rig_test(bitmap_slots_swap_their_memory),
		rig_test(ring_slot_turns_read_only),
		rig_test(bitmap_slot_turns_read_only),
		rig_test(discarded_slot_is_not_handed_out),
		rig_test(clean_slot_is_not_handed_out_until_written),
		rig_test(unlogged_slot_gets_no_log_flag),
		rig_test(hazard_16_and_29_slots_of_odd_lengths),
	};

	return rig_run_tests("slots", tests);
}
