/* SPDX-License-Identifier: MIT */
/*
 * What one cursor does takes nothing from another: each test writes a few pages, and wants exactly
 * these in the passes of whom they concern.
 */
#include "scene.h"

#include <errno.h>
#include <string.h>

/* C1: a bit that is set after the last GET is no business of the CLEAR that belongs to it. */
static void a_clear_erases_no_write_that_another_has_not_seen(void **state)
{
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	for (unsigned int turn = 0; turn < 8; turn++) {
		struct checker *reader = turn % 2 ? other : &rig->checker;
		struct checker *last = turn % 2 ? &rig->checker : other;

		rig_pass(rig, 0);
		consumer_pass(other, 1);
		rig_pass(rig, 0);
		scene_write(ram, 10, 1);
		assert_int_equal(dl_harvest(reader->cursor, 0, NULL), 0);
		/* Neighbours in the same word, unknown to the library when it clears. */
		scene_write(ram, 11, 2);
		assert_int_equal(checker_finish_pass(reader, 1), 0);
		scene_expect(last, ram, 10, 3);
		scene_expect(reader, ram, 11, 2);
	}
	scene_finish(NULL, other);
}

/* C1: nor of a page that is pending for another reason, such as a mark, and owed to nobody. */
static void a_marked_page_is_not_cleared_for_its_mark(void **state)
{
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	scene_join_both(other);
	/* Something has been owed. */
	scene_write(ram, 200, 1);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	memset(ram->memory + 7 * rig->page_bytes, 0x21, 1);
	assert_int_equal(dl_mark_slot(rig->log, RAM_SLOT, 7 * rig->page_bytes, 1), 0);
	assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
	scene_expect(other, ram, 7, 1);
	/* No GET knows of it yet when the first one reads the page, for its mark. */
	scene_write(ram, 7, 1);
	assert_int_equal(checker_finish_pass(&rig->checker, 1), 0);
	scene_expect(other, ram, 7, 1);
	scene_expect(&rig->checker, ram, 7, 1);
	scene_finish(NULL, other);
}

/* C1: what one has read and the other has not is written again, and seen by both. */
static void a_page_that_one_has_read_is_seen_again_by_both(void **state)
{
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	for (unsigned int turn = 0; turn < 6; turn++) {
		scene_write(ram, 64 * (turn % 3), 5);
		scene_expect(&rig->checker, ram, 64 * (turn % 3), 5);
		scene_write(ram, 64 * (turn % 3), 5);
		scene_expect(other, ram, 64 * (turn % 3), 5);
		scene_expect(&rig->checker, ram, 64 * (turn % 3), 5);
		scene_expect(other, ram, 0, 0);
	}
	scene_finish(NULL, other);
}

/* C1: a page that could not be protected is protected for whoever reads it next. */
static void a_failed_clear_is_made_for_the_next_reader(void **state)
{
	struct dl_extent extent;
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	scene_join_both(other);
	scene_write(ram, 20, 3);
	assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
	assert_int_equal(dl_harvest(other->cursor, 0, NULL), 0);
	spy_fail_once(ways_spy(), KVM_CLEAR_DIRTY_LOG, -ENOMEM);
	assert_int_equal(dl_cursor_read(rig->checker.cursor, &extent, 1), -ENOMEM);
	assert_true(ways_spy()->failed);
	checker_end(&rig->checker, 0);
	assert_int_equal(checker_finish_pass(other, 1), 0);
	/* No GET finds it again. */
	scene_expect(other, ram, 20, 0);
	scene_expect(&rig->checker, ram, 20, 3);
	scene_write(ram, 20, 3);
	scene_expect(&rig->checker, ram, 20, 3);
	scene_expect(other, ram, 20, 3);
	ways_spy()->intercept = NULL;
	scene_finish(NULL, other);
}

