/* SPDX-License-Identifier: MIT */
/* Runs handed out, acknowledged and requeued. */
#include "cmocka_all.h"
#include "guest.h"
#include "pages/page_set.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 3 * PAGE_SET_CHUNK_PAGES + 100, CHUNK = PAGE_SET_CHUNK_PAGES, READERS = 3 };

static struct guest guest;
static bool in_ring_mode;

/* One slot of several chunks; its memory is never touched. */
static void begin(uint32_t mode, uint32_t start_flags)
{
	const struct guest_config config = { .model = { .no_memory = true },
					     .options = { .mode = mode } };
	struct dl_slot slot = { .size = sizeof(slot),
				.slot = 2,
				.gpa = UINT64_C(1) << 32,
				.bytes = PAGES * UINT64_C(4096),
				.hva = UINT64_C(1) << 40 };

	guest_open(&guest, &config);
	in_ring_mode = mode == DL_MODE_RING;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(dl_log_start(guest.log, start_flags), 0);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING, DL_START_CLEAN);
	return 0;
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP, DL_START_CLEAN);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void mark(uint64_t page, uint64_t pages)
{
	assert_int_equal(dl_mark_slot(guest.log, 2, page * 4096, pages * 4096), 0);
}

static struct dl_iter *iter_new(void)
{
	struct dl_iter *iter = NULL;

	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	return iter;
}

static void expect_run(const struct dl_run *run, uint64_t page, uint64_t pages)
{
	assert_int_equal(run->offset_bytes, page * 4096);
	assert_int_equal(run->bytes, pages * 4096);
	assert_int_equal(run->gpa, (UINT64_C(1) << 32) + page * 4096);
	assert_int_equal(run->hva, (UINT64_C(1) << 40) + page * 4096);
	assert_int_equal(run->slot, 2);
}

static uint64_t unacked_pages(void)
{
	return guest_stats(&guest).unacked_bytes / 4096;
}

static uint64_t pending_pages(void)
{
	return guest_stats(&guest).pending_bytes / 4096;
}

static void arguments_are_checked(void **state)
{
	struct dl_iter *iter = NULL;
	struct dl_run run = { 0 };

	assert_int_equal(dl_iter_new(NULL, 0, &iter), -EINVAL);
	assert_int_equal(dl_iter_new(guest.log, 1, &iter), -EINVAL);
	assert_int_equal(dl_iter_new(guest.log, 0, NULL), -EINVAL);
	iter = iter_new();
	assert_int_equal(dl_iter_read(NULL, &run, 1), -EINVAL);
	assert_int_equal(dl_iter_read(iter, NULL, 1), -EINVAL);
	assert_int_equal(dl_iter_read(iter, &run, 0), -EINVAL);
	assert_int_equal(dl_iter_read(iter, &run, (uint32_t)INT_MAX + 1), -EINVAL);
	assert_int_equal(dl_iter_ack(NULL, &run, 1), -EINVAL);
	assert_int_equal(dl_iter_ack(iter, NULL, 1), -EINVAL);
	assert_int_equal(dl_iter_ack(iter, NULL, 0), 0);
	dl_iter_free(iter);
	dl_iter_free(NULL);
}

static void only_one_iterator_is_open_at_a_time(void **state)
{
	struct dl_iter *iter = iter_new(), *other = NULL;

	assert_int_equal(dl_iter_new(guest.log, 0, &other), -EBUSY);
	assert_null(other);
	dl_iter_free(iter);
	dl_iter_free(iter_new());
}

static void adjacent_pages_are_one_run(void **state)
{
	static const uint64_t wanted[][2] = { { 0, 1 },		{ 62, 5 },    { 128, 64 },
					      { 200, 1 },	{ 202, 1 },   { 319, 1 },
					      { 384, 1 },	{ 4090, 12 }, { CHUNK - 3, 2 },
					      { 2 * CHUNK, 64 } };
	const int n = sizeof(wanted) / sizeof(wanted[0]);
	struct dl_iter *iter;
	struct dl_run runs[16];

	for (int i = 0; i < n; i++)
		mark(wanted[i][0], wanted[i][1]);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, runs, 16), n);
	for (int i = 0; i < n; i++)
		expect_run(&runs[i], wanted[i][0], wanted[i][1]);
	assert_int_equal(dl_iter_read(iter, runs, 16), 0);
	assert_int_equal(dl_iter_read(iter, runs, 16), 0);
	assert_int_equal(dl_iter_ack(iter, runs, (uint32_t)n), 0);
	dl_iter_free(iter);
	assert_int_equal(pending_pages(), 0);
}

static void expect_runs(const uint64_t (*wanted)[2], int n)
{
	struct dl_iter *iter = iter_new();
	struct dl_run runs[8];

	assert_int_equal(dl_iter_read(iter, runs, 8), n);
	for (int i = 0; i < n; i++)
		expect_run(&runs[i], wanted[i][0], wanted[i][1]);
	assert_int_equal(dl_iter_ack(iter, runs, (uint32_t)n), 0);
	dl_iter_free(iter);
}

