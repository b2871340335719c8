/* SPDX-License-Identifier: MIT */
/* R4: memory that several slots map has one home, page by page. */
#include "aliases.h"
#include "cursor.h"
#include "rules_guest.h"

#include <errno.h>
#include <sys/ioctl.h>

enum { PAGES = 300 };

static struct guest_block *block;

/* Slot 0 over all of the block at 0, slot 1 over the same at 1000. */
static struct dl_cursor *two_slots(uint32_t flags)
{
	block = set_slot(0, 0, PAGES, flags);
	set_alias(1, 1000, block, 0, PAGES, flags);
	return join(DL_CURSOR_CLEAN);
}

/* True if the cursor's pass hands out a guest page. */
static bool includes_page(struct dl_cursor *cursor, uint64_t page)
{
	uint64_t pages[MOST_PAGES];
	int n = guest_pass_of(&guest, cursor, 0, pages, MOST_PAGES);
	bool found = false;

	assert_true(n >= 0);
	for (int i = 0; i < n; i++)
		found |= pages[i] == page;
	return found;
}

static void r4_memory_of_several_slots_is_handed_out_once(void **state)
{
	struct dl_cursor *cursor = two_slots(0);
	uint64_t pending_bytes;

	write_page(5);
	write_page(1005);
	mark_page(0, 6);
	mark_page(1, 6);
	assert_int_equal(dl_harvest(cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 2 * 4096);
	expect_read(cursor, 5, 2);
	expect_no_more(cursor);
	end_pass(cursor);
	expect_pass(cursor, 5, 2);
	expect_empty_pass(cursor);
}

/* The shared part ends behind the first page of a word. */
static void r4_a_part_is_shared_to_its_last_page(void **state)
{
	struct dl_cursor *cursor;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 0, 65, 0);
	set_alias(1, 1000, block, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(1, 64);
	expect_pass(cursor, 64, 1);
	mark_page(1, 65);
	expect_pass(cursor, 1065, 1);
	/* A mark that comes too late for its home to have it waits for the next pass. */
	begin_pass(cursor);
	mark_page(1, 64);
	expect_no_more(cursor);
	end_pass(cursor);
	expect_pass(cursor, 64, 1);
}

/* INITIALLY_SET, a full copy and a repair: all of it is pending in both. */
static void r4_all_of_it_is_pending_once(void **state)
{
	struct dl_cursor *cursor;
	uint64_t pending_bytes;

	two_slots(0);
	cursor = join(0);
	expect_pass(cursor, 0, PAGES);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_ALL, &pending_bytes), 0);
	assert_int_equal(pending_bytes, PAGES * 4096);
	end_pass(cursor);
	expect_pass(cursor, 0, PAGES);
}

/* A store through the younger slot is handed out at the home, protected in the younger slot. */
static void r4_a_page_is_found_at_its_home(void **state)
{
	struct dl_cursor *cursor = two_slots(0);

	write_page(1007);
	begin_pass(cursor);
	expect_read(cursor, 7, 1);
	assert_true(is_protected(1, 7));
	end_pass(cursor);
	expect_pass(cursor, 7, 1);
	write_page(1007);
	expect_pass(cursor, 7, 1);
}

/* Beginning and end in mid word, with pages on both sides that only one slot has. */
static void r4_slots_that_share_a_part_share_pages_of_it_only(void **state)
{
	struct dl_cursor *cursor;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 70, 100, 0);
	/* Pages 50 to 199 of the block; 70 to 169 are at home in slot 0. */
	set_alias(1, 1000, block, 50, 150, 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < 150; page++)
		mark_page(1, page);
	begin_pass(cursor);
	expect_read(cursor, 0, 100);
	expect_read(cursor, 1000, 20);
	expect_read(cursor, 1120, 30);
	expect_no_more(cursor);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	/* Single pages next to the borders, and several in a word. */
	mark_page(1, 19);
	mark_page(1, 20);
	mark_page(1, 22);
	mark_page(1, 23);
	mark_page(1, 63);
	mark_page(1, 119);
	mark_page(1, 120);
	begin_pass(cursor);
	expect_read(cursor, 0, 1);
	expect_read(cursor, 2, 2);
	expect_read(cursor, 43, 1);
	expect_read(cursor, 99, 1);
	expect_read(cursor, 1019, 1);
	expect_read(cursor, 1120, 1);
	expect_no_more(cursor);
	end_pass(cursor);
}