/* C2: a mark concerns who is there when it is made, and no one who joins later. */
static void a_mark_reaches_every_cursor_that_is_there(void **state)
{
	struct checker *other, *late;
	uint64_t taken = 0;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	late = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	rig_pass(rig, 0);
	memset(ram->memory + 7 * rig->page_bytes, 0x11, 1);
	assert_int_equal(dl_mark_gpa(rig->log, 0, ram->gpa + 7 * rig->page_bytes, 1), 0);
	scene_join(late, DL_CURSOR_CLEAN);
	scene_expect(late, ram, 7, 0);
	scene_expect(other, ram, 7, 1);
	memset(ram->memory + 8 * rig->page_bytes, 0x12, 1);
	assert_int_equal(dl_mark_slot(rig->log, RAM_SLOT, 8 * rig->page_bytes, 1), 0);
	/* A cursor that leaves, or takes, distributes the mark to the others. */
	checker_leave(other);
	scene_expect(late, ram, 8, 1);
	memset(ram->memory + 9 * rig->page_bytes, 0x13, 1);
	assert_int_equal(dl_mark_hva(rig->log, ram->memory + 9 * rig->page_bytes, 1), 0);
	assert_int_equal(checker_take(late, RAM_SLOT, 0, &taken), 0);
	assert_int_equal(taken, 1);
	scene_expect(&rig->checker, ram, 7, 3);
	scene_finish(NULL, late);
}

/* C3: pages that are found, and not read yet, are writable: the newcomer must hear of them. */
static void a_clean_cursor_begins_with_what_may_be_writable(void **state)
{
	struct checker *late;

	scene_begin(*state, 1);
	late = consumer_of_all(rig);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	scene_write(ram, 40, 4);
	assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
	scene_join(late, DL_CURSOR_CLEAN);
	scene_write(ram, 40, 4);
	/* Clears the kernel's bits of the write, which the newcomer has not looked for. */
	assert_int_equal(checker_finish_pass(&rig->checker, 1), 0);
	scene_expect(late, ram, 40, 4);
	scene_finish(NULL, late);
}

/* C3: slots that are switched on for the newcomer begin writable under "initially set". */
static void a_clean_cursor_sees_slots_that_nobody_logged(void **state)
{
	struct checker *screen, *late;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	late = consumer_of_all(rig);
	scene_write(ram, 0, RAM_PAGES);
	scene_join_display(screen);
	consumer_pass(screen, 1);
	scene_join(late, DL_CURSOR_CLEAN);
	scene_write(ram, 17, 30);
	consumer_pass(late, 1);
	scene_write(ram, 30, 30);
	consumer_finish(late);
	consumer_finish(screen);
}

/* A GET that has cleared the kernel's bits, and then fails. */
static bool fail_get_once(struct spy *spy, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_dirty_log *get = arg;

	if (request != KVM_GET_DIRTY_LOG || get->slot != RAM_SLOT ||
	    atomic_exchange(&spy->failed, true))
		return false;
	(void)spy_ioctl(fd, request, arg);
	memset(get->dirty_bitmap, 0, (RAM_PAGES + 63) / 64 * sizeof(uint64_t));
	*result = -EFAULT;
	return true;
}

/* C4: nobody knows what a GET that failed has cleared. */
static void a_failed_get_makes_all_pending_for_all(void **state)
{
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	scene_write(ram, 50, 9);
	ways_spy()->intercept = fail_get_once;
	assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), -EFAULT);
	assert_true(ways_spy()->failed);
	scene_expect(other, ram, 0, RAM_PAGES);
	scene_expect(&rig->checker, ram, 0, RAM_PAGES);
	ways_spy()->intercept = NULL;
	scene_finish(NULL, other);
}

/* C4: a moved slot is wholly pending for each of them. */
static void a_move_makes_the_slot_pending_for_all(void **state)
{
	struct checker *screen, *other;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	scene_join_display(screen);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	consumer_pass(screen, 1);
	rig_pass(rig, 0);
	display->gpa *= 3;
	consumers_set(rig, display, 0);
	scene_expect(&rig->checker, display, 0, SMALL_PAGES);
	scene_expect(other, display, 0, SMALL_PAGES);
	scene_expect(screen, display, 0, SMALL_PAGES);
	scene_write(display, 3, 3);
	scene_expect(screen, display, 3, 3);
	scene_finish(screen, other);
}

