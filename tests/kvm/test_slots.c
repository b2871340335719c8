/* SPDX-License-Identifier: MIT */
/*
 * Memslots that are added, removed and moved in the middle of a migration, while vCPUs write.
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

static struct rig *open_rig(uint32_t mode, unsigned int vcpus)
{
	struct rig_config config = { .mode = mode, .vcpus = vcpus };

	return rig_new(&config);
}

static void set_slot(struct rig *rig, const struct rig_slot *slot, uint32_t kvm_flags)
{
	assert_int_equal(rig_slot_set(rig, slot, 0, kvm_flags), 0);
}

static void remove_slot(struct rig *rig, const struct rig_slot *slot)
{
	assert_int_equal(rig_slot_remove(rig, slot), 0);
}

/* vCPU 0 counts in a slot that stays, vCPU 1 in one that the test will remove. */
static void start_counting(struct rig *rig, const struct rig_slot *stays,
			   const struct rig_slot *goes)
{
	struct rig_range range = { .slot = stays, .pages = stays->bytes / rig->page_bytes };

	rig_join(rig, 0);
	rig_count(rig, 0, &range);
	range = (struct rig_range){ .slot = goes, .pages = goes->bytes / rig->page_bytes };
	rig_count(rig, 1, &range);
}

static void slots_are_added_while_logging(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *first = rig_slot(rig, 0, HERE, PAGES);

	rig_join(rig, 0);
	rig_count_all(rig, first);
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		struct rig_slot *new = rig_memory(rig, i, THERE + i * HERE, SMALL_PAGES + i);
		struct rig_range range = { .slot = new, .pages = SMALL_PAGES + i };

		set_slot(rig, new, 0);
		rig_passes(rig, 1);
		assert_true(new->block->pages_sent >= SMALL_PAGES + i);
		rig_stop(rig);
		rig_write(rig, 0, &range, i);
		rig_count_all(rig, first);
	}
	rig_finish(rig);
}

/* Same number and memory as before, while a vCPU keeps writing to it. */
static void slot_is_recreated_over_its_memory(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, PAGES);

	start_counting(rig, stays, goes);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t sent;

		rig_passes(rig, 1);
		rig_wait_rounds(rig, 1, 1);
		sent = goes->block->pages_sent;
		remove_slot(rig, goes);
		if (round % 2)
			rig_pass(rig, 0);
		set_slot(rig, goes, 0);
		rig_passes(rig, 1);
		assert_true(goes->block->pages_sent >= sent + PAGES);
	}
	rig_finish(rig);
}

/* The pages in the words of a removal, which are sent at the end. */
static uint64_t kept_pages(const struct rig *rig, const struct rig_slot *slot)
{
	uint64_t n = 0;

	for (uint64_t page = 0; page < slot->bytes / rig->page_bytes; page++)
		n += slot->block->kept[page / 64] >> page % 64 & 1;
	return n;
}

/* While vCPUs run, nobody knows what was written just before the delete: every page is dirty. */
static void removal_gives_all_pages(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	uint64_t sent;

	start_counting(rig, stays, goes);
	rig_passes(rig, 2);
	rig_wait_rounds(rig, 1, 1);
	sent = goes->block->pages_sent;
	assert_int_equal(checker_slot_remove(&rig->checker, goes->slot, 0), 0);
	assert_int_equal(kept_pages(rig, goes), SMALL_PAGES);
	while (!atomic_load(&rig->vcpus[1].machine->lost_accesses))
		sched_yield();
	rig_finish(rig);
	assert_int_equal(goes->block->pages_sent, sent);
}

/* With the vCPUs stopped, the words are what was not acknowledged. */
static void paused_removal_gives_the_dirty_pages(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = goes, .first_page = 10, .pages = 20 };

	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(checker_slot_remove(&rig->checker, goes->slot, DL_REMOVE_PAUSED), 0);
	assert_in_range(kept_pages(rig, goes), 20, SMALL_PAGES - 1);
	rig_finish(rig);
}

static void slot_moves(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = goes, .pages = SMALL_PAGES };

	start_counting(rig, stays, goes);
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t sent;

		rig_passes(rig, 1);
		rig_wait_rounds(rig, 1, 1);
		goes->gpa = round % 2 ? THERE : 2 * THERE;
		set_slot(rig, goes, 0);
		sent = goes->block->pages_sent;
		rig_pass(rig, 0);
		assert_true(goes->block->pages_sent >= sent + SMALL_PAGES);
		/* Until it gets a new job, the vCPU writes to the old address, where no slot is. */
		assert_int_equal(machine_stop(rig->vcpus[1].machine), MACHINE_STOPPED);
		rig_write(rig, 1, &range, (uint64_t)round);
		rig_count(rig, 1, &range);
		assert_int_equal(dl_mark_gpa(rig->log, 0, goes->gpa, 1), 0);
	}
	rig_finish(rig);
}

/* Two slots swap their memory, and keep their numbers and addresses. */
static void slots_swap_their_memory(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 2);
	struct rig_slot *one = rig_slot(rig, 1, HERE, SMALL_PAGES);
	struct rig_slot *two = rig_slot(rig, 2, THERE, SMALL_PAGES);

	start_counting(rig, one, two);
	for (int round = 0; round < ROUNDS; round++) {
		uint8_t *memory = one->memory;

		rig_stop(rig);
		remove_slot(rig, one);
		remove_slot(rig, two);
		one->memory = two->memory;
		two->memory = memory;
		set_slot(rig, one, 0);
		set_slot(rig, two, 0);
		rig_count_all(rig, round % 2 ? one : two);
		rig_passes(rig, 2);
	}
	rig_finish(rig);
}

