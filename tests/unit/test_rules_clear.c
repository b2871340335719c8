/* SPDX-License-Identifier: MIT */
/* C1, C3 and C5: what the kernel may still leave writable, and who clears it. */
#include "clear.h"
#include "cursor.h"
#include "rules_guest.h"

#include <errno.h>
#include <sys/ioctl.h>

enum { PAGES = 200 };

static bool in_bitmap(uint64_t page)
{
	return state_of(0, page) & MODEL_PAGE_IN_BITMAP;
}

/* A consumer's CLEAR of a whole word would erase the second write, which nobody has seen. */
static void c1_clear_takes_owed_bits_only(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	write_page(5);
	mark_page(0, 6);
	begin_pass(one);
	write_page(6);
	expect_read(one, 5, 2);
	assert_true(is_protected(0, 5));
	assert_true(in_bitmap(6));
	end_pass(one);
	expect_pass(two, 5, 2);
	assert_true(is_protected(0, 6));
}

/* The page is written again after the first cursor's CLEAR: the second must leave it alone. */
static void c1_a_page_is_cleared_once_for_all_cursors(void **state)
{
	struct dl_cursor *one, *two;
	unsigned int clears;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	write_page(5);
	begin_pass(one);
	begin_pass(two);
	expect_read(one, 5, 1);
	write_page(5);
	clears = guest.clears;
	expect_read(two, 5, 1);
	assert_int_equal(guest.clears, clears);
	assert_true(in_bitmap(5));
	assert_int_equal(dl_cursor_end(one, DL_END_COMMIT), 0);
	assert_int_equal(dl_cursor_end(two, DL_END_COMMIT), 0);
	/* Both have read the first write; the second comes to both. */
	expect_pass(one, 5, 1);
	expect_pass(two, 5, 1);
}

/* The other has the page pending from the GET; its next read is after the CLEAR. */
static void c1_a_page_that_one_has_cleared_is_still_the_others(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	write_page(5);
	expect_pass(one, 5, 1);
	expect_pass(two, 5, 1);
	expect_empty_pass(one);
	expect_empty_pass(two);
}

static void c1_a_failed_clear_puts_the_bits_back(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(130);
	begin_pass(cursor);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), -EIO);
	assert_int_equal(pending_of(cursor), 2);
	assert_false(is_protected(0, 5));
	expect_read(cursor, 5, 1);
	assert_true(is_protected(0, 5));
	assert_true(is_protected(0, 130));
	end_pass(cursor);
}

/* The page may be written unseen until somebody clears it. */
static void c3_a_clean_cursor_begins_with_owed(void **state)
{
	struct dl_cursor *one, *late;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	write_page(5);
	begin_pass(one);
	late = join(DL_CURSOR_CLEAN);
	/* Before it harvests. */
	assert_int_equal(pending_of(late), 1);
	expect_pass(late, 5, 1);
	assert_true(is_protected(0, 5));
	expect_read(one, 5, 1);
	assert_int_equal(dl_cursor_end(one, DL_END_COMMIT), 0);
	/* Nothing is owed now. */
	late = join(DL_CURSOR_CLEAN);
	expect_empty_pass(late);
}

static void c3_a_newly_wanted_clean_slot_begins_with_owed(void **state)
{
	struct dl_cursor *one, *wanted;

	set_slot(0, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	wanted = join(DL_CURSOR_WANTED | DL_CURSOR_CLEAN);
	write_page(5);
	assert_int_equal(guest_pass_of(&guest, wanted, 0, NULL, 0), 0);
	begin_pass(one);
	end_pass(one);
	assert_int_equal(reset_slot(0, 0, DL_SLOT_WANTED | DL_SLOT_CLEAN), 0);
	assert_int_equal(pending_of(wanted), 1);
	expect_pass(wanted, 5, 1);
	expect_pass(one, 5, 1);
}

/* KVM counts every page of it as dirty, and has protected none. */
static void c3_newly_logged_slots_are_wholly_owed_under_initially_set(void **state)
{
	struct dl_cursor *display, *clean;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	write_page(1005);
	display = join_slot(DL_CURSOR_ONE_SLOT, 0);
	assert_true(guest.log->initially_set);
	expect_pass(display, 0, PAGES);
	clean = join(DL_CURSOR_CLEAN);
	expect_pass(clean, 1000, PAGES);
	assert_true(is_protected(1, 5));
	write_page(1005);
	expect_pass(clean, 1005, 1);
}

static void c4_a_failed_get_may_have_cleared_and_owes_nothing_new(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	fail_calls(KVM_GET_DIRTY_LOG, 0, 1, EFAULT);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -EFAULT);
	expect_pass(cursor, 0, PAGES);
	/* The bit is still in the kernel, or the page is protected: no write is lost. */
	write_page(5);
	expect_pass(cursor, 5, 1);
}