/* By its creation, whatever its number and address. */
static void r4_the_oldest_slot_is_the_home(void **state)
{
	struct dl_cursor *cursor;

	block = set_slot(7, 2000, PAGES, 0);
	set_alias(3, 0, block, 0, PAGES, 0);
	set_alias(1 << 16 | 1, 0, block, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(3, 5);
	mark_page(1 << 16 | 1, 6);
	expect_pass(cursor, 2005, 2);
	/* A move makes it no younger. */
	assert_int_equal(reset_slot(7, 3000, 0), 0);
	expect_pass(cursor, 3000, PAGES);
	mark_page(3, 5);
	expect_pass(cursor, 3005, 1);
}

static void r4_only_slots_that_the_cursor_covers_count(void **state)
{
	struct dl_cursor *all = two_slots(0), *wanted;

	assert_int_equal(reset_slot(1, 1000, DL_SLOT_WANTED), 0);
	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	mark_page(1, 5);
	/* A store through a slot that it does not cover is not seen. */
	mark_page(0, 8);
	expect_pass(wanted, 1005, 1);
	begin_pass(all);
	expect_read(all, 5, 1);
	expect_read(all, 8, 1);
	expect_no_more(all);
	end_pass(all);
}

static void r4_when_the_home_goes_the_next_is_wholly_pending(void **state)
{
	struct dl_cursor *cursor = two_slots(0);

	set_alias(2, 2000, block, 0, PAGES, 0);
	expect_pass(cursor, 0, PAGES);
	mark_page(1, 5);
	remove_slot(0);
	expect_pass(cursor, 1000, PAGES);
	mark_page(2, 5);
	expect_pass(cursor, 1005, 1);
	remove_slot(1);
	expect_pass(cursor, 2000, PAGES);
}

/* The memory stays in the guest, and what was written through the slot is nowhere else. */
static void r4_a_younger_slot_that_goes_leaves_its_writes_at_the_home(void **state)
{
	static const uint32_t flags[] = { 0, DL_REMOVE_PAUSED };
	struct dl_cursor *one = two_slots(0), *two = join(DL_CURSOR_CLEAN);
	uint64_t words[(PAGES + 63) / 64];

	for (int i = 0; i < 4; i++) {
		write_page(1007);
		assert_int_equal(dl_slot_remove(guest.log, 1, flags[i % 2], i < 2 ? NULL : words,
						i < 2 ? 0 : (PAGES + 63) / 64),
				 0);
		/* More may be pending than was written. */
		assert_true(includes_page(one, 7));
		assert_true(includes_page(two, 7));
		set_alias(1, 1000, block, 0, PAGES, DL_SLOT_CLEAN);
	}
}

/* Only the shared part, for cursors that covered the slot. */
static void r4_a_younger_slot_that_goes_leaves_only_what_is_shared(void **state)
{
	struct dl_cursor *all, *wanted;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 70, 100, DL_SLOT_WANTED);
	set_alias(1, 1000, block, 120, 100, 0);
	all = join(DL_CURSOR_CLEAN);
	wanted = join(DL_CURSOR_CLEAN | DL_CURSOR_WANTED);
	write_page(1003);
	remove_slot(1);
	expect_pass(all, 50, 50);
	expect_empty_pass(wanted);
}

static void r4_a_younger_slot_that_is_wanted_no_more_leaves_its_writes(void **state)
{
	struct dl_cursor *wanted;

	two_slots(DL_SLOT_WANTED);
	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	write_page(1007);
	assert_int_equal(reset_slot(1, 1000, 0), 0);
	assert_true(includes_page(wanted, 7));
}

/* One in the middle was nobody's home. */
static void r4_when_a_younger_slot_goes_the_home_stays(void **state)
{
	struct dl_cursor *cursor = two_slots(0);

	set_alias(2, 2000, block, 0, PAGES, 0);
	expect_pass(cursor, 0, PAGES);
	remove_slot(1);
	mark_page(2, 5);
	/* More of slot 2 may be pending than was written, but at its home. */
	begin_pass(cursor);
	assert_true(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1) == 1);
	end_pass(cursor);
	remove_slot(2);
	begin_pass(cursor);
	end_pass(cursor);
}

