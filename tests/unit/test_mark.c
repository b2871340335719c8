/* SPDX-License-Identifier: MIT */
/* dl_mark_*(): the pages that a range touches, and ranges outside all slots. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

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
	guest_join(&guest, DL_CURSOR_CLEAN);
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

	assert_int_equal(guest_pass(&guest, 0, pages, 512), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], first + (uint64_t)i);
}

static void marking_a_byte_marks_its_page(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * 4096, 1), 0);
	expect_pending(123, 1);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * 4096 + 4095, 1), 0);
	expect_pending(123, 1);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * 4096 + 4095, 2), 0);
	expect_pending(123, 2);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * 4096 + 5, 2 * 4096), 0);
	expect_pending(123, 3);
}

static void pages_have_the_size_of_the_hosts(void **state)
{
	static const uint32_t sizes[] = { 16384, 65536 };

	for (int i = 0; i < 2; i++) {
		begin(sizes[i], DL_MODE_RING);
		assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * (uint64_t)sizes[i] + 4096, 4096),
				 0);
		expect_pending(123, 1);
		assert_int_equal(dl_mark_slot(guest.log, 5, sizes[i] - 1, 2), 0);
		expect_pending(200, 2);
		guest_close(&guest);
	}
}

static void an_empty_range_marks_nothing(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 123 * 4096, 0), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 0), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 4096, 0), 0);
	expect_pending(0, 0);
}

static void a_range_continues_into_the_next_slot(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 100 * 4096, 200 * 4096), 0);
	expect_pending(100, 200);
}

static void bytes_in_no_slot_are_reported_and_the_rest_is_marked(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 99 * 4096, 2 * 4096), -ENOENT);
	expect_pending(100, 1);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 299 * 4096, 2 * 4096), -ENOENT);
	expect_pending(299, 1);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 300 * 4096, 4096), -ENOENT);
	expect_pending(0, 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 500 * 4096, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_MAX, 0), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_MAX - 1, 1), -ENOENT);
	expect_pending(0, 0);
}

static void a_hole_is_reported_and_both_sides_are_marked(void **state)
{
	uint64_t pages[8];

	assert_int_equal(dl_mark_gpa(guest.log, 0, 298 * 4096, 104 * 4096), -ENOENT);
	assert_int_equal(guest_pass(&guest, 0, pages, 8), 4);
	assert_int_equal(pages[0], 298);
	assert_int_equal(pages[1], 299);
	assert_int_equal(pages[2], 400);
	assert_int_equal(pages[3], 401);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1000 * 4096), -ENOENT);
	assert_int_equal(guest_pass(&guest, 0, pages, 8), -1);
}

static void address_spaces_are_separate(void **state)
{
	struct dl_extent runs[2];

	assert_int_equal(dl_mark_gpa(guest.log, 1, 200 * 4096, 4096), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 1, 100 * 4096, 4096), -ENOENT);
	assert_int_equal(dl_mark_gpa(guest.log, 2, 200 * 4096, 4096), -ENOENT);
	assert_int_equal(dl_mark_gpa(guest.log, UINT32_MAX, 0, 4096), -ENOENT);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, runs, 2), 1);
	assert_int_equal(runs[0].slot, 1 << 16 | 6);
	assert_int_equal(runs[0].gpa, 200 * 4096);
	assert_int_equal(runs[0].offset_bytes, 50 * 4096);
	dl_cursor_end(guest.cursor, 0);
}

/* Pages of another address space in the range are not marked, and do not count as marked. */
static void a_range_stays_in_its_address_space(void **state)
{
	guest_add_slot(&guest, 1 << 16 | 7, 500, 100);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 450 * 4096, 100 * 4096), -ENOENT);
	assert_int_equal(guest_pending(&guest), 50 * 4096);
	expect_pending(450, 50);
}

static void a_range_that_wraps_is_refused(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 4096, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(dl_mark_slot(guest.log, 5, 4096, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_gpa(NULL, 0, 0, 1), -EINVAL);
	assert_int_equal(dl_mark_slot(NULL, 5, 0, 1), -EINVAL);
	expect_pending(0, 0);
}

static void a_slot_is_marked_by_its_number(void **state)
{
	assert_int_equal(dl_mark_slot(guest.log, 5, 99 * 4096 + 5, 1), 0);
	expect_pending(299, 1);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 100 * 4096), 0);
	expect_pending(200, 100);
	/* No other slot begins at its end. */
	assert_int_equal(dl_mark_slot(guest.log, 6, 99 * 4096, 4097), -ENOENT);
	expect_pending(199, 1);
	assert_int_equal(dl_mark_slot(guest.log, 5, 100 * 4096, 1), -ENOENT);
	assert_int_equal(dl_mark_slot(guest.log, 8, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_slot(guest.log, 1 << 16 | 5, 0, 1), -ENOENT);
	expect_pending(0, 0);
}