/* CLEAR protects huge mappings only while it is on, so it stays while a slot is logged. */
static void c5_initially_set_stays_while_a_slot_is_logged(void **state)
{
	struct dl_cursor *first, *clean;
	unsigned int enables;

	set_slot(0, 0, PAGES, 0);
	first = join(0);
	enables = guest.enables;
	clean = join(DL_CURSOR_CLEAN);
	leave(first);
	assert_int_equal(guest.enables, enables);
	assert_true(guest.log->initially_set);
	leave(clean);
	/* With nothing logged the next first cursor chooses. */
	join(DL_CURSOR_CLEAN);
	assert_int_equal(guest.enables, enables + 1);
	assert_false(guest.log->initially_set);
}

static void c5_a_clean_slot_starts_dirty_under_initially_set(void **state)
{
	struct dl_cursor *cursor = join(0);

	set_slot(0, 0, PAGES, DL_SLOT_CLEAN);
	expect_pass(cursor, 0, PAGES);
	write_page(5);
	expect_pass(cursor, 5, 1);
}

static void c5_unless_no_vcpu_runs(void **state)
{
	struct dl_cursor *cursor = join(0);

	set_slot(0, 0, PAGES, DL_SLOT_CLEAN | DL_SLOT_PAUSED);
	assert_true(guest.clears > 0);
	assert_true(is_protected(0, 5));
	expect_empty_pass(cursor);
	write_page(5);
	expect_pass(cursor, 5, 1);
}

static void c5_a_clear_that_fails_makes_the_slot_dirty(void **state)
{
	struct dl_cursor *cursor = join(0);

	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	set_slot(0, 0, PAGES, DL_SLOT_CLEAN | DL_SLOT_PAUSED);
	assert_int_equal(pending_of(cursor), PAGES);
	expect_pass(cursor, 0, PAGES);
}

/* Without INITIALLY_SET nothing is owed, and PAUSED makes no difference. */
static void c5_a_clean_cursors_slots_are_clean_without_a_clear(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_CLEAN);

	set_slot(0, 0, PAGES, DL_SLOT_CLEAN);
	set_slot(1, 1000, PAGES, DL_SLOT_CLEAN | DL_SLOT_PAUSED);
	assert_int_equal(guest.clears, 0);
	expect_empty_pass(cursor);
}

/* A slot that is switched off and on has a new bitmap; what was owed of the old one is void. */
static void what_is_owed_goes_with_the_last_cursor(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	begin_pass(cursor);
	leave(cursor);
	cursor = join(DL_CURSOR_CLEAN);
	expect_empty_pass(cursor);
	write_page(5);
	mark_page(0, 6);
	expect_pass(cursor, 5, 2);
}

static struct dli_slot *slot_zero(void)
{
	return dli_slot_find(dli_slots_table(&guest.log->slots), 0);
}

