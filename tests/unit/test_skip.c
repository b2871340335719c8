/* SPDX-License-Identifier: MIT */
/* DL_CURSOR_SKIP_REWRITTEN: the first pass leaves what is written again to the second. */
#include "cmocka_all.h"
#include "guest.h"

#include <string.h>

enum { PAGES = 300 };

static struct guest guest;
static struct guest_vcpu *vcpu;

static void open_guest(uint32_t mode)
{
	const struct guest_config config = { .options = { .mode = mode } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
}

static int open_ring(void **state)
{
	open_guest(DL_MODE_RING);
	return 0;
}

static int open_bitmap(void **state)
{
	open_guest(DL_MODE_BITMAP);
	return 0;
}

static int close_guest(void **state)
{
	guest_close(&guest);
	return 0;
}

static struct dl_cursor *join(uint32_t flags)
{
	struct dl_cursor *cursor;

	assert_int_equal(guest_new_cursor(&guest, flags, 0, &cursor), 0);
	return cursor;
}

static void write_page(uint64_t page)
{
	assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

/* A pass of the cursor; its pages are set in handed_out. Returns how many there were. */
static bool handed_out[PAGES];

static int pass(struct dl_cursor *cursor, uint32_t flags)
{
	uint64_t pages[PAGES];
	int n = guest_pass_of(&guest, cursor, flags, pages, PAGES);

	assert_true(n >= 0);
	memset(handed_out, 0, sizeof(handed_out));
	for (int i = 0; i < n; i++)
		handed_out[pages[i]] = true;
	return n;
}

static void pages_that_are_written_while_they_wait_go_in_the_second_pass(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	write_page(3);
	write_page(200);
	assert_int_equal(pass(cursor, 0), PAGES - 2);
	assert_false(handed_out[3] || handed_out[200]);
	/* And in no later pass anything is left out. */
	write_page(4);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	write_page(4);
	assert_int_equal(pass(cursor, 0), 3);
	assert_true(handed_out[3] && handed_out[4] && handed_out[200]);
	assert_int_equal(pass(cursor, 0), 0);
	dl_cursor_free(cursor);
}

/* The vCPU writes behind the reader and before it, in the middle of the pass. */
static void what_is_written_during_the_pass_counts(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN | DL_CURSOR_CLEAN);
	struct dl_extent extent;
	uint64_t pages[PAGES];

	assert_int_equal(dl_mark_slot(guest.log, 0, 0, 4096), 0);
	assert_int_equal(dl_mark_slot(guest.log, 0, UINT64_C(70) * 4096, 4096), 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	write_page(290);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	write_page(290);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 1);
	assert_int_equal(extent.offset_bytes, 0);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	assert_int_equal(guest_finish_pass(&guest, cursor, pages, PAGES), 1);
	assert_int_equal(pages[0], 70);
	assert_int_equal(pass(cursor, 0), 1);
	assert_true(handed_out[290]);
	dl_cursor_free(cursor);
}

static void a_page_that_is_written_once_is_handed_out(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN | DL_CURSOR_CLEAN);

	write_page(9);
	assert_int_equal(pass(cursor, 0), 1);
	dl_cursor_free(cursor);
}

static void a_paused_pass_leaves_nothing_out(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	write_page(3);
	assert_int_equal(pass(cursor, DL_HARVEST_PAUSED), PAGES);
	assert_int_equal(pass(cursor, DL_HARVEST_PAUSED), 0);
	dl_cursor_free(cursor);
}

static void a_pass_of_nothing_but_such_pages_hands_out_none(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	for (uint64_t page = 0; page < PAGES; page++)
		write_page(page);
	assert_int_equal(pass(cursor, 0), 0);
	assert_int_equal(pass(cursor, 0), PAGES);
	dl_cursor_free(cursor);
}

static void cursors_beside_it_get_everything(void **state)
{
	struct dl_cursor *plain = join(0), *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	write_page(3);
	assert_int_equal(pass(plain, 0), PAGES);
	assert_int_equal(pass(cursor, 0), PAGES - 1);
	assert_false(handed_out[3]);
	assert_int_equal(pass(cursor, 0), 1);
	assert_int_equal(pass(plain, 0), 0);
	dl_cursor_free(plain);
	dl_cursor_free(cursor);
}

static void what_is_taken_is_taken_whole(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);
	uint64_t words[(PAGES + 63) / 64] = { 0 }, taken_bytes;

	write_page(3);
	assert_int_equal(
		dl_cursor_take(cursor, 0, DL_TAKE_HARVEST, words, (PAGES + 63) / 64, &taken_bytes),
		0);
	assert_int_equal(taken_bytes, (uint64_t)PAGES * 4096);
	dl_cursor_free(cursor);
}

static void all_pages_again_is_no_reason_to_skip(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	assert_int_equal(pass(cursor, DL_HARVEST_ALL), PAGES);
	dl_cursor_free(cursor);
}

static void bitmap_mode_knows_no_second_write(void **state)
{
	struct dl_cursor *cursor = join(DL_CURSOR_SKIP_REWRITTEN);

	write_page(3);
	assert_int_equal(pass(cursor, 0), PAGES);
	dl_cursor_free(cursor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define ring_test(f) cmocka_unit_test_setup_teardown(f, open_ring, close_guest)
		ring_test(pages_that_are_written_while_they_wait_go_in_the_second_pass),
		ring_test(what_is_written_during_the_pass_counts),
		ring_test(a_page_that_is_written_once_is_handed_out),
		ring_test(a_paused_pass_leaves_nothing_out),
		ring_test(a_pass_of_nothing_but_such_pages_hands_out_none),
		ring_test(cursors_beside_it_get_everything),
		ring_test(what_is_taken_is_taken_whole),
		ring_test(all_pages_again_is_no_reason_to_skip),
		cmocka_unit_test_setup_teardown(bitmap_mode_knows_no_second_write, open_bitmap,
						close_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
