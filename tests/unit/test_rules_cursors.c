/* SPDX-License-Identifier: MIT */
/* C2, C4, C6, and which slots a cursor covers: consumers side by side. */
#include "coverage.h"
#include "rules_guest.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

enum { PAGES = 100 };

/* By a vCPU, by the VMM, and by the kernel beside it. */
static void c2_every_cursor_gets_every_page(void **state)
{
	struct dl_cursor *cursors[3];

	set_slot(0, 0, PAGES, 0);
	for (int i = 0; i < 3; i++)
		cursors[i] = join(DL_CURSOR_CLEAN);
	write_page(5);
	mark_page(0, 6);
	/* Whoever harvests, it is for all. */
	expect_pass(cursors[1], 5, 2);
	expect_pass(cursors[0], 5, 2);
	expect_pass(cursors[2], 5, 2);
	for (int i = 0; i < 3; i++)
		expect_empty_pass(cursors[i]);
}

static void c2_cursors_have_passes_of_their_own(void **state)
{
	struct dl_cursor *slow, *fast;

	set_slot(0, 0, PAGES, 0);
	slow = join(DL_CURSOR_CLEAN);
	fast = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	begin_pass(slow);
	expect_pass(fast, 5, 1);
	mark_page(0, 7);
	expect_pass(fast, 7, 1);
	expect_read(slow, 5, 1);
	end_pass(slow);
	begin_pass(slow);
	expect_read(slow, 5, 1);
	expect_read(slow, 7, 1);
	end_pass(slow);
	expect_empty_pass(fast);
}

/* Pages that are pending for a cursor, and marked again for all, are pending once. */
static void c2_what_is_left_and_what_is_new_are_one_pass(void **state)
{
	uint64_t bytes;
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN), two = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	expect_pass(two, 5, 1);
	write_page(6);
	mark_page(0, 7);
	assert_int_equal(dl_harvest(one, 0, &bytes), 0);
	assert_int_equal(bytes, 3 * 4096);
	assert_int_equal(pending_of(one), 3);
	end_pass(one);
	expect_pass(one, 5, 3);
}

/* Each of these is the first to look after a mark that went into the shared set. */
static void c2_whoever_takes_distributes_first(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	assert_int_equal(take(one, 0, 0).w[0], 32);
	mark_page(0, 6);
	assert_int_equal(take(two, 0, 0).w[0], 32 | 64);
	assert_int_equal(take(one, 0, 0).w[0], 64);
}

static void c2_whoever_leaves_distributes_first(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	leave(two);
	assert_int_equal(pending_of(one), 1);
	expect_pass(one, 5, 1);
}

static void c2_whoever_joins_distributes_first(void **state)
{
	struct dl_cursor *one, *two, *three;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	mark_page(0, 4);
	two = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	three = join(DL_CURSOR_CLEAN);
	expect_empty_pass(three);
	expect_pass(two, 5, 1);
	expect_pass(one, 4, 2);
}

/* A set that was the only one, then shared, then the only one again. */
static void c2_marks_are_for_those_that_are_there(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	mark_page(0, 1);
	two = join(DL_CURSOR_CLEAN);
	mark_page(0, 2);
	leave(one);
	mark_page(0, 3);
	one = join(DL_CURSOR_CLEAN);
	mark_page(0, 4);
	expect_pass(two, 2, 3);
	expect_pass(one, 4, 1);
}

static void c4_a_failed_get_marks_every_cursor(void **state)
{
	struct dl_cursor *one, *two, *display;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	display = join_slot(DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN, 1);
	write_page(1005);
	fail_calls(KVM_GET_DIRTY_LOG, 0, 1, EFAULT);
	assert_int_equal(dl_harvest(display, 0, NULL), -EFAULT);
	expect_pass(one, 1000, PAGES);
	expect_pass(two, 1000, PAGES);
	expect_pass(display, 1000, PAGES);
}

static void c4_a_repair_marks_every_cursor(void **state)
{
	struct dl_cursor *one, *two, *display;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, PAGES, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	display = join_slot(DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN, 1);
	for (uint64_t i = 0; i < 1100; i++)
		assert_int_equal(model_vcpu_write_unchecked(guest.model, vcpu->fd, 0,
							    i % PAGES * 4096, NULL, 8),
				 0);
	expect_pass(display, PAGES, PAGES);
	expect_pass(one, 0, 2 * PAGES);
	expect_pass(two, 0, 2 * PAGES);
	assert_int_equal(guest_stats(&guest).repairs, 1);
	assert_int_equal(guest_stats(&guest).repair_bytes, 2 * PAGES * 4096);
}

