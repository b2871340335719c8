/* SPDX-License-Identifier: MIT */
/* R1, R3 and R5: what passes hand out of slots that change. */
#include "rules_guest.h"

#include <errno.h>
#include <sys/ioctl.h>

enum { PAGES = 100 };

static void r1_a_new_slot_waits_for_the_next_pass(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	begin_pass(cursor);
	set_slot(1, 1000, PAGES, 0);
	expect_read(cursor, 5, 1);
	expect_no_more(cursor);
	end_pass(cursor);
	begin_pass(cursor);
	expect_read(cursor, 5, 1);
	expect_read(cursor, 1000, PAGES);
	expect_no_more(cursor);
	end_pass(cursor);
}

/* The pages that were read are pending again, with all others of the slot. */
static void r1_a_moved_slot_is_wholly_pending_in_the_next_pass(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 2000, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 7);
	mark_page(1, 9);
	begin_pass(cursor);
	extent = expect_read(cursor, 5, 1);
	assert_int_equal(reset_slot(0, 500, 0), 0);
	expect_read(cursor, 2009, 1);
	expect_no_more(cursor);
	/* Nothing newer is forgotten by what was read at the old address. */
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	assert_int_equal(pending_of(cursor), PAGES);
	expect_pass(cursor, 500, PAGES);
}

/* Pages that were read ahead, and the rest of a batch. */
static void r1_a_batch_of_a_changed_slot_is_given_back(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < PAGES; page += 2)
		mark_page(0, page);
	begin_pass(cursor);
	expect_read(cursor, 0, 1);
	assert_int_equal(unacked_of(cursor), PAGES / 2);
	assert_int_equal(reset_slot(0, 500, 0), 0);
	assert_int_equal(unacked_of(cursor), 0);
	assert_int_equal(pending_of(cursor), PAGES);
	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 0);
	end_pass(cursor);
	expect_pass(cursor, 500, PAGES);
}

/* The slot that takes its place begins at its first page. */
static void r1_the_pass_continues_after_a_changed_slot(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	set_slot(2, 2000, PAGES, 0);
	cursor = join(0);
	begin_pass(cursor);
	expect_read(cursor, 0, PAGES);
	/* One behind the reader, one ahead of it. */
	assert_int_equal(reset_slot(0, 5000, 0), 0);
	assert_int_equal(reset_slot(1, 500, 0), 0);
	expect_read(cursor, 2000, PAGES);
	expect_no_more(cursor);
	end_pass(cursor);
	begin_pass(cursor);
	expect_read(cursor, 500, PAGES);
	expect_read(cursor, 2000, PAGES);
	expect_read(cursor, 5000, PAGES);
	expect_no_more(cursor);
	end_pass(cursor);
}

static void r1_a_removed_slot_is_handed_out_no_more(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(0);
	mark_page(0, 5);
	begin_pass(cursor);
	extent = expect_read(cursor, 0, PAGES);
	remove_slot(0);
	expect_no_more(cursor);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	end_pass(cursor);
	assert_int_equal(pending_of(cursor), 0);
	expect_empty_pass(cursor);
}

/* A sender of the old one's extents must not acknowledge pages of the new one. */
static void r1_a_slot_that_is_made_again_is_another(void **state)
{
	struct guest_block *block = set_slot(0, 0, PAGES, 0);
	struct dl_cursor *cursor = join(DL_CURSOR_CLEAN);
	struct dl_extent old, extent;

	mark_page(0, 5);
	begin_pass(cursor);
	old = expect_read(cursor, 5, 1);
	remove_slot(0);
	set_alias(0, 0, block, 0, PAGES, 0);
	expect_no_more(cursor);
	assert_int_equal(dl_cursor_ack(cursor, &old, 1), 0);
	assert_int_equal(pending_of(cursor), PAGES);
	end_pass(cursor);
	begin_pass(cursor);
	extent = expect_read(cursor, 0, PAGES);
	assert_int_equal(dl_cursor_ack(cursor, &old, 1), 0);
	assert_int_equal(unacked_of(cursor), PAGES);
	assert_true(extent.ticket != old.ticket);
	end_pass(cursor);
}