/* lib/clear.c; its callers hold the log's lock, but there is no other thread here. */
static void a_batch_is_cleared_where_it_is_owed(void **state)
{
	struct dli_batch owed = { .n = 2, .word = { 1, 2 }, .bits = { 6, 1 } };
	struct dli_batch batch = { .n = 2, .word = { 0, 1 }, .bits = { 1, 3 } };
	struct dli_slot *slot;

	set_slot(0, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	write_page(64);
	write_page(65);
	write_page(66);
	slot = slot_zero();
	assert_int_equal(dli_clear_batch(guest.log, slot, &batch), 0);
	assert_int_equal(guest.clears, 0);
	dli_owed_add(&slot->owed, &owed);
	assert_int_equal(dli_clear_batch(guest.log, slot, &(struct dli_batch){ .n = 0 }), 0);
	assert_int_equal(guest.clears, 0);
	assert_int_equal(dli_clear_batch(guest.log, slot, &batch), 0);
	assert_int_equal(guest.clears, 1);
	/* Page 65 only: 64 was not owed, and 66 not in the batch. */
	assert_true(in_bitmap(64) && !in_bitmap(65) && in_bitmap(66));
	assert_true(slot->owed.words[1] == 4 && slot->owed.words[2] == 1);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	batch.bits[1] = 7;
	assert_int_equal(dli_clear_batch(guest.log, slot, &batch), -EIO);
	assert_true(slot->owed.words[1] == 4);
}

static void a_range_is_cleared_in_whole_words(void **state)
{
	struct dli_slot *slot;

	set_slot(0, 0, PAGES, 0);
	join(0);
	slot = slot_zero();
	assert_int_equal(dli_clear_range(guest.log, slot, 70, 10), 0);
	assert_int_equal(guest.clears, 1);
	assert_true(!slot->owed.words[1] && slot->owed.words[0] == ~UINT64_C(0));
	assert_int_equal(dli_clear_range(guest.log, slot, 70, 10), 0);
	assert_int_equal(guest.clears, 1);
	/* Up to the end of a slot that ends in mid word. */
	assert_int_equal(dli_clear_range(guest.log, slot, 0, PAGES), 0);
	assert_int_equal(guest.clears, 2);
	assert_true(!slot->owed.words[0] && !slot->owed.words[2] && !slot->owed.words[3]);
}

static void a_range_is_cleared_chunk_by_chunk(void **state)
{
	enum { HUGE = 2 * CHUNK + 100 };
	struct dl_slot slot = { .size = sizeof(slot),
				.bytes = HUGE * UINT64_C(4096),
				.hva = UINT64_C(1) << 40 };
	struct dl_cursor *cursor;

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 3; page < HUGE; page += CHUNK)
		write_page(page);
	begin_pass(cursor);
	end_pass(cursor);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, slot.bytes), 0);
	assert_int_equal(guest.clears, 3);
	for (uint64_t page = 3; page < HUGE; page += CHUNK)
		assert_true(is_protected(0, page));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_test(bitmap, c1_clear_takes_owed_bits_only),
		rule_test(bitmap, c1_a_page_is_cleared_once_for_all_cursors),
		rule_tests(c1_a_page_that_one_has_cleared_is_still_the_others),
		rule_test(bitmap, c1_a_failed_clear_puts_the_bits_back),
		rule_test(bitmap, c3_a_clean_cursor_begins_with_owed),
		rule_test(bitmap, c3_a_newly_wanted_clean_slot_begins_with_owed),
		rule_test(bitmap, c3_newly_logged_slots_are_wholly_owed_under_initially_set),
		rule_test(bitmap, c4_a_failed_get_may_have_cleared_and_owes_nothing_new),
		rule_test(no_manual, c4_a_failed_get_may_have_cleared_and_owes_nothing_new),
		rule_test(bitmap, c5_initially_set_stays_while_a_slot_is_logged),
		rule_test(bitmap, c5_a_clean_slot_starts_dirty_under_initially_set),
		rule_test(bitmap, c5_unless_no_vcpu_runs),
		rule_test(bitmap, c5_a_clear_that_fails_makes_the_slot_dirty),
		rule_test(bitmap, c5_a_clean_cursors_slots_are_clean_without_a_clear),
		rule_test(bitmap, what_is_owed_goes_with_the_last_cursor),
		rule_test(bitmap, a_batch_is_cleared_where_it_is_owed),
		rule_test(bitmap, a_range_is_cleared_in_whole_words),
		rule_test(sparse, a_range_is_cleared_chunk_by_chunk),
	};

	return RUN_TESTS("rules, clear", tests);
}
