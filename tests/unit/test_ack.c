/* SPDX-License-Identifier: MIT */
/* dl_cursor_ack() and dl_cursor_end(): what is forgotten, and what is pending again. */
#include "pass_guest.h"

#include <errno.h>

static void arguments_are_checked(void **state)
{
	struct dl_extent extent = { 0 };

	begin_pass();
	assert_int_equal(dl_cursor_ack(NULL, &extent, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(guest.cursor, NULL, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(guest.cursor, NULL, 0), 0);
	assert_int_equal(dl_cursor_end(NULL, 0), -EINVAL);
	assert_int_equal(dl_cursor_end(NULL, UINT32_MAX), -EINVAL);
	assert_int_equal(dl_cursor_end(guest.cursor, 1), -EINVAL);
	/* The pass is still open. */
	assert_int_equal(read_extents(&extent, 1), 0);
	end_pass();
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, DL_END_COMMIT), 0);
}

static void unacknowledged_pages_are_pending_again(void **state)
{
	struct dl_extent extents[4];

	mark(10, 5);
	mark(CHUNK + 10, 5);
	mark(2 * CHUNK + 10, 5);
	begin_pass();
	assert_int_equal(read_extents(extents, 2), 2);
	/* The third extent has been read ahead. */
	assert_int_equal(unacked_pages(), 15);
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, 1), 0);
	assert_int_equal(unacked_pages(), 10);
	end_pass();
	assert_int_equal(unacked_pages(), 0);
	assert_int_equal(pending_pages(), 10);
	expect_pass({ CHUNK + 10, 5 }, { 2 * CHUNK + 10, 5 });
}

/* Pages that were taken with their batch, but not handed out. */
static void unread_pages_are_pending_again(void **state)
{
	static const uint32_t commits[] = { 0, DL_END_COMMIT };

	for (int i = 0; i < 2; i++) {
		struct dl_extent extent;

		for (uint64_t page = 0; page < 200; page += 2)
			mark(page, 1);
		begin_pass();
		assert_int_equal(read_extents(&extent, 1), 1);
		assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
		assert_int_equal(dl_cursor_end(guest.cursor, commits[i]), 0);
		assert_int_equal(pending_pages(), 99);
		assert_int_equal(unacked_pages(), 0);
	}
}

static void a_commit_forgets_what_was_handed_out(void **state)
{
	struct dl_extent extents[2];
	uint64_t acked;

	mark(10, 5);
	mark(20, 5);
	mark(30, 5);
	begin_pass();
	assert_int_equal(read_extents(extents, 2), 2);
	/* Written again since: pending for the next pass. */
	mark(12, 1);
	acked = guest_cursor_stats(guest.cursor).acked_bytes;
	assert_int_equal(dl_cursor_end(guest.cursor, DL_END_COMMIT), 0);
	assert_int_equal(guest_cursor_stats(guest.cursor).acked_bytes - acked, 10 * 4096);
	expect_pass({ 12, 1 }, { 30, 5 });
}

static void part_of_an_extent_can_be_acknowledged(void **state)
{
	struct dl_extent extent, part;

	mark(60, 10);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	part = extent;
	part.offset_bytes += 2 * 4096;
	part.bytes = 3 * 4096;
	assert_int_equal(dl_cursor_ack(guest.cursor, &part, 1), 0);
	assert_int_equal(unacked_pages(), 7);
	assert_int_equal(dl_cursor_ack(guest.cursor, &part, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), -EINVAL);
	end_pass();
	expect_pass({ 60, 2 }, { 65, 5 });
}

static void pages_that_were_not_handed_out_cannot_be_acknowledged(void **state)
{
	struct dl_extent good, bad;

	mark(100, 10);
	begin_pass();
	assert_int_equal(read_extents(&good, 1), 1);
#define REFUSE(change)                                                           \
	do {                                                                     \
		bad = good;                                                      \
		change;                                                          \
		assert_int_equal(dl_cursor_ack(guest.cursor, &bad, 1), -EINVAL); \
	} while (0)
	REFUSE(bad.bytes += 4096);
	REFUSE(bad.offset_bytes -= 4096);
	REFUSE(bad.bytes = 0);
	REFUSE(bad.bytes -= 1);
	REFUSE(bad.offset_bytes += 512);
	REFUSE(bad.bytes = UINT64_MAX & ~UINT64_C(4095));
	REFUSE(bad.offset_bytes = PAGES * UINT64_C(4096));
	REFUSE(bad.offset_bytes = UINT64_MAX & ~UINT64_C(4095));
	REFUSE(bad.ticket = 0);
	REFUSE(bad.ticket = UINT64_MAX);
	REFUSE(bad.ticket += 1);
#undef REFUSE
	assert_int_equal(unacked_pages(), 10);
	end_pass();
}

/* The caller's own fields, and those that it has translated, do not matter. */
static void only_ticket_offset_and_bytes_are_looked_at(void **state)
{
	struct dl_extent extent;

	mark(100, 10);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	extent = (struct dl_extent){
		.ticket = extent.ticket,
		.offset_bytes = extent.offset_bytes,
		.bytes = extent.bytes,
		.gpa = 1,
		.hva = 2,
		.cookie = 3,
		.slot = 4,
		.flags = UINT32_MAX,
		.reserved = 5,
	};
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(unacked_pages(), 0);
	end_pass();
}

