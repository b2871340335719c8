/* SPDX-License-Identifier: MIT */
/* dl_cursor_take() and dl_slot_clear(): D1 to D3, and R6. */
#include "rules_guest.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 200 };

static struct dl_cursor *cursor;

static void begin(uint32_t flags)
{
	set_slot(0, 0, PAGES, 0);
	cursor = join(flags);
}

static void arguments_are_checked(void **state)
{
	uint64_t words[4] = { 0 }, bytes = 7;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	assert_int_equal(dl_cursor_take(NULL, 0, 0, words, 4, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 16, words, 4, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, DL_TAKE_PAUSED, words, 4, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, NULL, 4, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, words, 3, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 1, 0, words, 4, &bytes), -ENOENT);
	assert_int_equal(dl_cursor_take(cursor, UINT32_MAX, 0, words, 4, &bytes), -ENOENT);
	assert_int_equal(words[0], 0);
	assert_int_equal(pending_of(cursor), 1);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, words, 4, NULL), 0);
	assert_int_equal(words[0], 32);
	assert_int_equal(dl_slot_clear(NULL, 0, 0, 4096), -EINVAL);
	assert_int_equal(dl_slot_clear(guest.log, 1, 0, 4096), -ENOENT);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096 + 1), -EINVAL);
	assert_int_equal(dl_slot_clear(guest.log, 0, PAGES * 4096, 1), -EINVAL);
	assert_int_equal(dl_slot_clear(guest.log, 0, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(dl_slot_clear(guest.log, 0, 2, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_slot_clear(guest.log, 0, PAGES * 4096, 0), 0);
}

/* KVM_GET_DIRTY_LOG's shape on every kernel. */
static void a_take_with_harvest_is_a_get(void **state)
{
	struct four_words taken;

	begin(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(199);
	mark_page(0, 70);
	taken = take(cursor, 0, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, 0);
	assert_int_equal(taken.bytes, 3 * 4096);
	assert_true(taken.w[0] == 32 && taken.w[1] == 64 && taken.w[2] == 0 && taken.w[3] == 128);
	assert_true(is_protected(0, 5));
	/* They are acknowledged. */
	taken = take(cursor, 0, DL_TAKE_HARVEST);
	assert_int_equal(taken.bytes, 0);
	expect_empty_pass(cursor);
	write_page(5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 32);
}

static void without_harvest_nothing_new_is_collected(void **state)
{
	unsigned int gets, resets;

	begin(DL_CURSOR_CLEAN);
	write_page(5);
	mark_page(0, 6);
	gets = guest.gets;
	resets = guest.resets;
	assert_int_equal(take(cursor, 0, 0).w[0], 64);
	assert_int_equal(guest.gets, gets);
	assert_int_equal(guest.resets, resets);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 32);
}

static void a_take_ors(void **state)
{
	uint64_t words[4] = { 3, 0, 0, UINT64_C(1) << 63 }, bytes;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 0);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, words, 4, &bytes), 0);
	assert_int_equal(words[0], 35);
	assert_true(words[3] == UINT64_C(1) << 63);
	/* The bit that was already set counts too: its page was pending. */
	assert_int_equal(bytes, 2 * 4096);
}

static void little_endian_words_are_kvms(void **state)
{
	struct four_words taken;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 60);
	taken = take(cursor, 0, DL_TAKE_LE);
	assert_int_equal(((uint8_t *)taken.w)[0], 32);
	assert_int_equal(((uint8_t *)taken.w)[7], 16);
	assert_true(le64toh(taken.w[0]) == (UINT64_C(1) << 60 | 32));
}

static void a_slot_that_is_not_covered_has_no_bits(void **state)
{
	struct dl_cursor *other;
	struct four_words taken;

	begin(DL_CURSOR_CLEAN);
	other = join_slot(DL_CURSOR_ONE_SLOT, 9);
	mark_page(0, 5);
	write_page(6);
	taken = take(other, 0, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, 0);
	assert_int_equal(taken.bytes, 0);
	assert_int_equal(taken.w[0], 0);
	expect_pass(cursor, 5, 2);
}

