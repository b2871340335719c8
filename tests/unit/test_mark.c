/* SPDX-License-Identifier: MIT */
/* dl_mark() and dl_slot_mark(): the pages that a range touches, and ranges outside all slots. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <string.h>

static struct guest guest;

/* Pages 100 to 199 and 200 to 299 in two slots that touch, 400 to 499 in a third, SMM elsewhere. */
static void begin(uint32_t page_bytes, uint32_t mode)
{
	const struct guest_config config = { .model = { .page_bytes = page_bytes },
					     .options = { .mode = mode } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 7, 400, 100);
	guest_add_slot(&guest, 5, 200, 100);
	guest_add_slot(&guest, 6, 100, 100);
	guest_add_slot(&guest, 1 << 16 | 6, 150, 100);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
}

static int setup(void **state)
{
	begin(4096, DL_MODE_RING);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define mark_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* Expects that the n pages from first on are pending. */
static void expect_pending(uint64_t first, int n)
{
	uint64_t pages[512];

	assert_int_equal(guest_drain(&guest, pages, 512), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], first + (uint64_t)i);
}

static void marking_a_byte_marks_its_page(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 123 * 4096, 1), 0);
	expect_pending(123, 1);
	assert_int_equal(dl_mark(guest.log, 0, 123 * 4096 + 4095, 1), 0);
	expect_pending(123, 1);
	assert_int_equal(dl_mark(guest.log, 0, 123 * 4096 + 4095, 2), 0);
	expect_pending(123, 2);
	assert_int_equal(dl_mark(guest.log, 0, 123 * 4096 + 5, 2 * 4096), 0);
	expect_pending(123, 3);
}

static void pages_have_the_size_of_the_hosts(void **state)
{
	static const uint32_t sizes[] = { 16384, 65536 };

	for (int i = 0; i < 2; i++) {
		begin(sizes[i], DL_MODE_RING);
		assert_int_equal(dl_mark(guest.log, 0, 123 * (uint64_t)sizes[i] + 4096, 4096), 0);
		expect_pending(123, 1);
		assert_int_equal(dl_slot_mark(guest.log, 5, sizes[i] - 1, 2), 0);
		expect_pending(200, 2);
		guest_close(&guest);
	}
}

static void an_empty_range_marks_nothing(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 123 * 4096, 0), 0);
	assert_int_equal(dl_mark(guest.log, 0, 0, 0), 0);
	assert_int_equal(dl_slot_mark(guest.log, 5, 4096, 0), 0);
	expect_pending(0, 0);
}

static void a_range_continues_into_the_next_slot(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 100 * 4096, 200 * 4096), 0);
	expect_pending(100, 200);
}

static void bytes_in_no_slot_are_reported_and_the_rest_is_marked(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 99 * 4096, 2 * 4096), -ENOENT);
	expect_pending(100, 1);
	assert_int_equal(dl_mark(guest.log, 0, 299 * 4096, 2 * 4096), -ENOENT);
	expect_pending(299, 1);
	assert_int_equal(dl_mark(guest.log, 0, 300 * 4096, 4096), -ENOENT);
	expect_pending(0, 0);
	assert_int_equal(dl_mark(guest.log, 0, 500 * 4096, 1), -ENOENT);
	assert_int_equal(dl_mark(guest.log, 0, UINT64_MAX, 0), 0);
	assert_int_equal(dl_mark(guest.log, 0, UINT64_MAX - 1, 1), -ENOENT);
	expect_pending(0, 0);
}

static void a_hole_is_reported_and_both_sides_are_marked(void **state)
{
	uint64_t pages[8];

	assert_int_equal(dl_mark(guest.log, 0, 298 * 4096, 104 * 4096), -ENOENT);
	assert_int_equal(guest_drain(&guest, pages, 8), 4);
	assert_int_equal(pages[0], 298);
	assert_int_equal(pages[1], 299);
	assert_int_equal(pages[2], 400);
	assert_int_equal(pages[3], 401);
	assert_int_equal(dl_mark(guest.log, 0, 0, 1000 * 4096), -ENOENT);
	assert_int_equal(guest_drain(&guest, pages, 8), -1);
}

static void address_spaces_are_separate(void **state)
{
	struct dl_iter *iter;
	struct dl_run runs[2];

	assert_int_equal(dl_mark(guest.log, 1, 200 * 4096, 4096), 0);
	assert_int_equal(dl_mark(guest.log, 1, 100 * 4096, 4096), -ENOENT);
	assert_int_equal(dl_mark(guest.log, 2, 200 * 4096, 4096), -ENOENT);
	assert_int_equal(dl_mark(guest.log, UINT32_MAX, 0, 4096), -ENOENT);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, runs, 2), 1);
	assert_int_equal(runs[0].slot, 1 << 16 | 6);
	assert_int_equal(runs[0].gpa, 200 * 4096);
	assert_int_equal(runs[0].offset_bytes, 50 * 4096);
	dl_iter_free(iter);
}