/* Within the pass in which it was made again, its view has the index of the old one. */
static void r1_an_old_extent_acknowledges_no_page_of_the_same_pass(void **state)
{
	struct dl_cursor *cursor;
	struct dl_extent old;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	cursor = join(0);
	begin_pass(cursor);
	old = expect_read(cursor, 0, PAGES);
	remove_slot(0);
	set_slot(2, 0, PAGES, 0);
	expect_read(cursor, 1000, PAGES);
	assert_int_equal(dl_cursor_ack(cursor, &old, 1), 0);
	assert_int_equal(unacked_of(cursor), PAGES);
	assert_int_equal(pending_of(cursor), PAGES);
	end_pass(cursor);
}

static void r1_a_page_is_handed_out_once_a_pass(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	begin_pass(cursor);
	extent = expect_read(cursor, 5, 1);
	write_page(5);
	mark_page(0, 5);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	mark_page(0, 5);
	expect_no_more(cursor);
	end_pass(cursor);
	expect_pass(cursor, 5, 1);
}

static void r1_a_new_cookie_is_no_change(void **state)
{
	struct dl_slot slot;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 7);
	begin_pass(cursor);
	expect_read(cursor, 5, 1);
	slot = slot_of(0);
	slot.cookie = 77;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(expect_read(cursor, 7, 1).cookie, 0);
	end_pass(cursor);
	begin_pass(cursor);
	assert_int_equal(expect_read(cursor, 5, 1).cookie, 77);
	end_pass(cursor);
}

static void r1_marks_on_memory_that_cannot_be_logged_record_nothing(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_CLEAN);

	set_slot(0, 0, PAGES, DL_SLOT_NO_LOG);
	assert_int_equal(dl_mark_slot(guest.log, 0, 0, 4096), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 4096), 0);
	assert_int_equal(pending_of(cursor), 0);
	expect_empty_pass(cursor);
}

static void r3_a_clean_slot_is_not_pending(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_CLEAN);

	set_slot(0, 0, PAGES, DL_SLOT_CLEAN);
	expect_empty_pass(cursor);
	write_page(7);
	expect_pass(cursor, 7, 1);
}

/* The pass of any cursor counts: the library cannot know what its receiver has. */
static void r3_clean_is_ignored_while_a_pass_is_open(void **state)
{
	struct dl_cursor *cursor, *other;

	set_slot(5, 5000, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	other = join_slot(DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN, 5);
	begin_pass(other);
	set_slot(0, 0, PAGES, DL_SLOT_CLEAN);
	end_pass(other);
	expect_pass(cursor, 0, PAGES);
	begin_pass(cursor);
	set_slot(1, 1000, PAGES, DL_SLOT_CLEAN);
	end_pass(cursor);
	expect_pass(cursor, 1000, PAGES);
	/* With no pass open it counts. */
	set_slot(2, 2000, PAGES, DL_SLOT_CLEAN);
	expect_empty_pass(cursor);
}

static void r3_clean_is_ignored_for_a_move(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	assert_int_equal(reset_slot(0, 500, DL_SLOT_CLEAN), 0);
	expect_pass(cursor, 500, PAGES);
}

static void r3_a_clean_slot_cannot_exist(void **state)
{
	struct dl_slot slot = guest_slot(&guest, 0, 0, guest_memory(&guest, PAGES), 0, PAGES);

	slot.flags = DL_SLOT_CLEAN | DL_SLOT_EXISTS;
	assert_int_equal(dl_slot_set(guest.log, &slot), -EINVAL);
}

/* They say how this call is made, and are no state. */
static void r3_flags_that_act_once_are_no_change(void **state)
{
	static const uint32_t flags[] = { 0, DL_SLOT_PAUSED, DL_SLOT_CLEAN, DL_SLOT_EXISTS,
					  DL_SLOT_PAUSED | DL_SLOT_CLEAN };
	struct dl_cursor *cursor;
	unsigned int regions;

	set_slot(0, 0, PAGES, DL_SLOT_CLEAN);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	regions = guest.regions;
	for (int i = 0; i < 5; i++)
		assert_int_equal(reset_slot(0, 0, flags[i]), 0);
	assert_int_equal(guest.regions, regions);
	expect_pass(cursor, 5, 1);
}

static struct {
	struct dl_cursor *cursor;
	uint64_t old_gpa, new_gpa;
	int result, calls, marked_old, marked_new;
} during;

/* Another thread marks while the ioctl runs. */
static bool mark_during(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request != KVM_SET_USER_MEMORY_REGION)
		return false;
	during.calls++;
	during.marked_old = dl_mark_gpa(g->log, 0, during.old_gpa, 1);
	during.marked_new = dl_mark_gpa(g->log, 0, during.new_gpa, 1);
	*result = during.result;
	return during.result != 0;
}