/* A reset that the kernel leaves undone, once. */
static bool reset_nothing_once(struct spy *spy, int fd, unsigned long request, void *arg,
			       int *result)
{
	bool *done = spy->opaque;

	(void)fd;
	(void)arg;
	if (request != KVM_RESET_DIRTY_RINGS || *done)
		return false;
	*done = true;
	*result = 0;
	return true;
}

/* C4: after it, nobody knows which pages are protected: all are, and pending for everybody. */
static void a_repair_makes_all_pending_for_all(void **state)
{
	const uint64_t all = RAM_PAGES + 2 * SMALL_PAGES;
	struct checker *screen, *other;
	bool done = false;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	other = consumer_of_all(rig);
	scene_join_both(other);
	scene_join_display(screen);
	consumer_pass(screen, 1);
	scene_write(ram, 50, 9);
	ways_spy()->opaque = &done;
	ways_spy()->intercept = reset_nothing_once;
	/* The first harvest releases the entries; a later one finds them where they were. */
	for (int turn = 0; turn < 3 && !rig_stats(rig).repairs; turn++)
		rig_pass(rig, 0);
	assert_true(done);
	assert_int_equal(rig_stats(rig).repairs, 1);
	ways_spy()->intercept = NULL;
	assert_int_equal(consumer_pass(other, 1), all);
	assert_int_equal(consumer_pass(screen, 1), SMALL_PAGES);
	scene_write(ram, 50, 9);
	scene_expect(other, ram, 50, 9);
	scene_expect(&rig->checker, ram, 50, 9);
	scene_finish(screen, other);
}

/* The log's requests to the kernel, in order. */
static struct {
	char calls[64]; /* 'p': manual protect is set; 'l', 'u': a slot is logged, or not */
	size_t n;
} trace;

static bool trace_calls(struct spy *spy, int fd, unsigned long request, void *arg, int *result)
{
	char call = 0;

	(void)spy;
	(void)fd;
	(void)result;
	if (request == KVM_ENABLE_CAP)
		call = 'p';
	if (request == KVM_SET_USER_MEMORY_REGION) {
		const struct kvm_userspace_memory_region *region = arg;

		call = region->flags & KVM_MEM_LOG_DIRTY_PAGES ? 'l' : 'u';
	}
	if (call && trace.n < sizeof(trace.calls) - 1)
		trace.calls[trace.n++] = call;
	trace.calls[trace.n] = 0;
	return false;
}

static void expect_calls(const char *calls)
{
	assert_string_equal(trace.calls, calls);
	trace.n = 0;
	trace.calls[0] = 0;
}

/* C5: and is left alone as long as a slot is logged. */
static void manual_protect_is_set_before_the_first_log_flag(void **state)
{
	struct checker *screen, *other;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	other = consumer_of_all(rig);
	trace.n = 0;
	ways_spy()->intercept = trace_calls;
	scene_join_display(screen);
	expect_calls("pl");
	scene_join(other, DL_CURSOR_CLEAN);
	expect_calls("ll");
	rig_join(rig, 0);
	expect_calls("");
	checker_leave(screen);
	checker_leave(other);
	expect_calls("");
	rig_leave(rig);
	expect_calls("uuu");
	rig_join(rig, 0);
	expect_calls("plll");
	ways_spy()->intercept = NULL;
	rig_finish(rig);
}

