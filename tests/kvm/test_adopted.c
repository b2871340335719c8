/* SPDX-License-Identifier: MIT */
/*
 * Slots that the caller has created (DL_SLOT_EXISTS), and slots whose contents every receiver has
 * (DL_SLOT_CLEAN), also when they return after a removal.
 */
#include "scene.h"

#include <errno.h>
#include <string.h>

enum { TURNS = 4, NEW_SLOT = 40 };

static struct rig_slot *new_slot; /* its memory; it is not set */

static void begin(const struct way *way, unsigned int vcpus)
{
	scene_begin(way, vcpus);
	new_slot = rig_memory(rig, NEW_SLOT, 20ull * GUEST_DATA_GPA, SMALL_PAGES);
}

/* As a VMM does whose slot exists before it knows of the library. */
static void create_it(void)
{
	assert_int_equal(machine_set_region(&rig->machine, NEW_SLOT, 0, new_slot->gpa,
					    new_slot->bytes, new_slot->memory),
			 0);
}

static void adopt(void)
{
	consumers_set(rig, new_slot, DL_SLOT_EXISTS);
}

/* The flags that KVM_SET_USER_MEMORY_REGION was last called with, and how often. */
static struct {
	unsigned int calls;
	struct kvm_userspace_memory_region last;
} regions;

static bool note_region(struct spy *spy, int fd, unsigned long request, void *arg, int *result)
{
	(void)spy;
	(void)fd;
	(void)result;
	if (request != KVM_SET_USER_MEMORY_REGION)
		return false;
	regions.calls++;
	regions.last = *(const struct kvm_userspace_memory_region *)arg;
	return false;
}

static void an_adopted_slot_is_left_alone_until_it_is_logged(void **state)
{
	begin(*state, 1);
	ways_spy()->intercept = note_region;
	regions.calls = 0;
	create_it();
	adopt();
	assert_int_equal(regions.calls, 0);
	scene_write(new_slot, 0, SMALL_PAGES);
	/* Two calls for it, among those of all slots: whether it was logged is not known. */
	rig_join(rig, 0);
	assert_int_equal(regions.calls, 5);
	assert_int_equal(rig_pass(rig, 0), (RAM_PAGES + 3 * SMALL_PAGES) * rig->page_bytes);
	rig_pass(rig, 0);
	scene_write(new_slot, 3, 40);
	scene_expect(&rig->checker, new_slot, 3, 40);
	rig_finish(rig);
	ways_spy()->intercept = NULL;
}

/* By the time that it is adopted, the guest may have written all of it. */
static void a_slot_is_adopted_while_others_are_logged(void **state)
{
	struct checker *other;

	begin(*state, 1);
	other = consumer_of_all(rig);
	scene_join_both(other);
	create_it();
	scene_write(new_slot, 0, SMALL_PAGES);
	ways_spy()->intercept = note_region;
	regions.calls = 0;
	adopt();
	assert_int_equal(regions.calls, 2);
	assert_true(regions.last.flags & KVM_MEM_LOG_DIRTY_PAGES);
	ways_spy()->intercept = NULL;
	scene_write(new_slot, 10, 10);
	scene_expect(&rig->checker, new_slot, 0, SMALL_PAGES);
	scene_write(new_slot, 20, 10);
	scene_expect(other, new_slot, 0, SMALL_PAGES);
	scene_expect(&rig->checker, new_slot, 20, 10);
	scene_finish(NULL, other);
}

static void an_adopted_slot_moves_and_goes(void **state)
{
	begin(*state, 1);
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		rig_pass(rig, 0);
		rig_pass(rig, 0);
		create_it();
		scene_write(new_slot, 0, SMALL_PAGES);
		adopt();
		if (turn % 2)
			rig_pass(rig, 0);
		scene_write(new_slot, 5, 5);
		new_slot->gpa += GUEST_DATA_GPA;
		consumers_set(rig, new_slot, 0);
		scene_expect(&rig->checker, new_slot, 0, SMALL_PAGES);
		scene_write(new_slot, 50, 5);
		consumers_remove(rig, new_slot, turn & 2 ? DL_REMOVE_PAUSED : 0);
		/* It is gone in KVM too: the number and the address are free. */
	}
	rig_finish(rig);
}

static void a_slot_is_adopted_beneath_running_vcpus(void **state)
{
	struct rig_range range;

	begin(*state, 2);
	create_it();
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		scene_run(turn);
		assert_int_equal(machine_stop(rig->vcpus[1].machine), MACHINE_STOPPED);
		range = (struct rig_range){ .slot = new_slot, .pages = SMALL_PAGES / 2 };
		range.first_page = turn % 2 * range.pages;
		rig_count(rig, 1, &range);
		rig_wait_rounds(rig, 1, 1);
		adopt();
		rig_wait_rounds(rig, 1, 1);
		rig_pass(rig, 0);
		rig_wait_rounds(rig, 1, 1);
		rig_pass(rig, 0);
		consumers_remove(rig, new_slot, 0);
		create_it();
	}
	adopt();
	rig_finish(rig);
}