static void c4_a_slot_change_marks_every_cursor(void **state)
{
	struct dl_cursor *one = join(DL_CURSOR_CLEAN), *two = join(DL_CURSOR_CLEAN);

	set_slot(0, 0, PAGES, 0);
	expect_pass(one, 0, PAGES);
	assert_int_equal(reset_slot(0, 500, 0), 0);
	expect_pass(one, 500, PAGES);
	expect_pass(two, 500, PAGES);
}

/* One cursor's full copy is its own. */
static void a_harvest_of_all_is_for_its_cursor(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	assert_int_equal(dl_harvest(one, DL_HARVEST_ALL, NULL), 0);
	expect_read(one, 0, PAGES);
	end_pass(one);
	expect_pass(two, 5, 1);
}

static void c6_freeing_a_cursor_discards_nothing_of_another(void **state)
{
	struct dl_extent extent;
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(7);
	begin_pass(one);
	extent = expect_read(one, 5, 1);
	/* It has a pass open, with one page in flight and one read ahead. */
	begin_pass(two);
	expect_read(two, 5, 1);
	leave(two);
	expect_read(one, 7, 1);
	assert_int_equal(dl_cursor_ack(one, &extent, 1), 0);
	end_pass(one);
	expect_pass(one, 7, 1);
	/* Logging goes on for the other. */
	write_page(9);
	expect_pass(one, 9, 1);
}

static void c6_one_slot_follows_the_slot(void **state)
{
	struct dl_cursor *display;
	uint64_t pending_bytes = 7;

	/* It need not exist yet. */
	display = join_slot(DL_CURSOR_ONE_SLOT, 3);
	assert_int_equal(dl_harvest(display, 0, &pending_bytes), -ENOENT);
	assert_int_equal(pending_bytes, 7);
	/* No pass is open. */
	assert_int_equal(dl_cursor_read(display, &(struct dl_extent){ 0 }, 1), -EBUSY);
	set_slot(0, 0, PAGES, 0);
	assert_int_equal(dl_harvest(display, 0, NULL), -ENOENT);
	set_slot(3, 1000, PAGES, 0);
	expect_pass(display, 1000, PAGES);
	write_page(1005);
	write_page(7);
	expect_pass(display, 1005, 1);
	remove_slot(3);
	assert_int_equal(dl_harvest(display, 0, NULL), -ENOENT);
	set_slot(3, 2000, PAGES, 0);
	expect_pass(display, 2000, PAGES);
}

static void one_slot_logs_no_other(void **state)
{
	struct dl_cursor *display;
	unsigned int regions, gets;

	set_slot(0, 0, PAGES, 0);
	set_slot(3, 1000, PAGES, 0);
	regions = guest.regions;
	display = join_slot(DL_CURSOR_ONE_SLOT, 3);
	assert_int_equal(guest.regions, regions + 1);
	expect_pass(display, 1000, PAGES);
	gets = guest.gets;
	expect_empty_pass(display);
	/* A display at 60 Hz must not read every bitmap. */
	assert_true(guest.gets - gets <= 1);
	leave(display);
	assert_int_equal(guest.regions, regions + 2);
}

/* Reading a bitmap empties it, so all cursors that cover the slot get its pages. */
static void a_harvest_reads_covered_slots_for_all_that_cover_them(void **state)
{
	struct dl_cursor *all, *display;
	unsigned int gets;

	set_slot(0, 0, PAGES, 0);
	set_slot(3, 1000, PAGES, 0);
	all = join(DL_CURSOR_CLEAN);
	display = join_slot(DL_CURSOR_ONE_SLOT | DL_CURSOR_CLEAN, 3);
	write_page(5);
	write_page(1005);
	gets = guest.gets;
	expect_pass(display, 1005, 1);
	assert_int_equal(guest.gets, gets + 1);
	begin_pass(all);
	expect_read(all, 5, 1);
	expect_read(all, 1005, 1);
	end_pass(all);
}

