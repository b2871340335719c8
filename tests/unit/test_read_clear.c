/* SPDX-License-Identifier: MIT */
/* Bitmap mode with manual protection: a chunk is cleared before it is handed out. */
#include "cmocka_all.h"
#include "guest.h"
#include "pages/page_set.h"

#include <errno.h>
#include <string.h>

enum { PAGES = PAGE_SET_CHUNK_PAGES + 100, CHUNK = PAGE_SET_CHUNK_PAGES, MAX_CLEARS = 64 };

static struct guest guest;
static struct guest_vcpu *vcpu;
static struct {
	struct kvm_clear_dirty_log calls[MAX_CLEARS];
	unsigned int n;
	int error; /* of the next call */
} clears;

static bool watch(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request != KVM_CLEAR_DIRTY_LOG)
		return false;
	assert_true(clears.n < MAX_CLEARS);
	memcpy(&clears.calls[clears.n++], arg, sizeof(clears.calls[0]));
	*result = clears.error;
	clears.error = 0;
	return *result;
}

static void begin(uint32_t cursor_flags)
{
	const struct guest_config config = { .model = { .no_memory = true },
					     .options = { .mode = DL_MODE_BITMAP },
					     .intercept = watch };
	struct dl_slot slot = { .size = sizeof(slot), .bytes = PAGES * UINT64_C(4096) };

	memset(&clears, 0, sizeof(clears));
	guest_open(&guest, &config);
	vcpu = guest_vcpu(&guest, true);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	guest_join(&guest, cursor_flags);
}

static int setup_clean(void **state)
{
	begin(DL_CURSOR_CLEAN);
	return 0;
}

static int setup_dirty(void **state)
{
	begin(0);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define clean_test(f) cmocka_unit_test_setup_teardown(f, setup_clean, teardown)
#define dirty_test(f) cmocka_unit_test_setup_teardown(f, setup_dirty, teardown)

static void write_page(uint64_t page)
{
	assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

static uint8_t state_of(uint64_t page)
{
	uint8_t state = 0;

	assert_int_equal(model_page_states(guest.model, guest.vm_fd, 0, page, 1, &state), 0);
	return state;
}

static bool is_protected(uint64_t page)
{
	return (state_of(page) & (MODEL_PAGE_PROTECTED | MODEL_PAGE_STALE_TLB)) ==
	       MODEL_PAGE_PROTECTED;
}

static void expect_clear(unsigned int i, uint64_t first_page, uint32_t pages)
{
	assert_true(i < clears.n);
	assert_int_equal(clears.calls[i].slot, 0);
	assert_int_equal(clears.calls[i].first_page, first_page);
	assert_int_equal(clears.calls[i].num_pages, pages);
}

/* A word between two taken words of a chunk is dirty in the kernel, but not harvested yet. */
static void a_clear_spares_pages_that_were_not_taken(void **state)
{
	write_page(70);
	write_page(200);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	write_page(130);
	write_page(201);
	assert_int_equal(guest_finish_pass(&guest, guest.cursor, (uint64_t[2]){ 0 }, 2), 2);
	expect_clear(0, 64, 192);
	assert_true(state_of(130) & MODEL_PAGE_IN_BITMAP);
	assert_true(state_of(201) & MODEL_PAGE_IN_BITMAP);
	assert_int_equal(guest_pass(&guest, 0, (uint64_t[2]){ 0 }, 2), 2);
}

static void a_page_is_handed_out_protected(void **state)
{
	struct dl_extent extent;

	write_page(70);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(clears.n, 0);
	assert_false(is_protected(70));
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	assert_int_equal(extent.offset_bytes, 70 * 4096);
	assert_true(is_protected(70));
	expect_clear(0, 64, 64);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

/* KVM accepts multiples of 64 pages, or the slot's end. */
static void the_last_clear_reaches_to_the_end(void **state)
{
	uint64_t pages[4];

	write_page(CHUNK + 10);
	write_page(CHUNK + 90);
	assert_int_equal(guest_pass(&guest, 0, pages, 4), 2);
	assert_int_equal(clears.n, 1);
	expect_clear(0, CHUNK, 100);
	write_page(CHUNK + 99);
	assert_int_equal(guest_pass(&guest, 0, pages, 4), 1);
	expect_clear(1, CHUNK + 64, 36);
}

static void each_chunk_is_cleared_once(void **state)
{
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1 + (i > 0));
	/* All pages are pending at first; the first GET reports them again, and adds none. */
	assert_int_equal(clears.n, 2);
	expect_clear(0, 0, CHUNK);
	expect_clear(1, CHUNK, 100);
}

static void a_harvest_does_not_report_uncleared_pages_twice(void **state)
{
	uint64_t pages[4], pending_bytes = 0;

	write_page(3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
		assert_int_equal(pending_bytes, 4096);
		assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	}
	assert_int_equal(guest_pass(&guest, 0, pages, 4), 1);
	assert_int_equal(guest_pass(&guest, 0, pages, 4), 0);
}

/* A page written after it was handed out is reported again, even before it is acknowledged. */
static void a_write_after_the_clear_is_reported(void **state)
{
	uint64_t page;
	struct dl_extent extent;

	write_page(3);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	write_page(3);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
	assert_int_equal(page, 3);
}

/* Requeued pages may have been written again since their CLEAR. */
static void requeued_pages_are_cleared_again(void **state)
{
	uint64_t page;
	struct dl_extent extent;

	write_page(3);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	write_page(3);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
	assert_int_equal(clears.n, 2);
	assert_true(is_protected(3));
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
}

/* The CLEAR of a page that no GET has reported would erase the guest's write. */
static void a_page_that_is_only_marked_is_not_cleared(void **state)
{
	struct dl_extent extent;
	uint64_t page;

	assert_int_equal(dl_mark_slot(guest.log, 0, 3 * 4096, 1), 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	write_page(3);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	assert_int_equal(clears.n, 0);
	assert_true(state_of(3) & MODEL_PAGE_IN_BITMAP);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
	assert_true(is_protected(3));
}

/* Such pages are read ahead in batches of any size; owed ones chunk by chunk. */
static void pages_are_read_ahead_no_further_than_they_are_cleared(void **state)
{
	struct dl_extent extent;

	write_page(3);
	write_page(5);
	write_page(CHUNK + 3);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	assert_int_equal(guest_unacked(&guest), 2 * 4096);
	assert_int_equal(guest_pending(&guest), 4096);
	assert_false(is_protected(CHUNK + 3));
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

static void a_clear_that_fails_keeps_its_pages(void **state)
{
	struct dl_extent extents[4];
	char text[600];

	write_page(3);
	write_page(CHUNK + 3);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	clears.error = -EIO;
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), -EIO);
	assert_int_equal(guest_pending(&guest), 2 * 4096);
	assert_int_equal(guest_unacked(&guest), 0);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "cleared (slot 0"));
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), 2);
	assert_int_equal(extents[0].offset_bytes, 3 * 4096);
	assert_true(is_protected(3));
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