/* A batch is one chunk if the bitmap is cleared by hand, otherwise any 512 words. */
static void a_run_is_no_longer_than_a_batch(void **state)
{
	static const uint64_t all[][2] = {
		{ 0, CHUNK }, { CHUNK, CHUNK }, { 2 * CHUNK, CHUNK }, { 3 * CHUNK, 100 }
	};
	static const uint64_t by_chunks[][2] = {
		{ 64, CHUNK - 64 }, { CHUNK, CHUNK }, { 2 * CHUNK, CHUNK }, { 3 * CHUNK, 100 }
	};
	static const uint64_t by_words[][2] = { { 4096, CHUNK },
						{ 4096 + CHUNK, CHUNK },
						{ 4096 + 2 * CHUNK, PAGES - 4096 - 2 * CHUNK } };

	mark(0, PAGES);
	expect_runs(all, 4);
	if (in_ring_mode) {
		mark(4096, PAGES - 4096);
		expect_runs(by_words, 3);
	} else {
		mark(64, PAGES - 64);
		expect_runs(by_chunks, 4);
	}
}

static void no_more_runs_than_requested_are_returned(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	for (uint64_t i = 0; i < 30; i++)
		mark(i * 3000, 2);
	iter = iter_new();
	for (uint64_t i = 0; i < 30; i++) {
		assert_int_equal(dl_iter_read(iter, &run, 1), 1);
		expect_run(&run, i * 3000, 2);
	}
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	dl_iter_free(iter);
}

static void unacknowledged_pages_are_pending_again(void **state)
{
	struct dl_iter *iter;
	struct dl_run runs[4];
	uint64_t ahead;

	mark(10, 5);
	mark(CHUNK + 10, 5);
	mark(2 * CHUNK + 10, 5);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, runs, 2), 2);
	/* The third run may have been taken already. */
	ahead = in_ring_mode ? 5 : 0;
	assert_int_equal(unacked_pages(), 10 + ahead);
	assert_int_equal(pending_pages(), 5 - ahead);
	assert_int_equal(dl_iter_ack(iter, runs, 1), 0);
	assert_int_equal(unacked_pages(), 5 + ahead);
	dl_iter_free(iter);
	assert_int_equal(unacked_pages(), 0);
	assert_int_equal(pending_pages(), 10);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, runs, 4), 2);
	expect_run(&runs[0], CHUNK + 10, 5);
	expect_run(&runs[1], 2 * CHUNK + 10, 5);
	dl_iter_free(iter);
}

/* Pages that were taken with their chunk, but not read. */
static void unread_pages_are_pending_again(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	for (uint64_t i = 0; i < 100; i++)
		mark(2 * i, 1);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(dl_iter_ack(iter, &run, 1), 0);
	dl_iter_free(iter);
	assert_int_equal(pending_pages(), 99);
}

static void part_of_a_run_can_be_acknowledged(void **state)
{
	struct dl_iter *iter;
	struct dl_run run, part;

	mark(60, 10);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	part = run;
	part.offset_bytes += 2 * 4096;
	part.bytes = 3 * 4096;
	assert_int_equal(dl_iter_ack(iter, &part, 1), 0);
	assert_int_equal(unacked_pages(), 7);
	assert_int_equal(dl_iter_ack(iter, &part, 1), -EINVAL);
	assert_int_equal(dl_iter_ack(iter, &run, 1), -EINVAL);
	dl_iter_free(iter);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	expect_run(&run, 60, 2);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	expect_run(&run, 65, 5);
	dl_iter_free(iter);
}

static void pages_that_were_not_handed_out_cannot_be_acknowledged(void **state)
{
	struct dl_run good, runs[3], bad;
	struct dl_iter *iter;

	mark(100, 10);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &good, 1), 1);
#define REFUSE(change)                                                 \
	do {                                                           \
		bad = good;                                            \
		change;                                                \
		assert_int_equal(dl_iter_ack(iter, &bad, 1), -EINVAL); \
	} while (0)
	REFUSE(bad.bytes += 4096);
	REFUSE(bad.offset_bytes -= 4096);
	REFUSE(bad.bytes = 0);
	REFUSE(bad.bytes -= 1);
	REFUSE(bad.offset_bytes += 512);
	REFUSE(bad.bytes = UINT64_MAX & ~UINT64_C(4095));
	REFUSE(bad.offset_bytes = PAGES * UINT64_C(4096));
	REFUSE(bad.offset_bytes = UINT64_MAX & ~UINT64_C(4095));
	REFUSE(bad.slot = 3);
	REFUSE(bad.reserved = 1);
	REFUSE(bad.reserved = UINT32_MAX);
#undef REFUSE
	assert_int_equal(unacked_pages(), 10);
	/* The runs before a bad one count; the bad one and those after it do not. */
	runs[0] = runs[1] = runs[2] = good;
	runs[0].bytes = runs[2].bytes = 4096;
	runs[1].slot = 9;
	runs[2].offset_bytes += 4096;
	assert_int_equal(dl_iter_ack(iter, runs, 3), -EINVAL);
	assert_int_equal(unacked_pages(), 9);
	dl_iter_free(iter);
}