static void r5_a_refused_move_is_never_visible(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 7);
	begin_pass(cursor);
	extent = expect_read(cursor, 5, 1);
	during.calls = 0;
	during.old_gpa = 9 * 4096;
	during.new_gpa = 509 * 4096;
	during.result = -ENOMEM;
	guest.config.intercept = mark_during;
	assert_int_equal(reset_slot(0, 500, 0), -ENOMEM);
	guest.config.intercept = NULL;
	assert_int_equal(during.calls, 1);
	assert_int_equal(during.marked_old, 0);
	assert_int_equal(during.marked_new, -ENOENT);
	/* The pass goes on where it was, with nothing given back. */
	expect_read(cursor, 7, 1);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	expect_pass(cursor, 9, 1);
}

/* A write in the middle of a move that succeeds is not lost at either address. */
static void r5_a_move_is_visible_after_its_ioctl(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	during.calls = 0;
	during.old_gpa = 9 * 4096;
	during.new_gpa = 509 * 4096;
	during.result = 0;
	guest.config.intercept = mark_during;
	assert_int_equal(reset_slot(0, 500, 0), 0);
	guest.config.intercept = NULL;
	assert_int_equal(during.calls, 1);
	assert_int_equal(during.marked_old, 0);
	assert_int_equal(during.marked_new, -ENOENT);
	expect_pass(cursor, 500, PAGES);
}

static void r5_a_refused_slot_is_not_there(void **state)
{
	struct dl_slot slot = guest_slot(&guest, 0, 0, guest_memory(&guest, PAGES), 0, PAGES);
	struct dl_cursor *cursor = join(0);

	fail_calls(KVM_SET_USER_MEMORY_REGION, 0, 1, ENOMEM);
	assert_int_equal(dl_slot_set(guest.log, &slot), -ENOMEM);
	assert_int_equal(pending_of(cursor), 0);
	expect_empty_pass(cursor);
	assert_int_equal(dl_slot_remove(guest.log, 0, 0, NULL, 0), -ENOENT);
}

/* A slot whose change of WANTED is refused stays uncovered. */
static void r5_a_refused_flag_is_never_visible(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_WANTED);
	fail_calls(KVM_SET_USER_MEMORY_REGION, 0, 1, ENOMEM);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED), -ENOMEM);
	assert_int_equal(pending_of(cursor), 0);
	mark_page(0, 5);
	expect_empty_pass(cursor);
	/* Nor for a cursor that comes later. */
	expect_empty_pass(join(DL_CURSOR_WANTED));
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED), 0);
	expect_pass(cursor, 0, PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_tests(r1_a_new_slot_waits_for_the_next_pass),
		rule_tests(r1_a_moved_slot_is_wholly_pending_in_the_next_pass),
		rule_tests(r1_a_batch_of_a_changed_slot_is_given_back),
		rule_tests(r1_the_pass_continues_after_a_changed_slot),
		rule_tests(r1_a_removed_slot_is_handed_out_no_more),
		rule_tests(r1_a_slot_that_is_made_again_is_another),
		rule_tests(r1_an_old_extent_acknowledges_no_page_of_the_same_pass),
		rule_tests(r1_a_page_is_handed_out_once_a_pass),
		rule_tests(r1_a_new_cookie_is_no_change),
		rule_tests(r1_marks_on_memory_that_cannot_be_logged_record_nothing),
		rule_tests(r3_a_clean_slot_is_not_pending),
		rule_tests(r3_clean_is_ignored_while_a_pass_is_open),
		rule_tests(r3_clean_is_ignored_for_a_move),
		rule_test(ring, r3_a_clean_slot_cannot_exist),
		rule_tests(r3_flags_that_act_once_are_no_change),
		rule_tests(r5_a_refused_move_is_never_visible),
		rule_tests(r5_a_move_is_visible_after_its_ioctl),
		rule_tests(r5_a_refused_slot_is_not_there),
		rule_tests(r5_a_refused_flag_is_never_visible),
	};

	return RUN_TESTS("rules, slots", tests);
}