/* It never opens or ends a pass, and what the pass has handed out is the pass's. */
static void a_take_leaves_the_open_pass_alone(void **state)
{
	struct dl_extent extent;
	uint64_t passes;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 7);
	begin_pass(cursor);
	passes = guest_cursor_stats(cursor).passes;
	extent = expect_read(cursor, 5, 1);
	mark_page(0, 5);
	write_page(9);
	/* Page 7 is read ahead; of page 5 there is a newer mark. */
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 32 | 512);
	assert_int_equal(unacked_of(cursor), 2);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	expect_read(cursor, 7, 1);
	expect_no_more(cursor);
	end_pass(cursor);
	assert_int_equal(guest_cursor_stats(cursor).passes, passes);
	expect_pass(cursor, 7, 1);
	/* Outside of a pass none is opened. */
	take(cursor, 0, DL_TAKE_HARVEST);
	assert_int_equal(dl_cursor_read(cursor, &extent, 1), -EBUSY);
}

static void takes_are_counted(void **state)
{
	struct dl_cursor_stats stats;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	mark_page(0, 7);
	take(cursor, 0, 0);
	stats = guest_cursor_stats(cursor);
	assert_int_equal(stats.read_bytes, 2 * 4096);
	assert_int_equal(stats.acked_bytes, 2 * 4096);
	assert_int_equal(stats.pending_bytes, 0);
	assert_int_equal(stats.unacked_bytes, 0);
}

static void a_take_that_cannot_harvest_takes_nothing(void **state)
{
	struct four_words taken;

	begin(DL_CURSOR_CLEAN);
	mark_page(0, 5);
	write_page(6);
	fail_calls(KVM_RESET_DIRTY_RINGS, 0, 1, EIO);
	fail_calls(KVM_GET_DIRTY_LOG, 0, 1, EIO);
	taken = take(cursor, 0, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, -EIO);
	assert_int_equal(taken.bytes, 0);
	assert_int_equal(taken.w[0], 0);
	model_faults_clear(guest.model);
	taken = take(cursor, 0, DL_TAKE_HARVEST);
	assert_int_equal(taken.result, 0);
	assert_int_equal(taken.w[0] & 96, 96);
}

static void a_paused_take_reads_the_backup(void **state)
{
	begin(DL_CURSOR_CLEAN);
	guest_kernel_write(&guest, 5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).bytes, 0);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_PAUSED).w[0], 32);
}

/* A display's take must not read the bitmaps of other slots. */
static void a_take_harvests_its_slot_only(void **state)
{
	unsigned int gets;

	begin(DL_CURSOR_CLEAN);
	set_slot(1, 1000, PAGES, DL_SLOT_CLEAN);
	write_page(5);
	write_page(1006);
	gets = guest.gets;
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 32);
	assert_int_equal(guest.gets, gets + 1);
	assert_true(state_of(1, 6) & MODEL_PAGE_IN_BITMAP);
	expect_pass(cursor, 1006, 1);
}

static void d1_no_clear_leaves_pages_writable(void **state)
{
	begin(DL_CURSOR_CLEAN);
	write_page(5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR).w[0], 32);
	assert_int_equal(guest.clears, 0);
	assert_false(is_protected(0, 5));
	assert_int_equal(dl_slot_clear(guest.log, 0, 5 * 4096, 1), 0);
	assert_true(is_protected(0, 5));
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR).bytes, 0);
	write_page(5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR).w[0], 32);
}

static void d1_a_failed_clear_can_be_repeated(void **state)
{
	begin(DL_CURSOR_CLEAN);
	write_page(5);
	take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096), -EIO);
	assert_false(is_protected(0, 5));
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096), 0);
	assert_true(is_protected(0, 5));
}

