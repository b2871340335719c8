/* SPDX-License-Identifier: MIT */
/* DL_WATCH_AUDIT: what was written through the second mapping and never marked. */
#include "watch_guest.h"

#include <errno.h>
#include <sys/ioctl.h>

/* Expects n missed pages in a row. */
static void expect_missed(struct dl_cursor *audit, uint64_t page, int n)
{
	expect_pass(audit, page, n);
}

static void a_write_that_is_never_marked_is_shown(void **state)
{
	struct dl_cursor *cursor, *audit;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	cursor = join(DL_CURSOR_CLEAN);
	audit = join(DL_CURSOR_MISSED);
	expect_empty_pass(audit);
	device_writes(5);
	mark_page(0, 5);
	device_writes(6);
	/* The scan that finds it, and the one that judges. */
	expect_pass(cursor, 5, 2);
	assert_int_equal(missed(), 0);
	expect_empty_pass(cursor);
	assert_int_equal(missed(), 1);
	expect_missed(audit, 6, 1);
	expect_empty_pass(audit);
	expect_empty_pass(cursor);
	assert_int_equal(missed(), 1);
}

/* A writer may be between write and mark while one scan passes. */
static void a_mark_after_the_scan_is_in_time(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(5);
	expect_pass(cursor, 5, 1);
	mark_page(0, 5);
	expect_pass(cursor, 5, 1);
	expect_empty_pass(cursor);
	expect_empty_pass(cursor);
	assert_int_equal(missed(), 0);
}

/* Marks one foreign page, of n pages. */
static void mark_foreign(uint64_t first_page, uint64_t n, uint64_t *word)
{
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.gpa = first_page * guest.page_bytes,
		.bytes = 64 * n * guest.page_bytes,
		.page_bytes = n * guest.page_bytes,
	};
	uint64_t marked = 1;

	assert_int_equal(dl_mark_bitmap(guest.log, &bitmap, word, 1, &marked), 0);
	assert_int_equal(marked, 0);
}

/* A mark is a mark, whoever names the page, and whether or not a cursor covers the slot. */
static void a_foreign_log_marks_for_an_audit_too(void **state)
{
	struct dl_cursor *audit;
	uint64_t word = 3 << 5;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, PAGES, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	expect_empty_pass(audit);
	for (uint64_t page = 5; page < 8; page++)
		device_writes(page);
	device_writes(PAGES - 1);
	mark_foreign(0, 1, &word);
	/* Nobody sends these pages: the bits stay for a cursor that will. */
	assert_int_equal(word, 3 << 5);
	/* A foreign page of two slots, of which one is audited. */
	word = 1;
	mark_foreign(PAGES / 16 * 16, 16, &word);
	assert_int_equal(word, 1);
	expect_empty_pass(audit);
	expect_missed(audit, 7, 1);
	assert_int_equal(missed(), 1);
}

/* No slot is logged, no ring drained, no bitmap read: the audit needs none of it. */
static void an_audit_works_alone(void **state)
{
	unsigned int regions, resets, gets;
	struct dl_cursor *audit;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	regions = guest.regions;
	resets = guest.resets;
	gets = guest.gets;
	audit = join(DL_CURSOR_MISSED);
	device_writes(5);
	device_writes(7);
	mark_page(0, 7);
	expect_empty_pass(audit);
	write_page(9);
	expect_missed(audit, 5, 1);
	leave(audit);
	assert_int_equal(guest.regions, regions);
	assert_int_equal(guest.resets, resets);
	assert_int_equal(guest.gets, gets);
	/* Without any cursor a mark outside of every slot is still an error. */
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_C(1) << 40, 1), -ENOENT);
	assert_int_equal(watch_at(0, ALIAS, 0), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_C(1) << 40, 1), 0);
}