/* The blocks of begin(): pages 400 on, 200 on, 100 on, and 150 on of the second address space. */
static uint8_t *page_of(uint32_t block, uint64_t page)
{
	return guest.blocks[block].memory + page * 4096;
}

static void host_memory_is_marked_by_its_address(void **state)
{
	assert_int_equal(dl_mark_hva(guest.log, page_of(1, 99) + 4095, 1), 0);
	expect_pending(299, 1);
	assert_int_equal(dl_mark_hva(guest.log, page_of(2, 10) + 4095, 4098), 0);
	expect_pending(110, 3);
	assert_int_equal(dl_mark_hva(guest.log, page_of(0, 0), 100 * 4096), 0);
	expect_pending(400, 100);
	assert_int_equal(dl_mark_hva(guest.log, page_of(0, 5) + 100, 0), 0);
	assert_int_equal(dl_mark_hva(guest.log, &guest, sizeof(guest)), -ENOENT);
	assert_int_equal(dl_mark_hva(guest.log, NULL, 1), -ENOENT);
	assert_int_equal(dl_mark_hva(guest.log, NULL, 0), 0);
	expect_pending(0, 0);
}

/* Marks bytes of block 0 and expects the number of pages, in all slots. */
static void expect_hva(uint64_t page, uint64_t pages, int r, uint64_t expected)
{
	assert_int_equal(dl_mark_hva(guest.log, page_of(0, page), pages * 4096), r);
	assert_int_equal(guest_pending(&guest), expected * 4096);
	guest_pass(&guest, 0, NULL, 0);
}

static void add_alias(uint32_t number, uint64_t gpa_page, uint64_t first, uint64_t pages,
		      uint32_t flags)
{
	struct dl_slot slot = guest_slot(&guest, number, gpa_page, &guest.blocks[0], first, pages);

	slot.flags = flags;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
}

/* The oldest slot hands out what its aliases have. */
static void host_memory_is_marked_in_every_slot_that_maps_it(void **state)
{
	struct dl_extent runs[4];

	add_alias(1 << 16 | 9, 1000, 0, 100, DL_SLOT_CLEAN);
	add_alias(8, 2000, 50, 10, DL_SLOT_CLEAN);
	assert_int_equal(dl_mark_hva(guest.log, page_of(0, 55), 1), 0);
	assert_int_equal(guest_pending(&guest), 3 * 4096);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, runs, 4), 1);
	assert_int_equal(runs[0].gpa, 455 * 4096);
	assert_int_equal(dl_cursor_ack(guest.cursor, runs, 1), 0);
	dl_cursor_end(guest.cursor, 0);
	expect_hva(45, 10, 0, 10 + 10 + 5);
	expect_hva(0, 100, 0, 100 + 100 + 10);
}

/* Half of one slot and half of the other: only together do they map it. */
static void a_hole_in_host_memory_is_reported(void **state)
{
	assert_int_equal(dl_slot_remove(guest.log, 7, 0, NULL, 0), 0);
	add_alias(8, 2000, 0, 50, DL_SLOT_CLEAN);
	add_alias(9, 3000, 40, 30, DL_SLOT_CLEAN);
	add_alias(10, 4000, 80, 20, DL_SLOT_CLEAN);
	expect_hva(0, 70, 0, 50 + 30);
	expect_hva(0, 71, -ENOENT, 50 + 30);
	expect_hva(60, 40, -ENOENT, 10 + 20);
	expect_hva(75, 10, -ENOENT, 5);
	expect_hva(70, 10, -ENOENT, 0);
}

/* Devices commonly ignore what a mark returns: dl_stats tells of it. */
static void marks_that_fail_are_counted(void **state)
{
	struct iovec iov = { .iov_base = &guest, .iov_len = 1 };

	assert_int_equal(dl_mark_gpa(guest.log, 0, 100 * 4096, 1), 0);
	assert_int_equal(guest_stats(&guest).failed_marks, 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 299 * 4096, 2 * 4096), -ENOENT);
	assert_int_equal(guest_stats(&guest).failed_marks, 1);
	assert_int_equal(dl_mark_slot(guest.log, 8, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_hva(guest.log, &guest, 1), -ENOENT);
	assert_int_equal(dl_mark_iov(guest.log, &iov, 1, 0, 1), -ENOENT);
	assert_int_equal(guest_stats(&guest).failed_marks, 4);
}