static void d2_clear_does_nothing_where_nothing_is_owed(void **state)
{
	begin(DL_CURSOR_CLEAN);
	write_page(5);
	/* No GET has reported it. */
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096), 0);
	assert_int_equal(guest.clears, 0);
	take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR);
	assert_int_equal(dl_slot_clear(guest.log, 0, 64 * 4096, 4096), 0);
	assert_int_equal(guest.clears, 0);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, 0), 0);
	assert_int_equal(guest.clears, 0);
	/* Perhaps beyond the range, but only what is owed. */
	write_page(9);
	assert_int_equal(dl_slot_clear(guest.log, 0, 7 * 4096, 1), 0);
	assert_int_equal(guest.clears, 1);
	assert_true(is_protected(0, 5));
	assert_true(state_of(0, 9) & MODEL_PAGE_IN_BITMAP);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 512);
	/* Every page that the range touches. */
	write_page(64);
	take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR);
	assert_int_equal(dl_slot_clear(guest.log, 0, 63 * 4096 + 4095, 2), 0);
	assert_true(is_protected(0, 64));
}

static void d2_harvests_report_owed_pages_again(void **state)
{
	begin(DL_CURSOR_CLEAN);
	write_page(5);
	for (int i = 0; i < 3; i++)
		assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR).w[0], 32);
	assert_int_equal(dl_slot_clear(guest.log, 0, 5 * 4096, 4096), 0);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).bytes, 0);
}

/* Another consumer has the page from the same GET, and finds it protected. */
static void d2_another_cursor_may_clear_what_one_has_deferred(void **state)
{
	struct dl_cursor *other;

	begin(DL_CURSOR_CLEAN);
	other = join(DL_CURSOR_CLEAN);
	write_page(5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR).w[0], 32);
	expect_pass(other, 5, 1);
	assert_true(is_protected(0, 5));
	write_page(5);
	/* The deferred CLEAR comes late: the page is not owed, so its write is not erased. */
	assert_int_equal(dl_slot_clear(guest.log, 0, 5 * 4096, 4096), 0);
	assert_true(state_of(0, 5) & MODEL_PAGE_IN_BITMAP);
	expect_pass(other, 5, 1);
}

static void d3_a_take_protects_before_it_gives(void **state)
{
	begin(0);
	assert_int_equal(take(cursor, 0, 0).bytes, PAGES * 4096);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_true(is_protected(0, page));
	write_page(5);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 32);
}

/* The words of the first chunk are the caller's; the rest is taken by the next call. */
static void d3_after_an_error_the_rest_is_pending(void **state)
{
	enum { HUGE = 2 * CHUNK + 100 };
	static uint64_t words[HUGE / 64 + 1];
	struct dl_slot slot = { .size = sizeof(slot),
				.bytes = HUGE * UINT64_C(4096),
				.hva = UINT64_C(1) << 40 };
	uint64_t bytes;

	memset(words, 0, sizeof(words));
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(3);
	write_page(CHUNK + 3);
	write_page(2 * CHUNK + 3);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 1, 1, EIO);
	assert_int_equal(dl_cursor_take(cursor, 0, DL_TAKE_HARVEST, words, HUGE / 64 + 1, &bytes),
			 -EIO);
	assert_int_equal(bytes, 4096);
	assert_int_equal(words[0], 8);
	assert_int_equal(words[CHUNK / 64], 0);
	assert_int_equal(pending_of(cursor), 2);
	words[0] = 0;
	assert_int_equal(dl_cursor_take(cursor, 0, 0, words, HUGE / 64 + 1, &bytes), 0);
	assert_int_equal(bytes, 2 * 4096);
	assert_int_equal(words[0], 0);
	assert_int_equal(words[CHUNK / 64], 8);
	assert_int_equal(words[2 * CHUNK / 64], 8);
	assert_true(is_protected(0, CHUNK + 3));
}