static void slot_turns_read_only(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *rom = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = rom, .pages = SMALL_PAGES };

	if (machine_capability(&rig->machine, KVM_CAP_READONLY_MEM) <= 0)
		rig_skip("this kernel does not support read-only slots");
	set_slot(rig, rom, KVM_MEM_READONLY);
	rig_join(rig, 0);
	rig_write(rig, 0, &range, 1); /* changes nothing */
	rig_passes(rig, 1);
	assert_true(rom->block->pages_sent >= SMALL_PAGES);
	remove_slot(rig, rom);
	set_slot(rig, rom, 0);
	rig_write(rig, 0, &range, 2);
	rig_pass(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 2);
	rig_stop(rig);
	remove_slot(rig, rom);
	set_slot(rig, rom, KVM_MEM_READONLY);
	/* The host fills a ROM as a device does: it writes, then marks. */
	memset(rom->memory, 0x5a, rom->bytes);
	assert_int_equal(dl_mark_slot(rig->log, 1, 0, rom->bytes), 0);
	rig_finish(rig);
}

/* The last declaration is there for the semicolon after the macro. */
#define slot_tests(name)                        \
	static void ring_##name(void **state)   \
	{                                       \
		(void)state;                    \
		name(DL_MODE_RING);             \
	}                                       \
	static void bitmap_##name(void **state) \
	{                                       \
		(void)state;                    \
		name(DL_MODE_BITMAP);           \
	}                                       \
	static void bitmap_##name(void **state)

slot_tests(slots_are_added_while_logging);
slot_tests(slot_is_recreated_over_its_memory);
slot_tests(removal_gives_all_pages);
slot_tests(paused_removal_gives_the_dirty_pages);
slot_tests(slot_moves);
slot_tests(slots_swap_their_memory);
slot_tests(slot_turns_read_only);

/* The caller may free the memory at once, so its pages are not reported. */
static void removed_slot_is_not_reported(void **state)
{
	struct rig *rig = open_rig(DL_MODE_AUTO, 2);
	struct rig_slot *stays = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, THERE, SMALL_PAGES);
	uint64_t sent;

	(void)state;
	start_counting(rig, stays, goes);
	rig_passes(rig, 2);
	rig_wait_rounds(rig, 1, 1);
	sent = goes->block->pages_sent;
	assert_int_equal(rig_slot_remove(rig, goes), 0);
	goes->block->ignored = true;
	rig_pass(rig, 0);
	rig_finish(rig);
	assert_int_equal(goes->block->pages_sent, sent);
}

static void clean_slot_is_not_reported_until_written(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, PAGES);
	struct rig_slot *new = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = new, .first_page = 10, .pages = 20 };
	struct dl_slot clean;

	(void)state;
	clean = rig_slot_description(new, 0, 0);
	checker_equalize_slot(&rig->checker, &clean);
	rig_join(rig, 0);
	assert_int_equal(rig_slot_set(rig, new, DL_SLOT_CLEAN, 0), 0);
	rig_pass(rig, 0);
	assert_int_equal(slot->block->pages_sent, PAGES);
	assert_int_equal(new->block->pages_sent, 0);
	rig_write(rig, 0, &range, 3);
	rig_finish(rig);
	assert_in_range(new->block->pages_sent, 20, SMALL_PAGES);
}

/* Memory that KVM cannot log: no log flag, and no dirty pages other than marked ones. */
static void unlogged_slot_gets_no_log_flag(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, 1);
	struct rig_slot *slot = rig_slot(rig, 0, HERE, SMALL_PAGES);
	struct rig_slot *device = rig_memory(rig, 1, THERE, SMALL_PAGES);
	struct rig_range range = { .slot = device, .pages = SMALL_PAGES };

	(void)state;
	device->block->ignored = true;
	assert_int_equal(rig_slot_set(rig, device, DL_SLOT_NO_LOG, 0), 0);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	rig_pass(rig, 0);
	assert_int_equal(device->block->pages_sent, 0);
	assert_int_equal(slot->block->pages_sent, SMALL_PAGES);
	assert_int_equal(rig_stats(rig).entries, 0);
	rig_finish(rig);
}

/*
 * Hazards 16 and 29 of doc/kernel.md: bitmaps are whole 64-bit words, and a CLEAR whose length is
 * no multiple of 64 must end at the end of the slot.
 */
static void slots_of_odd_lengths_are_cleared_to_their_end(void **state)
{
	const uint64_t lengths[] = { 1, 63, 64, 65, 100, 127, 4097, 4096 + 100 };
	struct rig *rig = open_rig(DL_MODE_BITMAP, 1);

	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		rig_slot(rig, i, THERE * (i + 1), lengths[i]);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (unsigned int round = 1; round < 4; round++) {
		uint64_t expected = 0;

		for (unsigned int i = 0; i < 8; i++) {
			struct rig_range range = { .slot = &rig->slots[i] };

			/* All pages of the last, partial word. */
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
		rig_test(ring_removal_gives_all_pages),
		rig_test(bitmap_removal_gives_all_pages),
		rig_test(ring_paused_removal_gives_the_dirty_pages),
		rig_test(bitmap_paused_removal_gives_the_dirty_pages),
		rig_test(ring_slot_moves),
		rig_test(bitmap_slot_moves),
		rig_test(ring_slots_swap_their_memory),
		rig_test(bitmap_slots_swap_their_memory),
		rig_test(ring_slot_turns_read_only),
		rig_test(bitmap_slot_turns_read_only),
		rig_test(removed_slot_is_not_reported),
		rig_test(clean_slot_is_not_reported_until_written),
		rig_test(unlogged_slot_gets_no_log_flag),
		rig_test(slots_of_odd_lengths_are_cleared_to_their_end),
	};

	return rig_run_tests("slots", tests);
}