/* The first cursor that logs prepares the log, whatever audits are there. */
static void a_cursor_that_logs_comes_after_the_audit(void **state)
{
	struct dl_cursor *audit, *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	cursor = join(0);
	expect_pass(cursor, 0, PAGES);
	write_page(3);
	expect_pass(cursor, 3, 1);
	leave(cursor);
	assert_false(dl_harvest(audit, 0, NULL));
	dl_cursor_end(audit, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(4);
	expect_pass(cursor, 4, 1);
}

/* Each kind of mark covers one page; page 3 has no mark. */
static void every_kind_of_mark_counts(void **state)
{
	struct guest_block *block = set_slot(0, 0, PAGES, 0);
	struct dl_cursor *audit;

	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	for (uint64_t page = 0; page < 4; page++)
		device_writes(page);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 10, 1), 0);
	assert_int_equal(dl_mark_slot(guest.log, 0, guest.page_bytes, 1), 0);
	assert_int_equal(dl_mark_hva(guest.log, block->memory + 2 * guest.page_bytes, 1), 0);
	expect_empty_pass(audit);
	expect_missed(audit, 3, 1);
}

static void a_take_shows_what_was_missed(void **state)
{
	struct dl_cursor *audit;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	device_writes(3);
	assert_int_equal(take(audit, 0, DL_TAKE_HARVEST).w[0], 0);
	assert_int_equal(take(audit, 0, DL_TAKE_HARVEST).w[0], 8);
	assert_int_equal(take(audit, 0, DL_TAKE_HARVEST).w[0], 0);
}

/* An audit of one slot covers no other, and none that is only watched. */
static void an_audit_covers_audited_slots_only(void **state)
{
	struct dl_cursor *audit, *one;
	uint64_t pending;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	assert_int_equal(watch_at(1, ALIAS + PAGES * guest.page_bytes, 0), 0);
	audit = join(DL_CURSOR_MISSED);
	one = join_slot(DL_CURSOR_MISSED | DL_CURSOR_ONE_SLOT, 1);
	device_writes(PAGES + 1);
	expect_empty_pass(audit);
	expect_empty_pass(audit);
	assert_int_equal(watched(), 0);
	/* From now on it is audited too; what came before is not judged. */
	assert_int_equal(watch_at(1, ALIAS + PAGES * guest.page_bytes, DL_WATCH_AUDIT), 0);
	expect_empty_pass(audit);
	expect_empty_pass(audit);
	device_writes(PAGES + 2);
	expect_empty_pass(audit);
	expect_missed(audit, 1002, 1);
	expect_missed(one, 1002, 1);
	device_writes(3);
	expect_empty_pass(audit);
	expect_missed(audit, 3, 1);
	assert_int_equal(dl_harvest(one, 0, &pending), 0);
	assert_int_equal(pending, 0);
}

static void flags_that_do_not_go_with_an_audit(void **state)
{
	const struct dl_cursor_options wanted = { .size = sizeof(wanted),
						  .flags = DL_CURSOR_MISSED | DL_CURSOR_WANTED };
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	assert_int_equal(dl_cursor_new(guest.log, &wanted, &cursor), -EINVAL);
	cursor = join(DL_CURSOR_MISSED | DL_CURSOR_CLEAN);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_ALL, NULL), -EINVAL);
	expect_empty_pass(cursor);
}

/* The pages of an open pass leave it with the audit, the watch, or the slot. */
static void an_audit_that_ends_takes_its_pages_along(void **state)
{
	struct dl_cursor *audit;
	struct dl_extent extent;

	set_slot(0, 0, PAGES, 0);
	audit = join(DL_CURSOR_MISSED);
	for (int how = 0; how < 3; how++) {
		watch(DL_WATCH_AUDIT);
		device_writes(5);
		device_writes(7);
		expect_empty_pass(audit);
		begin_pass(audit);
		assert_int_equal(dl_cursor_read(audit, &extent, 1), 1);
		if (how == 0)
			watch(0);
		else if (how == 1)
			assert_int_equal(watch_at(0, NULL, 0), 0);
		else
			remove_slot(0);
		expect_no_more(audit);
		assert_int_equal(dl_cursor_ack(audit, &extent, 1), 0);
		end_pass(audit);
		expect_empty_pass(audit);
		assert_int_equal(pending_of(audit) + unacked_of(audit), 0);
	}
	assert_int_equal(missed(), 6);
}

/* Pages that were read at the old address are read again at the new one. */
static void a_moved_slot_shows_its_missed_pages_again(void **state)
{
	struct dl_cursor *audit;
	struct dl_extent extent;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	device_writes(5);
	device_writes(7);
	expect_empty_pass(audit);
	begin_pass(audit);
	assert_int_equal(dl_cursor_read(audit, &extent, 1), 1);
	assert_int_equal(reset_slot(0, 5000, 0), 0);
	expect_no_more(audit);
	assert_int_equal(dl_cursor_ack(audit, &extent, 1), 0);
	end_pass(audit);
	begin_pass(audit);
	expect_read(audit, 5005, 1);
	expect_read(audit, 5007, 1);
	end_pass(audit);
}