static void memory_that_kvm_cannot_log_is_not_recorded(void **state)
{
	assert_int_equal(dl_slot_remove(guest.log, 7, 0, NULL, 0), 0);
	add_alias(8, 2000, 0, 100, DL_SLOT_NO_LOG);
	expect_hva(0, 100, 0, 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 2000 * 4096, 4096), 0);
	assert_int_equal(dl_mark_slot(guest.log, 8, 0, 4096), 0);
	expect_pending(0, 0);
}

/* Five bytes at the end of a page and five pages, of three blocks. */
static void scattered_bytes_are_marked(void **state)
{
	const struct iovec iov[] = {
		{ page_of(2, 30) + 4091, 5 },	{ page_of(1, 0), 0 },
		{ page_of(1, 40), 5 * 4096 },	{ NULL, 0 },
		{ page_of(0, 50) + 100, 1000 },
	};
	uint64_t pages[8];

	/* As a read of all, a short one, and the rest in a second call. */
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 0, 5 + 5 * 4096 + 1000), 0);
	assert_int_equal(guest_pass(&guest, 0, pages, 8), 7);
	assert_int_equal(pages[0], 130);
	assert_int_equal(pages[1], 240);
	assert_int_equal(pages[5], 244);
	assert_int_equal(pages[6], 450);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 0, 5), 0);
	expect_pending(130, 1);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 5, 4096), 0);
	expect_pending(240, 1);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 5 + 4096, 4097), 0);
	expect_pending(241, 2);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 5 + 5 * 4096 + 999, 1), 0);
	expect_pending(450, 1);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 4, 1), 0);
	expect_pending(130, 1);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, 0, 0), 0);
	assert_int_equal(dl_mark_iov(guest.log, NULL, 0, 0, 0), 0);
	assert_int_equal(dl_mark_iov(guest.log, iov, 5, UINT64_MAX, 0), 0);
	expect_pending(0, 0);
}

static void bytes_beyond_the_vectors_are_reported_and_the_rest_is_marked(void **state)
{
	const struct iovec iov[] = { { page_of(2, 30), 4096 }, { page_of(2, 31), 4096 } };
	const struct iovec holes[] = { { &guest, 10 }, { page_of(2, 40), 10 }, { &guest, 10 } };

	assert_int_equal(dl_mark_iov(guest.log, iov, 2, 4096, 4097), -ENOENT);
	expect_pending(131, 1);
	assert_int_equal(dl_mark_iov(guest.log, iov, 2, 2 * 4096, 1), -ENOENT);
	assert_int_equal(dl_mark_iov(guest.log, iov, 2, UINT64_MAX, 0), 0);
	assert_int_equal(dl_mark_iov(guest.log, NULL, 0, 0, 1), -ENOENT);
	expect_pending(0, 0);
	assert_int_equal(dl_mark_iov(guest.log, holes, 3, 0, 30), -ENOENT);
	expect_pending(140, 1);
	assert_int_equal(dl_mark_iov(guest.log, holes, 3, 10, 10), 0);
	expect_pending(140, 1);
}