/* Pages of another address space in the range are not marked, and do not count as marked. */
static void a_range_stays_in_its_address_space(void **state)
{
	guest_add_slot(&guest, 1 << 16 | 7, 500, 100);
	assert_int_equal(guest_drain(&guest, NULL, 0), -1);
	assert_int_equal(dl_mark(guest.log, 0, 450 * 4096, 100 * 4096), -ENOENT);
	assert_int_equal(guest_stats(&guest).pending_bytes, 50 * 4096);
	expect_pending(450, 50);
}

static void a_range_that_wraps_is_refused(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 4096, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark(guest.log, 0, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(dl_slot_mark(guest.log, 5, 4096, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark(NULL, 0, 0, 1), -EINVAL);
	assert_int_equal(dl_slot_mark(NULL, 5, 0, 1), -EINVAL);
	expect_pending(0, 0);
}

static void a_slot_is_marked_by_its_number(void **state)
{
	assert_int_equal(dl_slot_mark(guest.log, 5, 99 * 4096 + 5, 1), 0);
	expect_pending(299, 1);
	assert_int_equal(dl_slot_mark(guest.log, 5, 0, 100 * 4096), 0);
	expect_pending(200, 100);
	/* No other slot begins at its end. */
	assert_int_equal(dl_slot_mark(guest.log, 6, 99 * 4096, 4097), -ENOENT);
	expect_pending(199, 1);
	assert_int_equal(dl_slot_mark(guest.log, 5, 100 * 4096, 1), -ENOENT);
	assert_int_equal(dl_slot_mark(guest.log, 8, 0, 1), -ENOENT);
	assert_int_equal(dl_slot_mark(guest.log, 1 << 16 | 5, 0, 1), -ENOENT);
	expect_pending(0, 0);
}

static void a_mark_needs_no_system_call(void **state)
{
	static const unsigned long requests[] = { KVM_RESET_DIRTY_RINGS, KVM_GET_DIRTY_LOG,
						  KVM_CLEAR_DIRTY_LOG, MODEL_CALL_MMAP,
						  MODEL_CALL_SIGMASK };
	uint64_t before[5];

	for (int i = 0; i < 5; i++)
		before[i] = model_calls(guest.model, requests[i]);
	assert_int_equal(dl_mark(guest.log, 0, 100 * 4096, 4096), 0);
	assert_int_equal(dl_slot_mark(guest.log, 5, 0, 4096), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(model_calls(guest.model, requests[i]), before[i]);
}

static void marks_count_as_pending_and_not_as_entries(void **state)
{
	assert_int_equal(dl_mark(guest.log, 0, 100 * 4096, 10 * 4096), 0);
	assert_int_equal(dl_mark(guest.log, 0, 105 * 4096, 10 * 4096), 0);
	assert_int_equal(guest_stats(&guest).pending_bytes, 15 * 4096);
	assert_int_equal(guest_stats(&guest).entries, 0);
	assert_int_equal(guest_stats(&guest).new_pages, 0);
}

/* A device's mark, of which the kernel's bitmap has nothing. */
static void a_mark_is_handed_out_in_bitmap_mode_too(void **state)
{
	begin(4096, DL_MODE_BITMAP);
	assert_int_equal(dl_mark(guest.log, 0, 150 * 4096, 1), 0);
	expect_pending(150, 1);
	expect_pending(0, 0);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		mark_test(marking_a_byte_marks_its_page),
		cmocka_unit_test(pages_have_the_size_of_the_hosts),
		mark_test(an_empty_range_marks_nothing),
		mark_test(a_range_continues_into_the_next_slot),
		mark_test(bytes_in_no_slot_are_reported_and_the_rest_is_marked),
		mark_test(a_hole_is_reported_and_both_sides_are_marked),
		mark_test(address_spaces_are_separate),
		mark_test(a_range_stays_in_its_address_space),
		mark_test(a_range_that_wraps_is_refused),
		mark_test(a_slot_is_marked_by_its_number),
		mark_test(a_mark_needs_no_system_call),
		mark_test(marks_count_as_pending_and_not_as_entries),
		cmocka_unit_test(a_mark_is_handed_out_in_bitmap_mode_too),
	};

	return RUN_TESTS("mark", tests);
}
