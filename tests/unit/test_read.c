/* SPDX-License-Identifier: MIT */
/* dl_cursor_read(): which extents a pass hands out, to one reader and to several. */
#include "pass_guest.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

enum { READERS = 3 };

static void arguments_are_checked(void **state)
{
	struct dl_extent extent = { 0 };

	begin_pass();
	assert_int_equal(dl_cursor_read(NULL, &extent, 1), -EINVAL);
	assert_int_equal(dl_cursor_read(guest.cursor, NULL, 1), -EINVAL);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 0), -EINVAL);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, (uint32_t)INT_MAX + 1), -EINVAL);
	end_pass();
}

static void without_a_pass_nothing_is_read(void **state)
{
	struct dl_extent extent;

	mark(5, 1);
	assert_int_equal(read_extents(&extent, 1), -EBUSY);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	end_pass();
	assert_int_equal(read_extents(&extent, 1), -EBUSY);
	assert_int_equal(pending_pages(), 1);
}

static void adjacent_pages_are_one_extent(void **state)
{
	static const uint64_t wanted[][2] = { { 0, 1 },		{ 62, 5 },    { 128, 64 },
					      { 200, 1 },	{ 202, 1 },   { 319, 1 },
					      { 384, 1 },	{ 4090, 12 }, { CHUNK - 3, 2 },
					      { 2 * CHUNK, 64 } };
	const int n = sizeof(wanted) / sizeof(wanted[0]);
	struct dl_extent extents[16];

	for (int i = 0; i < n; i++)
		mark(wanted[i][0], wanted[i][1]);
	begin_pass();
	assert_int_equal(read_extents(extents, 16), n);
	for (int i = 0; i < n; i++)
		expect_extent(&extents[i], wanted[i][0], wanted[i][1]);
	assert_int_equal(read_extents(extents, 16), 0);
	assert_int_equal(read_extents(extents, 16), 0);
	assert_int_equal(dl_cursor_ack(guest.cursor, extents, (uint32_t)n), 0);
	end_pass();
	assert_int_equal(pending_pages(), 0);
}

/* A batch is one chunk if pages are cleared by hand, otherwise any 512 words. */
static void an_extent_is_no_longer_than_a_batch(void **state)
{
	mark(0, PAGES);
	expect_pass({ 0, CHUNK }, { CHUNK, CHUNK }, { 2 * CHUNK, CHUNK }, { 3 * CHUNK, 100 });
	mark(4096, PAGES - 4096);
	expect_pass({ 4096, CHUNK }, { 4096 + CHUNK, CHUNK },
		    { 4096 + 2 * CHUNK, PAGES - 4096 - 2 * CHUNK });
}

static void no_more_extents_than_requested_are_returned(void **state)
{
	struct dl_extent extents[2] = { { .bytes = 7 }, { .bytes = 7 } };

	for (uint64_t i = 0; i < 30; i++)
		mark(i * 3000, 2);
	begin_pass();
	for (uint64_t i = 0; i < 30; i++) {
		assert_int_equal(read_extents(extents, 1), 1);
		expect_extent(&extents[0], i * 3000, 2);
	}
	assert_int_equal(extents[1].bytes, 7);
	assert_int_equal(read_extents(extents, 1), 0);
	end_pass();
}

static void pages_marked_ahead_of_a_pass_are_read_and_behind_it_are_not(void **state)
{
	struct dl_extent extent;

	mark(CHUNK + 5, 1);
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	mark(4, 1);
	mark(2 * CHUNK, 1);
	assert_int_equal(read_extents(&extent, 1), 1);
	expect_extent(&extent, 2 * CHUNK, 1);
	assert_int_equal(read_extents(&extent, 1), 0);
	mark(3 * CHUNK, 1);
	assert_int_equal(read_extents(&extent, 1), 0);
	end_pass();
	assert_int_equal(pending_pages(), 4);
}

static struct {
	uint8_t seen[PAGES]; /* how many readers had each page */
	atomic_int errors;
} shared;

static void *read_some(void *unused)
{
	struct dl_extent extents[3];
	int n;

	while ((n = read_extents(extents, 3)) > 0) {
		for (int i = 0; i < n; i++)
			for (uint64_t at = 0; at < extents[i].bytes; at += 4096)
				shared.seen[(extents[i].offset_bytes + at) / 4096]++;
		if (dl_cursor_ack(guest.cursor, extents, (uint32_t)n))
			atomic_fetch_add(&shared.errors, 1);
	}
	if (n)
		atomic_fetch_add(&shared.errors, 1);
	return NULL;
}

static void many_readers_get_each_page_once(void **state)
{
	pthread_t readers[READERS];

	memset(&shared, 0, sizeof(shared));
	for (uint64_t page = 0; page < PAGES; page += 5)
		mark(page, PAGES - page < 3 ? PAGES - page : 3);
	begin_pass();
	for (int i = 0; i < READERS; i++)
		pthread_create(&readers[i], NULL, read_some, NULL);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	assert_int_equal(atomic_load(&shared.errors), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(shared.seen[page], page % 5 < 3);
	end_pass();
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(unacked_pages(), 0);
}

static void the_cookie_is_that_of_when_the_pass_began(void **state)
{
	struct dl_slot slot = pass_slot();
	struct dl_extent extent;

	mark(5, 1);
	begin_pass();
	slot.cookie = 9;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(read_extents(&extent, 1), 1);
	expect_extent(&extent, 5, 1);
	end_pass();
	begin_pass();
	assert_int_equal(read_extents(&extent, 1), 1);
	assert_int_equal(extent.cookie, 9);
	end_pass();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(arguments_are_checked),
		ring_test(without_a_pass_nothing_is_read),
		bitmap_test(without_a_pass_nothing_is_read),
		ring_test(adjacent_pages_are_one_extent),
		bitmap_test(adjacent_pages_are_one_extent),
		ring_test(an_extent_is_no_longer_than_a_batch),
		bitmap_test(an_extent_is_no_longer_than_a_batch),
		ring_test(no_more_extents_than_requested_are_returned),
		ring_test(pages_marked_ahead_of_a_pass_are_read_and_behind_it_are_not),
		bitmap_test(pages_marked_ahead_of_a_pass_are_read_and_behind_it_are_not),
		ring_test(many_readers_get_each_page_once),
		bitmap_test(many_readers_get_each_page_once),
		ring_test(the_cookie_is_that_of_when_the_pass_began),
	};

	return RUN_TESTS("read", tests);
}