/* C6 */
static void a_cursor_that_is_freed_takes_nothing_with_it(void **state)
{
	struct checker *other;

	scene_begin(*state, 1);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	rig_pass(rig, 0);
	consumer_pass(other, 1);
	rig_pass(rig, 0);
	for (unsigned int turn = 0; turn < 6; turn++) {
		struct dl_extent extent;

		scene_write(ram, 100, 20);
		assert_int_equal(dl_harvest(other->cursor, 0, NULL), 0);
		if (turn % 3)
			assert_int_equal(dl_cursor_read(other->cursor, &extent, 1), 1);
		if (turn % 3 == 2)
			assert_int_equal(dl_cursor_ack(other->cursor, &extent, 1), 0);
		scene_write(ram, 110, 20);
		checker_leave(other);
		scene_expect(&rig->checker, ram, 100, 30);
		scene_write(ram, 115, 1);
		scene_expect(&rig->checker, ram, 115, 1);
		scene_join(other, DL_CURSOR_CLEAN);
	}
	scene_finish(NULL, other);
}

/* C6: it is the slot that a display follows, whatever its number is given to. */
static void a_display_waits_for_its_slot(void **state)
{
	struct checker *screen;

	scene_begin(*state, 1);
	screen = scene_consumer(display);
	rig_join(rig, 0);
	scene_join_display(screen);
	for (unsigned int turn = 0; turn < 4; turn++) {
		scene_expect(screen, display, 0, SMALL_PAGES);
		rig_pass(rig, 0);
		scene_write(display, 5, 10);
		consumers_remove(rig, display, turn % 2 ? DL_REMOVE_PAUSED : 0);
		assert_int_equal(dl_harvest(screen->cursor, 0, NULL), -ENOENT);
		scene_write(ram, 5, 10);
		rig_pass(rig, 0);
		assert_int_equal(dl_harvest(screen->cursor, 0, NULL), -ENOENT);
		display->gpa += GUEST_DATA_GPA;
		consumers_set(rig, display, 0);
	}
	scene_finish(screen, NULL);
}

/* WANTED may come and go: set, the slot is wholly pending there. */
static void a_slot_is_wanted_and_not_wanted(void **state)
{
	struct checker *wanted;

	scene_begin(*state, 1);
	wanted = scene_consumer(ram);
	rig_join(rig, 0);
	scene_join(wanted, DL_CURSOR_WANTED);
	rig_pass(rig, 0);
	scene_expect(wanted, ram, 0, RAM_PAGES);
	rig_pass(rig, 0);
	scene_write(scratch, 0, 30);
	scene_expect(wanted, ram, 0, 0);
	scene_write(ram, 1, 1);
	consumers_set(rig, ram, 0);
	scene_expect(wanted, ram, 0, 0);
	scene_write(ram, 2, 1);
	consumers_set(rig, ram, DL_SLOT_WANTED);
	scene_expect(wanted, ram, 0, RAM_PAGES);
	scene_write(ram, 3, 1);
	scene_expect(wanted, ram, 3, 1);
	scene_finish(wanted, NULL);
}

int main(void)
{
	const struct way_test tests[] = {
		way_test(a_clear_erases_no_write_that_another_has_not_seen),
		way_test(a_marked_page_is_not_cleared_for_its_mark),
		way_test(a_page_that_one_has_read_is_seen_again_by_both),
		way_test_of(way_clears, a_failed_clear_is_made_for_the_next_reader),
		way_test(a_mark_reaches_every_cursor_that_is_there),
		way_test(a_clean_cursor_begins_with_what_may_be_writable),
		way_test(a_clean_cursor_sees_slots_that_nobody_logged),
		way_test_of(way_has_bitmap, a_failed_get_makes_all_pending_for_all),
		way_test(a_move_makes_the_slot_pending_for_all),
		way_test_of(way_has_rings, a_repair_makes_all_pending_for_all),
		way_test_of(way_clears, manual_protect_is_set_before_the_first_log_flag),
		way_test(a_cursor_that_is_freed_takes_nothing_with_it),
		way_test(a_display_waits_for_its_slot),
		way_test(a_slot_is_wanted_and_not_wanted),
	};

	return ways_run_tests("rules of several cursors", tests);
}