static bool fail_second_chunk(struct guest *g, int fd, unsigned long request, void *arg,
			      int *result)
{
	const struct kvm_clear_dirty_log *clear = arg;

	if (request != KVM_CLEAR_DIRTY_LOG || !clear->first_page || !clears.error)
		return false;
	*result = clears.error;
	return true;
}

/* The extents so far come first, then the error, then the rest. */
static void an_error_comes_after_the_extents_before_it(void **state)
{
	struct dl_extent extents[4];

	write_page(3);
	write_page(CHUNK + 3);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	guest.config.intercept = fail_second_chunk;
	clears.error = -ENOMEM;
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), 1);
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, 1), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), -ENOMEM);
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), -ENOMEM);
	clears.error = 0;
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), 1);
	assert_int_equal(extents[0].offset_bytes, (CHUNK + 3) * UINT64_C(4096));
	assert_int_equal(dl_cursor_read(guest.cursor, extents, 4), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

/* Neither in the open pass nor later: KVM knows no such slot any more. */
static void a_removed_slot_is_not_cleared(void **state)
{
	struct dl_extent extent;

	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_slot_remove(guest.log, 0, 0, NULL, 0), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), 0);
	assert_int_equal(clears.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		clean_test(a_clear_spares_pages_that_were_not_taken),
		clean_test(a_page_is_handed_out_protected),
		clean_test(the_last_clear_reaches_to_the_end),
		dirty_test(each_chunk_is_cleared_once),
		clean_test(a_harvest_does_not_report_uncleared_pages_twice),
		clean_test(a_write_after_the_clear_is_reported),
		clean_test(requeued_pages_are_cleared_again),
		clean_test(a_page_that_is_only_marked_is_not_cleared),
		clean_test(pages_are_read_ahead_no_further_than_they_are_cleared),
		clean_test(a_clear_that_fails_keeps_its_pages),
		clean_test(an_error_comes_after_the_extents_before_it),
		dirty_test(a_removed_slot_is_not_cleared),
	};

	return RUN_TESTS("read, clearing", tests);
}