static void r4_in_an_open_pass_the_next_home_waits(void **state)
{
	struct dl_cursor *cursor = two_slots(0);

	mark_page(0, 5);
	mark_page(0, 9);
	begin_pass(cursor);
	expect_read(cursor, 5, 1);
	remove_slot(0);
	expect_no_more(cursor);
	end_pass(cursor);
	expect_pass(cursor, 1000, PAGES);
}

/* The pass has handed out a page by its home, and goes on in the slot that is the home then. */
static void r4_a_page_is_not_handed_out_again_by_its_next_home(void **state)
{
	struct dl_cursor *wanted;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 0, 100, DL_SLOT_WANTED);
	set_alias(1, 1000, block, 50, 250, DL_SLOT_WANTED);
	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	for (int i = 0; i < 2; i++) {
		mark_page(0, 60);
		mark_page(1, 60);
		begin_pass(wanted);
		expect_read(wanted, 60, 1);
		if (i)
			remove_slot(0);
		else
			assert_int_equal(reset_slot(0, 0, 0), 0);
		expect_no_more(wanted);
		assert_int_equal(dl_cursor_end(wanted, DL_END_COMMIT), 0);
		expect_pass(wanted, 1000, 250);
		if (i)
			break;
		/* The other way round: the home is wanted again. */
		assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED), 0);
		expect_pass(wanted, 0, 100);
	}
}

static void r4_when_the_home_is_wanted_no_more_the_next_is_wholly_pending(void **state)
{
	struct dl_cursor *all = two_slots(DL_SLOT_WANTED), *wanted;

	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	mark_page(1, 5);
	assert_int_equal(reset_slot(0, 0, 0), 0);
	expect_pass(wanted, 1000, PAGES);
	/* Nothing has changed for the others. */
	expect_pass(all, 5, 1);
}

/* Not the first to be handed out, but it knows of a write that the home does not. */
static void r4_marks_on_an_alias_in_mid_pass_wait_for_the_next(void **state)
{
	struct dl_cursor *cursor;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 0, 100, 0);
	set_alias(1, 1000, block, 50, 250, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	begin_pass(cursor);
	expect_read(cursor, 5, 1);
	/* The first is at home in slot 0, behind the reader; the second in slot 1, ahead of it. */
	mark_page(1, 10);
	mark_page(1, 60);
	expect_read(cursor, 1060, 1);
	expect_no_more(cursor);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	expect_pass(cursor, 60, 1);
}

static void r4_a_take_returns_no_bit_of_pages_at_home_elsewhere(void **state)
{
	struct dl_cursor *cursor;
	struct four_words taken;

	block = guest_memory(&guest, PAGES);
	set_alias(0, 0, block, 0, 100, 0);
	set_alias(1, 1000, block, 50, 200, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(1010);
	write_page(1060);
	taken = take(cursor, 1, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, 0);
	assert_true(taken.w[0] == UINT64_C(1) << 60);
	assert_int_equal(taken.bytes, 4096);
	taken = take(cursor, 0, DL_TAKE_HARVEST);
	assert_true(taken.w[0] == UINT64_C(1) << 60);
	assert_int_equal(taken.w[1], 0);
	assert_int_equal(pending_of(cursor), 0);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).bytes, 0);
}

/* Another thread marks while the take has the page's neighbours moved to their home. */
static bool mark_in_clear(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request != KVM_CLEAR_DIRTY_LOG)
		return false;
	g->config.intercept = NULL;
	mark_page(1, 20);
	return false;
}

static void r4_a_mark_on_an_alias_in_mid_take_waits_at_the_alias(void **state)
{
	struct dl_cursor *cursor;
	struct four_words taken;

	block = set_slot(0, 0, 200, 0);
	set_alias(1, 1000, block, 0, 200, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(1010);
	guest.config.intercept = mark_in_clear;
	taken = take(cursor, 1, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, 0);
	assert_null(guest.config.intercept);
	assert_int_equal(taken.bytes, 0);
	assert_int_equal(taken.w[0], 0);
	assert_int_equal(take(cursor, 0, 0).w[0], 1 << 10 | 1 << 20);
	assert_int_equal(pending_of(cursor), 0);
}

/* A store through the younger slot: nobody has to harvest that slot first. */
static void r4_a_take_of_the_home_sees_stores_through_its_alias(void **state)
{
	struct dl_cursor *cursor;

	block = set_slot(0, 0, 200, 0);
	set_alias(1, 1000, block, 0, 200, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(1007);
	assert_true(take(cursor, 0, DL_TAKE_HARVEST).w[0] == UINT64_C(1) << 7);
	assert_true(is_protected(1, 7));
	assert_int_equal(take(cursor, 1, DL_TAKE_HARVEST).bytes, 0);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).bytes, 0);
}

