/* SPDX-License-Identifier: MIT */
/* The shape of extents: coalesce_bytes and max_extent_bytes. */
#include "pass_guest.h"

#include <errno.h>

static void begin(uint32_t mode, uint64_t coalesce_bytes, uint64_t max_extent_bytes)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = DL_CURSOR_CLEAN,
		.coalesce_bytes = coalesce_bytes,
		.max_extent_bytes = max_extent_bytes,
	};

	pass_begin(mode, &options);
}

#define shape_test(f) cmocka_unit_test_teardown(f, teardown)
#define PADDED	      DL_EXTENT_PADDED

static void small_gaps_are_joined_and_flagged(void **state)
{
	begin(DL_MODE_RING, 3 * 4096, 0);
	mark(10, 2);
	mark(15, 1); /* a gap of 3 */
	mark(20, 1); /* of 4 */
	mark(62, 1);
	mark(65, 1); /* over the end of a word */
	mark(70, 2);
	expect_pass({ 10, 6, PADDED }, { 20, 1 }, { 62, 4, PADDED }, { 70, 2 });
}

/* Less than a page is no gap at all. */
static void a_gap_is_counted_in_pages(void **state)
{
	begin(DL_MODE_RING, 2 * 4096 - 1, 0);
	mark(10, 1);
	mark(12, 1);
	mark(15, 1);
	expect_pass({ 10, 3, PADDED }, { 15, 1 });
	guest_close(&guest);
	begin(DL_MODE_RING, 4095, 0);
	mark(10, 1);
	mark(12, 1);
	expect_pass({ 10, 1 }, { 12, 1 });
}

/* The clean pages of a gap are neither pending nor left in flight. */
static void padding_is_unacknowledged_with_its_extent_and_forgotten_after_it(void **state)
{
	struct dl_extent extent;

	begin(DL_MODE_RING, 8 * 4096, 0);
	mark(10, 1);
	mark(14, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	expect_extent(&extent, 10, 5);
	assert_int_equal(unacked_pages(), 5);
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(unacked_pages(), 0);
	end_pass();
	expect_pass_of(NULL, 0);
}

static void a_padded_extent_that_is_not_acknowledged_is_handed_out_again(void **state)
{
	struct dl_extent extent;

	begin(DL_MODE_RING, 8 * 4096, 0);
	mark(10, 1);
	mark(14, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	extent.bytes = 4096;
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	end_pass();
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	/* More than page 14 may come again, never less. */
	assert_true(extent.offset_bytes <= 14 * 4096);
	assert_int_equal(extent.offset_bytes + extent.bytes, 15 * 4096);
	end_pass();
}

/* A gap that is dirtied in mid-pass is written after it was handed out. */
static void a_write_into_padding_is_handed_out_again(void **state)
{
	struct dl_extent extent;

	begin(DL_MODE_RING, 8 * 4096, 0);
	mark(10, 1);
	mark(14, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	mark(12, 1);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	end_pass();
	expect_pass({ 12, 1 });
}

static void a_long_run_is_cut(void **state)
{
	begin(DL_MODE_RING, 0, 10 * 4096 + 5);
	mark(60, 25);
	mark(100, 10);
	mark(200, 3);
	expect_pass({ 60, 10 }, { 70, 10 }, { 80, 5 }, { 100, 10 }, { 200, 3 });
	guest_close(&guest);
	begin(DL_MODE_BITMAP, 0, 10 * 4096);
	mark(CHUNK - 5, 12);
	expect_pass({ CHUNK - 5, 10 }, { CHUNK + 5, 2 });
}

static void an_extent_is_at_least_a_page(void **state)
{
	begin(DL_MODE_RING, 0, 1);
	mark(60, 3);
	expect_pass({ 60, 1 }, { 61, 1 }, { 62, 1 });
}

/* A gap is not worth joining if what comes behind it does not fit. */
static void joined_extents_stay_within_the_limit(void **state)
{
	begin(DL_MODE_RING, 8 * 4096, 10 * 4096);
	mark(0, 4);
	mark(6, 4);
	mark(12, 4);
	mark(18, 6);
	mark(28, 25);
	expect_pass({ 0, 10, PADDED }, { 12, 4 }, { 18, 6 }, { 28, 10 }, { 38, 10 }, { 48, 5 });
}

/* The rest of a run that was cut is known to nobody else. */
static void the_rest_of_a_cut_run_is_pending_again(void **state)
{
	static const uint32_t commits[] = { 0, DL_END_COMMIT };

	for (int i = 0; i < 2; i++) {
		struct dl_extent extent;

		begin(DL_MODE_RING, 0, 10 * 4096);
		mark(60, 25);
		mark(100, 1);
		begin_pass();
		assert_int_equal(read_extents(&extent, 1), 1);
		expect_extent(&extent, 60, 10);
		assert_int_equal(dl_cursor_end(guest.cursor, commits[i]), 0);
		assert_int_equal(unacked_pages(), 0);
		assert_int_equal(pending_pages(), commits[i] ? 16 : 26);
		begin_pass();
		assert_int_equal(read_extents(&extent, 1), 1);
		expect_extent(&extent, commits[i] ? 70 : 60, 10);
		end_pass();
		guest_close(&guest);
	}
	begin(DL_MODE_RING, 0, 0);
}

/* So is a run that was looked at and not joined. */
static void a_run_that_did_not_fit_is_pending_again(void **state)
{
	struct dl_extent extent;

	begin(DL_MODE_RING, 4096, 0);
	mark(10, 1);
	mark(20, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	expect_extent(&extent, 10, 1);
	assert_int_equal(dl_cursor_end(guest.cursor, DL_END_COMMIT), 0);
	expect_pass({ 20, 1 });
}

static void the_rest_of_a_cut_run_goes_with_its_slot(void **state)
{
	struct dl_slot next = pass_slot();
	struct dl_extent extent;

	next.slot = PASS_SLOT + 1;
	next.gpa += next.bytes;
	next.hva += next.bytes;
	next.flags = DL_SLOT_CLEAN;
	begin(DL_MODE_RING, 0, 10 * 4096);
	assert_int_equal(dl_slot_set(guest.log, &next), 0);
	mark(60, 25);
	assert_int_equal(dl_mark_slot(guest.log, next.slot, 0, 4096), 0);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	assert_int_equal(dl_slot_remove(guest.log, PASS_SLOT, 0, NULL, 0), 0);
	assert_int_equal(read_extents(&extent, 1), 1);
	assert_int_equal(extent.slot, next.slot);
	assert_int_equal(extent.gpa, next.gpa);
	assert_int_equal(read_extents(&extent, 1), 0);
	end_pass();
	assert_int_equal(pending_pages(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		shape_test(small_gaps_are_joined_and_flagged),
		shape_test(a_gap_is_counted_in_pages),
		shape_test(padding_is_unacknowledged_with_its_extent_and_forgotten_after_it),
		shape_test(a_padded_extent_that_is_not_acknowledged_is_handed_out_again),
		shape_test(a_write_into_padding_is_handed_out_again),
		shape_test(a_long_run_is_cut),
		shape_test(an_extent_is_at_least_a_page),
		shape_test(joined_extents_stay_within_the_limit),
		shape_test(the_rest_of_a_cut_run_is_pending_again),
		shape_test(a_run_that_did_not_fit_is_pending_again),
		shape_test(the_rest_of_a_cut_run_goes_with_its_slot),
	};

	return RUN_TESTS("read, shape", tests);
}