static void a_late_cursor_makes_no_call_for_logged_slots(void **state)
{
	unsigned int regions, gets, enables, resets;
	struct dl_cursor *late;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	join_slot(DL_CURSOR_ONE_SLOT, 0);
	regions = guest.regions;
	gets = guest.gets;
	enables = guest.enables;
	resets = guest.resets;
	late = join(0);
	assert_int_equal(guest.regions, regions + 1);
	assert_int_equal(guest.gets, gets);
	assert_int_equal(guest.enables, enables);
	assert_int_equal(guest.resets, resets);
	begin_pass(late);
	expect_read(late, 0, PAGES);
	expect_read(late, 1000, PAGES);
	end_pass(late);
	leave(late);
	assert_int_equal(guest.regions, regions + 2);
}

/* From its beginning on it sees everything. */
static void a_cursor_that_joins_in_mid_pass_sees_every_write(void **state)
{
	struct dl_cursor *one, *late;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(7);
	begin_pass(one);
	expect_read(one, 5, 1);
	late = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(9);
	expect_read(one, 7, 1);
	end_pass(one);
	/* More may be pending than was written since. */
	begin_pass(late);
	for (uint64_t page = 5; page <= 9; page += 4) {
		struct dl_extent extent;

		do
			assert_int_equal(dl_cursor_read(late, &extent, 1), 1);
		while (extent.gpa != page * 4096);
	}
	end_pass(late);
}

static void wanted_slots_come_and_go(void **state)
{
	struct dl_cursor *wanted, *all;
	unsigned int regions;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, DL_SLOT_WANTED);
	regions = guest.regions;
	wanted = join(DL_CURSOR_WANTED);
	assert_int_equal(guest.regions, regions + 1);
	expect_pass(wanted, 1000, PAGES);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED), 0);
	assert_int_equal(guest.regions, regions + 2);
	expect_pass(wanted, 0, PAGES);
	/* Its pages are forgotten there, and nothing logs it. */
	write_page(1005);
	assert_int_equal(dl_harvest(wanted, 0, NULL), 0);
	assert_int_equal(reset_slot(1, 1000, 0), 0);
	assert_int_equal(guest.regions, regions + 3);
	expect_no_more(wanted);
	end_pass(wanted);
	assert_int_equal(pending_of(wanted), 0);
	mark_page(1, 6);
	write_page(1007);
	expect_empty_pass(wanted);
	/* A cursor of all slots is not concerned. */
	all = join(0);
	begin_pass(all);
	assert_int_equal(guest_finish_pass(&guest, all, NULL, 0), -1);
	mark_page(1, 6);
	assert_int_equal(reset_slot(1, 1000, DL_SLOT_WANTED), 0);
	assert_int_equal(reset_slot(1, 1000, 0), 0);
	expect_pass(all, 1006, 1);
}

/* A pass that is open does not get a slot that is wanted since. */
static void a_newly_wanted_slot_waits_for_the_next_pass(void **state)
{
	struct dl_cursor *wanted;

	set_slot(0, 0, PAGES, 0);
	wanted = join(DL_CURSOR_WANTED);
	begin_pass(wanted);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED), 0);
	expect_no_more(wanted);
	end_pass(wanted);
	expect_pass(wanted, 0, PAGES);
}

static void a_newly_wanted_clean_slot_is_not_pending(void **state)
{
	struct dl_cursor *wanted;

	set_slot(0, 0, PAGES, 0);
	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED | DL_SLOT_CLEAN), 0);
	expect_empty_pass(wanted);
	write_page(5);
	expect_pass(wanted, 5, 1);
	/* Not while a pass is open. */
	assert_int_equal(reset_slot(0, 0, 0), 0);
	begin_pass(wanted);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED | DL_SLOT_CLEAN), 0);
	end_pass(wanted);
	expect_pass(wanted, 0, PAGES);
}

/* lib/coverage.c: what failed leaves neither a view nor a mapping. */
static void prepared_views_can_be_abandoned(void **state)
{
	struct dli_views views = { NULL };
	struct dli_slot *slot;
	struct dl_cursor *one, *two;
	int mappings;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join_slot(DL_CURSOR_ONE_SLOT, 9);
	slot = dli_slot_find(dli_slots_table(&guest.log->slots), 0);
	mappings = atomic_load(&guest.mappings);
	assert_int_equal(dli_views_prepare(&views, two, slot), 0);
	assert_non_null(views.first);
	assert_int_equal(dli_cursor_count(two), 1);
	assert_null(dli_slot_view(slot, two));
	dli_views_abandon(&views);
	assert_null(dli_cursor_view_at(two, 0));
	/* The shared set may stay. */
	assert_true(atomic_load(&guest.mappings) <= mappings + 1);
	assert_int_equal(dli_cursor_pending_pages(two), 0);
	mark_page(0, 5);
	expect_pass(one, 5, 1);
}