static void a_gap_in_a_run_cannot_be_acknowledged(void **state)
{
	struct dl_iter *iter = iter_new();
	struct dl_run runs[2];

	mark(0, 64);
	mark(128, 64);
	assert_int_equal(dl_iter_read(iter, runs, 2), 2);
	runs[0].bytes = 192 * UINT64_C(4096);
	assert_int_equal(dl_iter_ack(iter, runs, 1), -EINVAL);
	dl_iter_free(iter);
}

/* Its memory is kept only to be handed out. */
static void a_removed_slot_comes_before_the_others(void **state)
{
	struct dl_slot other = {
		.size = sizeof(other), .slot = 1, .gpa = 0, .bytes = 4096, .hva = 4096
	};
	struct dl_iter *iter;
	struct dl_run run;

	assert_int_equal(dl_slot_set(guest.log, &other), 0);
	assert_int_equal(dl_slot_remove(guest.log, 2, 0), 0);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(run.slot, 2);
	dl_iter_free(iter);
}

/* Its pages were taken in one batch before the move. */
static void runs_after_a_move_have_the_new_address(void **state)
{
	struct dl_slot moved = { .size = sizeof(moved),
				 .slot = 2,
				 .gpa = UINT64_C(1) << 36,
				 .bytes = PAGES * UINT64_C(4096),
				 .hva = UINT64_C(1) << 40 };
	struct dl_iter *iter = iter_new();
	struct dl_run run;

	mark(0, 1);
	mark(2, 1);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	expect_run(&run, 0, 1);
	assert_int_equal(dl_slot_set(guest.log, &moved), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(run.offset_bytes, 2 * 4096);
	assert_int_equal(run.gpa, moved.gpa + 2 * 4096);
	dl_iter_free(iter);
}

static void pages_marked_ahead_of_the_iterator_are_read_and_behind_it_are_not(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	mark(CHUNK + 5, 1);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	mark(4, 1);
	mark(2 * CHUNK, 1);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	expect_run(&run, 2 * CHUNK, 1);
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	mark(3 * CHUNK, 1);
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	dl_iter_free(iter);
	assert_int_equal(pending_pages(), 4);
}

/* A page is written again while in flight: its acknowledgement must keep the new mark. */
static void an_acknowledgement_leaves_a_new_mark_alone(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	mark(5, 1);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	mark(5, 1);
	assert_int_equal(dl_iter_ack(iter, &run, 1), 0);
	assert_int_equal(pending_pages(), 1);
	dl_iter_free(iter);
	assert_int_equal(pending_pages(), 1);
}

static struct {
	struct dl_iter *iter;
	uint8_t seen[PAGES]; /* the reader of each page: exactly one */
	atomic_int errors;
} shared;

static void *read_some(void *number)
{
	struct dl_run runs[3];
	int n;

	while ((n = dl_iter_read(shared.iter, runs, 3)) > 0) {
		for (int i = 0; i < n; i++)
			for (uint64_t at = 0; at < runs[i].bytes; at += 4096)
				shared.seen[(runs[i].offset_bytes + at) / 4096]++;
		if (dl_iter_ack(shared.iter, runs, (uint32_t)n))
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
	shared.iter = iter_new();
	for (uintptr_t i = 0; i < READERS; i++)
		pthread_create(&readers[i], NULL, read_some, (void *)i);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	assert_int_equal(atomic_load(&shared.errors), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(shared.seen[page], page % 5 < 3);
	dl_iter_free(shared.iter);
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(unacked_pages(), 0);
}

/* The handles may be released in any order. */
static void an_iterator_outlives_its_log(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	mark(5, 1);
	iter = iter_new();
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(dl_iter_read(iter, &run, 1), -ECANCELED);
	assert_int_equal(dl_iter_ack(iter, &run, 1), -ECANCELED);
	dl_iter_free(iter);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(arguments_are_checked),
		ring_test(only_one_iterator_is_open_at_a_time),
		ring_test(adjacent_pages_are_one_run),
		bitmap_test(adjacent_pages_are_one_run),
		ring_test(a_run_is_no_longer_than_a_batch),
		bitmap_test(a_run_is_no_longer_than_a_batch),
		ring_test(no_more_runs_than_requested_are_returned),
		ring_test(unacknowledged_pages_are_pending_again),
		bitmap_test(unacknowledged_pages_are_pending_again),
		ring_test(unread_pages_are_pending_again),
		ring_test(part_of_a_run_can_be_acknowledged),
		ring_test(pages_that_were_not_handed_out_cannot_be_acknowledged),
		ring_test(a_gap_in_a_run_cannot_be_acknowledged),
		ring_test(a_removed_slot_comes_before_the_others),
		ring_test(runs_after_a_move_have_the_new_address),
		ring_test(pages_marked_ahead_of_the_iterator_are_read_and_behind_it_are_not),
		ring_test(an_acknowledgement_leaves_a_new_mark_alone),
		ring_test(many_readers_get_each_page_once),
		bitmap_test(many_readers_get_each_page_once),
		ring_test(an_iterator_outlives_its_log),
	};

	return RUN_TESTS("iter", tests);
}