/* The younger slot's pages are cleared in its own bitmap before they move. */
static void r4_a_clear_that_fails_keeps_the_page_where_it_was(void **state)
{
	struct dl_cursor *cursor = two_slots(0);

	write_page(1007);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -EIO);
	/* No pass is open. */
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), -EBUSY);
	assert_int_equal(pending_of(cursor), 1);
	expect_pass(cursor, 7, 1);
	assert_true(is_protected(1, 7));
}

static void whether_a_slot_has_pages_of_its_own_is_known(void **state)
{
	static const struct {
		uint32_t first, pages;
		bool whole;
	} cases[] = {
		{ 0, 300, false }, { 0, 100, true },   { 100, 100, true }, { 50, 100, true },
		{ 0, 200, true },  { 50, 151, false }, { 200, 10, false }, { 10, 190, true }
	};
	const struct dli_slot_table *table;
	struct dl_cursor *cursor;

	block = guest_memory(&guest, PAGES);
	/* 0 to 199 are covered by two slots of which the younger comes first in memory. */
	set_alias(0, 0, block, 100, 100, 0);
	set_alias(1, 1000, block, 0, 120, 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct dli_slot *slot;

		set_alias(10, 5000, block, cases[i].first, cases[i].pages, 0);
		table = dli_slots_table(&guest.log->slots);
		slot = dli_slot_find(table, 10);
		assert_int_equal(dli_alias_is_whole(cursor, slot), cases[i].whole);
		remove_slot(10);
	}
}

static void the_number_of_aliased_slots_is_kept(void **state)
{
	two_slots(0);
	assert_int_equal(guest.log->aliased, 1);
	set_alias(2, 2000, block, 0, 10, 0);
	assert_int_equal(guest.log->aliased, 2);
	set_slot(3, 3000, 10, 0);
	assert_int_equal(guest.log->aliased, 2);
	remove_slot(0);
	/* Slot 2 still shares pages with slot 1. */
	assert_int_equal(guest.log->aliased, 1);
	remove_slot(2);
	assert_int_equal(guest.log->aliased, 0);
	set_alias(0, 0, block, 0, PAGES, 0);
	assert_int_equal(guest.log->aliased, 1);
	remove_slot(1);
	assert_int_equal(guest.log->aliased, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_tests(r4_memory_of_several_slots_is_handed_out_once),
		rule_tests(r4_a_part_is_shared_to_its_last_page),
		rule_tests(r4_all_of_it_is_pending_once),
		rule_tests(r4_a_page_is_found_at_its_home),
		rule_tests(r4_slots_that_share_a_part_share_pages_of_it_only),
		rule_tests(r4_the_oldest_slot_is_the_home),
		rule_tests(r4_only_slots_that_the_cursor_covers_count),
		rule_tests(r4_when_the_home_goes_the_next_is_wholly_pending),
		rule_tests(r4_when_a_younger_slot_goes_the_home_stays),
		rule_tests(r4_a_younger_slot_that_goes_leaves_its_writes_at_the_home),
		rule_tests(r4_a_younger_slot_that_goes_leaves_only_what_is_shared),
		rule_tests(r4_a_younger_slot_that_is_wanted_no_more_leaves_its_writes),
		rule_tests(r4_in_an_open_pass_the_next_home_waits),
		rule_tests(r4_when_the_home_is_wanted_no_more_the_next_is_wholly_pending),
		rule_tests(r4_a_page_is_not_handed_out_again_by_its_next_home),
		rule_tests(r4_marks_on_an_alias_in_mid_pass_wait_for_the_next),
		rule_tests(r4_a_take_returns_no_bit_of_pages_at_home_elsewhere),
		rule_test(bitmap, r4_a_mark_on_an_alias_in_mid_take_waits_at_the_alias),
		rule_tests(r4_a_take_of_the_home_sees_stores_through_its_alias),
		rule_test(bitmap, r4_a_clear_that_fails_keeps_the_page_where_it_was),
		rule_test(ring, whether_a_slot_has_pages_of_its_own_is_known),
		rule_test(ring, the_number_of_aliased_slots_is_kept),
	};

	return RUN_TESTS("rules, aliases", tests);
}