static void covered_slots_follow_the_flags(void **state)
{
	struct dl_cursor *all = join(0), *wanted = join(DL_CURSOR_WANTED);
	struct dl_cursor *one = join_slot(DL_CURSOR_ONE_SLOT, 1 << 16 | 3);

	assert_true(dli_cursor_covers(all, 5, 0));
	assert_true(dli_cursor_covers(all, 5, DL_SLOT_WANTED));
	assert_false(dli_cursor_covers(all, 5, DL_SLOT_NO_LOG));
	assert_false(dli_cursor_covers(wanted, 5, 0));
	assert_true(dli_cursor_covers(wanted, 5, DL_SLOT_WANTED));
	assert_false(dli_cursor_covers(wanted, 5, DL_SLOT_WANTED | DL_SLOT_NO_LOG));
	assert_true(dli_cursor_covers(one, 1 << 16 | 3, 0));
	assert_false(dli_cursor_covers(one, 3, DL_SLOT_WANTED));
	assert_false(dli_cursor_covers(one, 1 << 16 | 3, DL_SLOT_NO_LOG));
}

/* Entries of views that have gone are used again, the lowest first. */
static void the_registry_does_not_grow(void **state)
{
	struct dl_cursor *cursor = join(0);

	for (uint32_t i = 0; i < 4; i++)
		set_slot(i, 1000 * i, 1, 0);
	for (int i = 0; i < 10; i++) {
		remove_slot(1);
		remove_slot(2);
		set_slot(10, 20000, 1, 0);
		set_slot(11, 30000, 1, 0);
		assert_int_equal(dli_cursor_count(cursor), 4);
		remove_slot(10);
		remove_slot(11);
		set_slot(1, 1000, 1, 0);
		set_slot(2, 2000, 1, 0);
		guest.block_count -= 4;
		for (int block = 0; block < 4; block++)
			free(guest.blocks[guest.block_count + (unsigned int)block].memory);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_tests(c2_every_cursor_gets_every_page),
		rule_tests(c2_cursors_have_passes_of_their_own),
		rule_tests(c2_what_is_left_and_what_is_new_are_one_pass),
		rule_tests(c2_whoever_takes_distributes_first),
		rule_tests(c2_whoever_leaves_distributes_first),
		rule_tests(c2_whoever_joins_distributes_first),
		rule_tests(c2_marks_are_for_those_that_are_there),
		rule_test(bitmap, c4_a_failed_get_marks_every_cursor),
		rule_test(no_manual, c4_a_failed_get_marks_every_cursor),
		rule_test(ring, c4_a_repair_marks_every_cursor),
		rule_tests(c4_a_slot_change_marks_every_cursor),
		rule_tests(a_harvest_of_all_is_for_its_cursor),
		rule_tests(c6_freeing_a_cursor_discards_nothing_of_another),
		rule_tests(c6_one_slot_follows_the_slot),
		rule_tests(one_slot_logs_no_other),
		rule_test(bitmap, a_harvest_reads_covered_slots_for_all_that_cover_them),
		rule_test(no_manual, a_harvest_reads_covered_slots_for_all_that_cover_them),
		rule_tests(a_late_cursor_makes_no_call_for_logged_slots),
		rule_tests(a_cursor_that_joins_in_mid_pass_sees_every_write),
		rule_tests(wanted_slots_come_and_go),
		rule_tests(a_newly_wanted_slot_waits_for_the_next_pass),
		rule_test(ring, a_newly_wanted_clean_slot_is_not_pending),
		rule_test(bitmap, a_newly_wanted_clean_slot_is_not_pending),
		rule_test(ring, prepared_views_can_be_abandoned),
		rule_test(ring, covered_slots_follow_the_flags),
		rule_test(ring, the_registry_does_not_grow),
	};

	return RUN_TESTS("rules, cursors", tests);
}