static void vectors_that_wrap_are_refused(void **state)
{
	const struct iovec good = { page_of(2, 30), 4096 };
	const struct iovec wraps[] = { good, { page_of(2, 31), SIZE_MAX } };
	const struct iovec too_many[] = { good, { NULL, SIZE_MAX }, { NULL, 1 } };

	assert_int_equal(dl_mark_iov(guest.log, wraps, 2, 0, 4096), -EINVAL);
	assert_int_equal(dl_mark_iov(guest.log, too_many, 3, 0, 4096), -EINVAL);
	assert_int_equal(dl_mark_iov(guest.log, &good, 1, 4096, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_iov(guest.log, NULL, 1, 0, 0), -EINVAL);
	assert_int_equal(dl_mark_iov(NULL, &good, 1, 0, 1), -EINVAL);
	assert_int_equal(dl_mark_hva(guest.log, page_of(2, 30), UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_hva(NULL, page_of(2, 30), 1), -EINVAL);
	expect_pending(0, 0);
}

/* Whatever they name, but not a range that cannot be. */
static void nothing_is_marked_while_nothing_is_logged(void **state)
{
	const struct iovec iov = { page_of(2, 30), 4096 };

	guest_leave(&guest);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 100 * 4096, 1), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 1), 0);
	assert_int_equal(dl_mark_slot(guest.log, 77, 0, 1), 0);
	assert_int_equal(dl_mark_hva(guest.log, page_of(2, 30), 1), 0);
	assert_int_equal(dl_mark_hva(guest.log, &guest, 1), 0);
	assert_int_equal(dl_mark_iov(guest.log, &iov, 1, 0, 1), 0);
	assert_int_equal(dl_mark_iov(guest.log, &iov, 1, 4096, 1), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_slot(guest.log, 5, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_hva(guest.log, &guest, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_iov(guest.log, &iov, 1, 1, UINT64_MAX), -EINVAL);
	guest_join(&guest, DL_CURSOR_CLEAN);
	expect_pending(0, 0);
}

static void a_mark_needs_no_system_call(void **state)
{
	static const unsigned long requests[] = { KVM_RESET_DIRTY_RINGS, KVM_GET_DIRTY_LOG,
						  KVM_CLEAR_DIRTY_LOG, MODEL_CALL_MMAP,
						  MODEL_CALL_SIGMASK };
	const struct iovec iov = { page_of(2, 30), 4096 };
	uint64_t before[5];

	for (int i = 0; i < 5; i++)
		before[i] = model_calls(guest.model, requests[i]);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 100 * 4096, 4096), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 4096), 0);
	assert_int_equal(dl_mark_hva(guest.log, iov.iov_base, 1), 0);
	assert_int_equal(dl_mark_iov(guest.log, &iov, 1, 0, 4096), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(model_calls(guest.model, requests[i]), before[i]);
}

static void marks_count_as_pending_and_not_as_entries(void **state)
{
	assert_int_equal(dl_mark_gpa(guest.log, 0, 100 * 4096, 10 * 4096), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 105 * 4096, 10 * 4096), 0);
	assert_int_equal(guest_pending(&guest), 15 * 4096);
	assert_int_equal(guest_stats(&guest).entries, 0);
	assert_int_equal(guest_stats(&guest).new_pages, 0);
}

/* The pages lie in several words of the slot, and a mark of one page takes another path. */
static void a_mark_of_a_slot_that_no_cursor_covers_is_dropped(void **state)
{
	guest_leave(&guest);
	guest_join(&guest, DL_CURSOR_CLEAN | DL_CURSOR_WANTED);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 100 * 4096), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 4096), 0);
	expect_pending(0, 0);
}

static void a_mark_of_two_pages_may_lie_in_two_words(void **state)
{
	assert_int_equal(dl_mark_slot(guest.log, 5, 63 * 4096, 2 * 4096), 0);
	expect_pending(263, 2);
}

static void late_marks_of_a_range_are_counted_by_the_page(void **state)
{
	assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_PAUSED, NULL), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 4095, 90 * 4096), 0);
	assert_int_equal(guest_stats(&guest).late_marks, 91);
	assert_int_equal(dl_mark_slot(guest.log, 5, 4095, 4096), 0);
	assert_int_equal(guest_stats(&guest).late_marks, 93);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(dl_mark_slot(guest.log, 5, 0, 90 * 4096), 0);
	assert_int_equal(guest_stats(&guest).late_marks, 93);
}

/* A device's mark, of which the kernel's bitmap has nothing. */
static void a_mark_is_handed_out_in_bitmap_mode_too(void **state)
{
	begin(4096, DL_MODE_BITMAP);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 150 * 4096, 1), 0);
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
		mark_test(host_memory_is_marked_by_its_address),
		mark_test(host_memory_is_marked_in_every_slot_that_maps_it),
		mark_test(marks_that_fail_are_counted),
		mark_test(a_hole_in_host_memory_is_reported),
		mark_test(memory_that_kvm_cannot_log_is_not_recorded),
		mark_test(scattered_bytes_are_marked),
		mark_test(bytes_beyond_the_vectors_are_reported_and_the_rest_is_marked),
		mark_test(vectors_that_wrap_are_refused),
		mark_test(nothing_is_marked_while_nothing_is_logged),
		mark_test(a_mark_needs_no_system_call),
		mark_test(marks_count_as_pending_and_not_as_entries),
		mark_test(a_mark_of_a_slot_that_no_cursor_covers_is_dropped),
		mark_test(a_mark_of_two_pages_may_lie_in_two_words),
		mark_test(late_marks_of_a_range_are_counted_by_the_page),
		cmocka_unit_test(a_mark_is_handed_out_in_bitmap_mode_too),
	};

	return RUN_TESTS("mark", tests);
}