/* Nobody is accused of what a failed scan has seen; later misses are found again. */
static void a_failed_scan_accuses_nobody(void **state)
{
	struct dl_cursor *audit;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	audit = join(DL_CURSOR_MISSED);
	device_writes(5);
	fail_calls(MODEL_PAGEMAP_SCAN, 0, 1, EIO);
	assert_int_equal(dl_harvest(audit, 0, NULL), -EIO);
	mark_page(0, 5);
	for (int i = 0; i < 3; i++)
		expect_empty_pass(audit);
	assert_int_equal(missed(), 0);
	device_writes(6);
	expect_empty_pass(audit);
	expect_missed(audit, 6, 1);
}

static void an_audit_without_memory_is_none(void **state)
{
	struct dl_cursor *audit;
	struct dl_cursor *other = NULL;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	fail_calls(MODEL_CALL_MMAP, 0, 1, ENOMEM);
	assert_int_equal(watch_at(0, ALIAS, DL_WATCH_AUDIT), -ENOMEM);
	model_faults_clear(guest.model);
	audit = join(DL_CURSOR_MISSED);
	/* The audit's own memory, then the view's. */
	fail_calls(MODEL_CALL_MMAP, 1, 1, ENOMEM);
	assert_int_equal(watch_at(0, ALIAS, DL_WATCH_AUDIT), -ENOMEM);
	model_faults_clear(guest.model);
	watch(DL_WATCH_AUDIT);
	/* The cursor's, then the view's. */
	fail_calls(MODEL_CALL_MMAP, 1, 1, ENOMEM);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_MISSED, 0, &other), -ENOMEM);
	assert_null(other);
	model_faults_clear(guest.model);
	device_writes(5);
	expect_empty_pass(audit);
	expect_missed(audit, 5, 1);
}

/* Marks go to the set that the other cursors share, which has nothing for an audit. */
static void marks_are_not_pending_for_an_audit(void **state)
{
	struct dl_cursor *one, *two, *audit;

	set_slot(0, 0, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	audit = join(DL_CURSOR_MISSED);
	mark_page(0, 5);
	assert_int_equal(pending_of(audit), 0);
	expect_empty_pass(audit);
	assert_int_equal(pending_of(one), 1);
	expect_pass(two, 5, 1);
	expect_pass(one, 5, 1);
}

/* It collects no dirty pages, so that no plan could tell from it whether a migration ends. */
static void a_cursor_of_missed_marks_has_no_plan(void **state)
{
	struct dl_plan *plan;
	struct dl_cursor *audit;

	set_slot(0, 0, PAGES, 0);
	audit = join(DL_CURSOR_MISSED);
	assert_int_equal(dl_plan_new(audit, NULL, &plan), -EINVAL);
	assert_null(plan);
	leave(audit);
	assert_int_equal(dl_plan_new(join(DL_CURSOR_CLEAN), NULL, &plan), 0);
	dl_plan_free(plan);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		rule_tests(a_write_that_is_never_marked_is_shown),
		rule_tests(a_mark_after_the_scan_is_in_time),
		rule_tests(an_audit_works_alone),
		rule_tests(a_cursor_that_logs_comes_after_the_audit),
		rule_test(ring, every_kind_of_mark_counts),
		rule_test(ring, a_foreign_log_marks_for_an_audit_too),
		rule_tests(a_take_shows_what_was_missed),
		rule_test(ring, an_audit_covers_audited_slots_only),
		rule_test(ring, flags_that_do_not_go_with_an_audit),
		rule_test(ring, an_audit_that_ends_takes_its_pages_along),
		rule_test(ring, a_moved_slot_shows_its_missed_pages_again),
		rule_test(ring, a_failed_scan_accuses_nobody),
		rule_test(ring, an_audit_without_memory_is_none),
		rule_test(ring, marks_are_not_pending_for_an_audit),
		rule_test(ring, a_cursor_of_missed_marks_has_no_plan),
		rule_test(bitmap, a_cursor_of_missed_marks_has_no_plan),
	};

	if (reserve_alias())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