static void all_extents_are_checked_before_any_is_committed(void **state)
{
	struct dl_extent extents[3];

	mark(100, 10);
	begin_pass();
	assert_int_equal(read_extents(extents, 1), 1);
	extents[1] = extents[2] = extents[0];
	extents[0].bytes = extents[2].bytes = 4096;
	extents[2].offset_bytes += 4096;
	extents[1].offset_bytes = 90 * 4096;
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, 3), -EINVAL);
	assert_int_equal(unacked_pages(), 10);
	end_pass();
}

static void a_gap_in_an_extent_cannot_be_acknowledged(void **state)
{
	struct dl_extent extents[2];

	mark(0, 64);
	mark(128, 64);
	begin_pass();
	assert_int_equal(read_extents(extents, 2), 2);
	extents[0].bytes = 192 * UINT64_C(4096);
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, 1), -EINVAL);
	assert_int_equal(unacked_pages(), 128);
	end_pass();
}

/* A page is written again while in flight: its acknowledgement must keep the new mark. */
static void an_acknowledgement_leaves_a_new_mark_alone(void **state)
{
	struct dl_extent extent;

	mark(5, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	mark(5, 1);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(pending_pages(), 1);
	end_pass();
	assert_int_equal(pending_pages(), 1);
}

/* Its sender was slow. Whatever it names has been pending again since then. */
static void an_extent_of_an_earlier_pass_changes_nothing(void **state)
{
	struct dl_extent early, late;

	mark(5, 1);
	begin_pass();
	assert_int_equal(read_extents(&early, 1), 1);
	end_pass();
	assert_int_equal(dl_cursor_ack(guest.cursor, &early, 1), 0);
	assert_int_equal(pending_pages(), 1);
	begin_pass();
	assert_int_equal(dl_cursor_ack(guest.cursor, &early, 1), 0);
	assert_int_equal(read_extents(&late, 1), 1);
	assert_true(late.ticket != early.ticket);
	assert_int_equal(dl_cursor_ack(guest.cursor, &early, 1), 0);
	assert_int_equal(unacked_pages(), 1);
	assert_int_equal(dl_cursor_ack(guest.cursor, &late, 1), 0);
	assert_int_equal(unacked_pages(), 0);
	end_pass();
}

static void an_extent_of_another_cursor_is_refused(void **state)
{
	struct dl_extent own, extent;
	struct dl_cursor *other;

	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &other), 0);
	mark(5, 1);
	begin_pass();
	assert_int_equal(dl_harvest(other, 0, NULL), 0);
	assert_int_equal(read_extents(&own, 1), 1);
	assert_int_equal(dl_cursor_read(other, &extent, 1), 1);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(other, &own, 1), -EINVAL);
	assert_int_equal(unacked_pages(), 1);
	assert_int_equal(dl_cursor_end(other, 0), 0);
	/* The other's earlier pass is no better. */
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), -EINVAL);
	dl_cursor_free(other);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(guest.cursor, &own, 1), 0);
	end_pass();
}

/* Handles may be released in any order. */
static void a_cursor_outlives_its_log(void **state)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };
	struct dl_extent extent;
	uint64_t word;

	mark(5, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(read_extents(&extent, 1), -ECANCELED);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), -ECANCELED);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), -ECANCELED);
	assert_int_equal(dl_cursor_take(guest.cursor, PASS_SLOT, 0, &word, 1, NULL), -ECANCELED);
	assert_int_equal(dl_cursor_stats(guest.cursor, &stats), -ECANCELED);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	guest_leave(&guest);
}

static void counters_count_what_was_read_and_acknowledged(void **state)
{
	struct dl_cursor_stats stats;
	struct dl_extent extents[2];

	mark(10, 5);
	mark(20, 3);
	begin_pass();
	assert_int_equal(read_extents(extents, 2), 2);
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, 1), 0);
	stats = guest_cursor_stats(guest.cursor);
	assert_int_equal(stats.read_bytes, 8 * 4096);
	assert_int_equal(stats.acked_bytes, 5 * 4096);
	assert_int_equal(stats.unacked_bytes, 3 * 4096);
	assert_int_equal(stats.passes, 1);
	end_pass();
	expect_pass({ 20, 3 });
	stats = guest_cursor_stats(guest.cursor);
	assert_int_equal(stats.read_bytes, 11 * 4096);
	assert_int_equal(stats.acked_bytes, 8 * 4096);
	assert_int_equal(stats.passes, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(arguments_are_checked),
		ring_test(unacknowledged_pages_are_pending_again),
		bitmap_test(unacknowledged_pages_are_pending_again),
		ring_test(unread_pages_are_pending_again),
		bitmap_test(unread_pages_are_pending_again),
		ring_test(a_commit_forgets_what_was_handed_out),
		bitmap_test(a_commit_forgets_what_was_handed_out),
		ring_test(part_of_an_extent_can_be_acknowledged),
		ring_test(pages_that_were_not_handed_out_cannot_be_acknowledged),
		ring_test(only_ticket_offset_and_bytes_are_looked_at),
		ring_test(all_extents_are_checked_before_any_is_committed),
		ring_test(a_gap_in_an_extent_cannot_be_acknowledged),
		ring_test(an_acknowledgement_leaves_a_new_mark_alone),
		ring_test(an_extent_of_an_earlier_pass_changes_nothing),
		ring_test(an_extent_of_another_cursor_is_refused),
		ring_test(a_cursor_outlives_its_log),
		ring_test(counters_count_what_was_read_and_acknowledged),
	};

	return RUN_TESTS("ack", tests);
}