static void an_adoption_that_cannot_be_is_refused(void **state)
{
	struct dl_slot slot;

	begin(*state, 1);
	create_it();
	slot = rig_slot_description(new_slot, DL_SLOT_EXISTS | DL_SLOT_CLEAN, 0);
	assert_int_equal(dl_slot_set(rig->log, &slot), -EINVAL);
	slot.flags = DL_SLOT_EXISTS;
	slot.gpa = ram->gpa;
	assert_int_equal(dl_slot_set(rig->log, &slot), -EEXIST);
	assert_int_equal(dl_slot_remove(rig->log, NEW_SLOT, 0, NULL, 0), -ENOENT);
	adopt();
	rig_join(rig, 0);
	scene_write(new_slot, 0, 10);
	rig_finish(rig);
}

/* Contents that all have: a slot that is CLEAN, but for one under "initially set" (see below). */
static void set_clean(uint32_t flags)
{
	consumers_set(rig, new_slot, DL_SLOT_CLEAN | flags);
}

/* The words of the removal come back as marks: the receivers have the rest. */
static void a_slot_returns_with_what_was_not_sent(void **state)
{
	begin(*state, 1);
	rig_join(rig, 0);
	consumers_set(rig, new_slot, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		rig_pass(rig, 0);
		rig_pass(rig, 0);
		scene_write(new_slot, 5, 5);
		if (turn % 2)
			(void)rig_harvest(rig, 0);
		scene_write(new_slot, 8, 5);
		consumers_remove(rig, new_slot, DL_REMOVE_PAUSED);
		rig_pass(rig, 0);
		set_clean(DL_SLOT_PAUSED);
		scene_expect(&rig->checker, new_slot, 5, 8);
		scene_write(new_slot, 6, 1);
		scene_expect(&rig->checker, new_slot, 6, 1);
	}
	rig_finish(rig);
}

/* Without PAUSED, all of it counts as dirty: a vCPU may have written it until the delete. */
static void a_slot_returns_beneath_running_vcpus(void **state)
{
	scene_begin(*state, 2);
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		scene_run(turn);
		rig_pass(rig, 0);
		rig_wait_rounds(rig, 1, 1);
		consumers_remove(rig, display, 0);
		consumers_set(rig, display, DL_SLOT_CLEAN);
		rig_wait_rounds(rig, 0, 1);
		rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/*
 * With no vCPU running, a clean slot is clean in every way. Otherwise it is not under "initially
 * set", where nothing is protected yet.
 */
static void a_clean_slot_has_nothing_to_send(void **state)
{
	const struct way *way = *state;
	bool dirty = way_clears(way) && way->manual_protect == 3;
	struct dl_slot slot;

	begin(way, 1);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_pass(rig, 0);
	for (unsigned int paused = 0; paused < 2; paused++) {
		slot = rig_slot_description(new_slot, 0, 0);
		checker_equalize_slot(&rig->checker, &slot);
		set_clean(paused ? DL_SLOT_PAUSED : 0);
		scene_expect(&rig->checker, new_slot, 0, dirty && !paused ? SMALL_PAGES : 0);
		scene_write(new_slot, 60, 20);
		scene_expect(&rig->checker, new_slot, 60, 20);
		scene_write(new_slot, 0, 1);
		scene_write(new_slot, SMALL_PAGES - 1, 1);
		rig_pass(rig, 0);
		consumers_remove(rig, new_slot, DL_REMOVE_PAUSED);
	}
	set_clean(DL_SLOT_PAUSED);
	rig_finish(rig);
}

/* R3: while a pass is open, nobody can know what the receivers have. */
static void clean_is_ignored_while_a_pass_is_open(void **state)
{
	struct checker *other;

	begin(*state, 1);
	other = consumer_of_all(rig);
	scene_join_both(other);
	assert_int_equal(dl_harvest(other->cursor, 0, NULL), 0);
	set_clean(DL_SLOT_PAUSED);
	checker_end(other, 0);
	scene_expect(&rig->checker, new_slot, 0, SMALL_PAGES);
	scene_expect(other, new_slot, 0, SMALL_PAGES);
	consumers_remove(rig, new_slot, DL_REMOVE_PAUSED);
	set_clean(DL_SLOT_PAUSED);
	scene_expect(&rig->checker, new_slot, 0, 0);
	/* CLEAN is no state, and ignored where the slot moves. */
	new_slot->gpa += GUEST_DATA_GPA;
	set_clean(DL_SLOT_PAUSED);
	scene_expect(&rig->checker, new_slot, 0, SMALL_PAGES);
	scene_expect(other, new_slot, 0, SMALL_PAGES);
	scene_finish(NULL, other);
}

int main(void)
{
	const struct way_test tests[] = {
		way_test(an_adopted_slot_is_left_alone_until_it_is_logged),
		way_test(a_slot_is_adopted_while_others_are_logged),
		way_test(an_adopted_slot_moves_and_goes),
		way_test(a_slot_is_adopted_beneath_running_vcpus),
		way_test(an_adoption_that_cannot_be_is_refused),
		way_test(a_slot_returns_with_what_was_not_sent),
		way_test(a_slot_returns_beneath_running_vcpus),
		way_test(a_clean_slot_has_nothing_to_send),
		way_test(clean_is_ignored_while_a_pass_is_open),
	};

	return ways_run_tests("adopted and clean slots", tests);
}