/* A range of several chunks, beginning and ending inside one. */
static void d2_a_range_is_cleared_up_to_its_end(void **state)
{
	enum { HUGE = 3 * CHUNK };
	static uint64_t words[HUGE / 64];
	struct dl_slot slot = { .size = sizeof(slot),
				.bytes = HUGE * UINT64_C(4096),
				.hva = UINT64_C(1) << 40 };

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t chunk = 0; chunk < 3; chunk++)
		write_page(chunk * CHUNK + 1000);
	assert_int_equal(dl_cursor_take(cursor, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words,
					HUGE / 64, NULL),
			 0);
	assert_int_equal(dl_slot_clear(guest.log, 0, 900 * 4096, 2 * CHUNK * UINT64_C(4096)), 0);
	for (uint64_t chunk = 0; chunk < 3; chunk++)
		assert_true(is_protected(0, chunk * CHUNK + 1000) == (chunk < 2));
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, slot.bytes), 0);
	assert_true(is_protected(0, 2 * CHUNK + 1000));
}

/* With deferred CLEAR too: without dl_slot_clear() the takes would never say 0. */
static void r6_takes_are_repeated_until_they_say_0(void **state)
{
	static const uint32_t flags = DL_TAKE_HARVEST | DL_TAKE_PAUSED;

	begin(0);
	set_slot(1, 1000, 100, 0);
	write_page(5);
	guest_stop(&guest);
	assert_true(take(cursor, 0, flags | DL_TAKE_NO_CLEAR).bytes > 0);
	assert_true(take(cursor, 1, flags | DL_TAKE_NO_CLEAR).bytes > 0);
	for (uint32_t slot = 0; slot < 2; slot++)
		assert_int_equal(dl_slot_clear(guest.log, slot, 0, 100 * 4096), 0);
	assert_int_equal(dl_slot_clear(guest.log, 0, 100 * 4096, 100 * 4096), 0);
	assert_int_equal(take(cursor, 0, flags).bytes, 0);
	assert_int_equal(take(cursor, 1, flags).bytes, 0);
}

static void r6_paused_passes_are_repeated_until_they_say_0(void **state)
{
	uint64_t pending_bytes;

	begin(DL_CURSOR_CLEAN);
	write_page(5);
	guest_stop(&guest);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_PAUSED, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 4096);
	expect_read(cursor, 5, 1);
	/* A device that was not quiet. */
	mark_page(0, 3);
	assert_int_equal(guest_stats(&guest).late_marks, 1);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_PAUSED, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 4096);
	expect_read(cursor, 3, 1);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_PAUSED, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 0);
	end_pass(cursor);
	/* Outside of a paused pass no mark is late. */
	mark_page(0, 3);
	assert_int_equal(guest_stats(&guest).late_marks, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_test(ring, arguments_are_checked),
		rule_tests(a_take_with_harvest_is_a_get),
		rule_tests(without_harvest_nothing_new_is_collected),
		rule_tests(a_take_ors),
		rule_test(ring, little_endian_words_are_kvms),
		rule_tests(a_slot_that_is_not_covered_has_no_bits),
		rule_tests(a_take_leaves_the_open_pass_alone),
		rule_test(ring, takes_are_counted),
		rule_tests(a_take_that_cannot_harvest_takes_nothing),
		rule_test(backup, a_paused_take_reads_the_backup),
		rule_test(bitmap, a_take_harvests_its_slot_only),
		rule_test(no_manual, a_take_harvests_its_slot_only),
		rule_test(bitmap, d1_no_clear_leaves_pages_writable),
		rule_test(bitmap, d1_a_failed_clear_can_be_repeated),
		rule_test(bitmap, d2_clear_does_nothing_where_nothing_is_owed),
		rule_test(bitmap, d2_harvests_report_owed_pages_again),
		rule_test(bitmap, d2_another_cursor_may_clear_what_one_has_deferred),
		rule_tests(d3_a_take_protects_before_it_gives),
		rule_test(sparse, d3_after_an_error_the_rest_is_pending),
		rule_test(sparse, d2_a_range_is_cleared_up_to_its_end),
		rule_tests(r6_takes_are_repeated_until_they_say_0),
		rule_tests(r6_paused_passes_are_repeated_until_they_say_0),
	};

	return RUN_TESTS("rules, take", tests);
}
