/* SPDX-License-Identifier: MIT */
#include "scene.h"

struct rig *rig;
struct rig_slot *ram, *display, *scratch;

void scene_begin(const struct way *way, unsigned int vcpus)
{
	rig = way_rig(way, vcpus);
	ram = rig_memory(rig, RAM_SLOT, GUEST_DATA_GPA, RAM_PAGES);
	assert_int_equal(rig_slot_set(rig, ram, DL_SLOT_WANTED, 0), 0);
	display = rig_slot(rig, DISPLAY_SLOT, 4ull * GUEST_DATA_GPA, SMALL_PAGES);
	scratch = rig_slot(rig, SCRATCH_SLOT, 16ull * GUEST_DATA_GPA, SMALL_PAGES);
}

struct checker *scene_consumer(const struct rig_slot *slot)
{
	struct checker *consumer = consumer_new(rig);

	consumer_watch(consumer, slot);
	return consumer;
}

void scene_join(struct checker *consumer, uint32_t flags)
{
	if (flags & DL_CURSOR_CLEAN)
		checker_equalize(consumer);
	assert_int_equal(checker_join(consumer, flags), 0);
}

void scene_join_display(struct checker *consumer)
{
	assert_int_equal(checker_join_one(consumer, DL_CURSOR_ONE_SLOT, DISPLAY_SLOT), 0);
}

void scene_join_both(struct checker *other)
{
	rig_join(rig, 0);
	scene_join(other, 0);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	/* Bits that the first of these two passes has left to the second. */
	rig_pass(rig, 0);
	consumer_pass(other, 1);
}

static struct rig_range pages_of(const struct rig_slot *slot, uint64_t first, uint64_t pages)
{
	return (struct rig_range){ .slot = slot, .first_page = first, .pages = pages };
}

void scene_write(const struct rig_slot *slot, uint64_t first, uint64_t pages)
{
	static uint64_t value;
	const struct rig_range range = pages_of(slot, first, pages);

	rig_write(rig, 0, &range, ++value);
}

void scene_expect(struct checker *consumer, const struct rig_slot *slot, uint64_t first,
		  uint64_t pages)
{
	const struct rig_range range = pages_of(slot, first, pages);

	consumer_expect(consumer, &range);
}

void scene_run(unsigned int turn)
{
	rig_stop(rig);
	for (unsigned int i = 0; i < rig->vcpu_count; i++) {
		struct rig_range range = { .slot = &rig->slots[i % 3], .shuffled = i % 2 };
		uint64_t pages = range.slot->bytes / rig->page_bytes;

		range.pages = pages / SCENE_PARTS;
		range.first_page = turn % SCENE_PARTS * range.pages;
		rig_count(rig, i, &range);
	}
	scene_wait();
}

void scene_wait(void)
{
	for (unsigned int i = 0; i < rig->vcpu_count; i++)
		rig_wait_rounds(rig, i, 1);
}

void scene_finish(struct checker *one, struct checker *two)
{
	rig_stop(rig);
	if (one && one->cursor)
		consumer_finish(one);
	if (rig->checker.cursor)
		rig_finish(rig);
	if (two && two->cursor)
		consumer_finish(two);
}
