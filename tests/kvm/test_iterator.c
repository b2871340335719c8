/* SPDX-License-Identifier: MIT */
/*
 * Reading and acknowledging runs: several readers, parts of runs, runs that are requeued, and
 * writes between a read and its acknowledgement.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGES = 700,
	READERS = 3,
};

static struct rig *open_rig(uint32_t mode, unsigned int vcpus)
{
	const struct rig_config config = { .mode = mode, .vcpus = vcpus };

	return rig_new(&config);
}

static struct rig_range pages_of(const struct rig_slot *slot, uint64_t first, uint64_t pages)
{
	return (struct rig_range){ .slot = slot, .first_page = first, .pages = pages };
}

/* Reads and copies the remaining runs. Returns the number of pages. */
static uint64_t read_rest(struct rig *rig, struct dl_cursor *cursor, bool ack)
{
	struct dl_extent runs[5];
	uint64_t pages = 0;
	int n;

	while ((n = dl_cursor_read(cursor, runs, 5)) > 0) {
		for (int i = 0; i < n; i++) {
			assert_true(checker_copy_run(&rig->checker, &runs[i]));
			pages += runs[i].bytes / rig->page_bytes;
		}
		if (ack)
			assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
	}
	assert_int_equal(n, 0);
	return pages;
}

static uint64_t harvested_pages(struct rig *rig)
{
	return rig_harvest(rig, 0) / rig->page_bytes;
}

static struct dl_cursor *open_pass(struct rig *rig)
{
	assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
	return rig->checker.cursor;
}

/* By another consumer, in the middle of a pass. */
static void harvest_beside(struct rig *rig)
{
	struct worker other = { .opaque = rig };

	assert_int_equal(rig_harvest_step(&other), 0);
}

/* The slot and offset, gpa, and hva of a run agree. */
static void runs_are_exact(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 6, 3ull * GUEST_DATA_GPA, PAGES);
	const uint64_t firsts[] = { 0, 63, 127, 300, PAGES - 1 };
	const uint64_t lengths[] = { 1, 2, 130, 64, 1 };
	struct dl_extent runs[8];
	struct dl_cursor *cursor;

	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (int i = 0; i < 5; i++) {
		struct rig_range range = pages_of(slot, firsts[i], lengths[i]);

		rig_write(rig, 0, &range, 1);
	}
	assert_int_equal(harvested_pages(rig), 198);
	cursor = open_pass(rig);
	assert_int_equal(dl_cursor_read(cursor, runs, 8), 5);
	for (int i = 0; i < 5; i++) {
		uint64_t offset = firsts[i] * rig->page_bytes;

		assert_int_equal(runs[i].slot, 6);
		assert_int_equal(runs[i].offset_bytes, offset);
		assert_int_equal(runs[i].bytes, lengths[i] * rig->page_bytes);
		assert_int_equal(runs[i].gpa, slot->gpa + offset);
		assert_int_equal(runs[i].hva, (uintptr_t)slot->memory + offset);
	}
	assert_int_equal(dl_cursor_ack(cursor, runs, 5), 0);
	assert_int_equal(dl_cursor_read(cursor, runs, 8), 0);
	checker_end(&rig->checker, 0);
}

/*
 * Hazard 5 of doc/kernel.md, and the core guarantee of the library: a page that is written after it
 * was read is reported again.
 */
static void a_page_written_after_it_was_read_is_reported_again(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = pages_of(slot, 100, 50);
	struct dl_cursor *cursor;

	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 0; round < 20; round++) {
		bool ack_before = round % 2;

		rig_write(rig, 0, &range, 2 * round + 1);
		assert_int_equal(harvested_pages(rig), 50);
		cursor = open_pass(rig);
		assert_int_equal(read_rest(rig, cursor, ack_before), 50);
		rig_write(rig, 0, &range, 2 * round + 2);
		if (!ack_before) {
			harvest_beside(rig);
			assert_int_equal(checker_pending(&rig->checker), 50 * rig->page_bytes);
		}
		checker_end(&rig->checker, 0);
		assert_int_equal(harvested_pages(rig), 50);
		rig_pass(rig, 0);
		checker_expect_equal(&rig->checker);
	}
	rig_finish(rig);
}

/* A harvest in the middle of an iteration loses no page, at any position of the iterator. */
static void harvest_during_an_iteration_loses_no_page(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range all = pages_of(slot, 0, PAGES);
	struct rig_range some = pages_of(slot, 0, 40);
	struct dl_extent run;
	struct dl_cursor *cursor;

	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 1; round < 8; round++) {
		rig_write(rig, 0, &all, round);
		cursor = rig->checker.cursor;
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
		checker_copy_run(&rig->checker, &run);
		some.first_page = (round * 97) % (PAGES - 40);
		rig_write(rig, 0, &some, 100 + round);
		harvest_beside(rig);
		assert_int_equal(dl_cursor_ack(cursor, &run, 1), 0);
		read_rest(rig, cursor, true);
		checker_end(&rig->checker, 0);
	}
	rig_finish(rig);
}

static void unacked_runs_are_requeued(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = pages_of(slot, 11, 90);
	struct dl_cursor *cursor;
	struct dl_extent run, part;

	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(harvested_pages(rig), 90);
	for (int i = 0; i < 3; i++) {
		cursor = open_pass(rig);
		assert_int_equal(read_rest(rig, cursor, false), 90);
		assert_int_equal(checker_unacked(&rig->checker), 90 * rig->page_bytes);
		assert_int_equal(checker_pending(&rig->checker), 0);
		checker_end(&rig->checker, 0);
		assert_int_equal(checker_unacked(&rig->checker), 0);
		assert_int_equal(checker_pending(&rig->checker), 90 * rig->page_bytes);
	}
	/* Acknowledge the middle of the run; the rest is requeued. */
	cursor = open_pass(rig);
	assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
	assert_int_equal(run.bytes, 90 * rig->page_bytes);
	part = run;
	part.offset_bytes += 30 * rig->page_bytes;
	part.gpa += 30 * rig->page_bytes;
	part.hva += 30 * rig->page_bytes;
	part.bytes = 20 * rig->page_bytes;
	assert_int_equal(dl_cursor_ack(cursor, &part, 1), 0);
	assert_int_equal(dl_cursor_ack(cursor, &part, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	checker_end(&rig->checker, 0);
	cursor = open_pass(rig);
	assert_int_equal(read_rest(rig, cursor, true), 70);
	checker_end(&rig->checker, 0);
	rig_finish(rig);
}

struct reader {
	struct rig *rig;
	struct dl_cursor *cursor;
	pthread_t thread;
	int result;
};

/* Reads in small batches; acknowledges the first run of each at once, the others at the end. */
static void *reader_thread(void *opaque)
{
	struct reader *reader = opaque;
	struct dl_extent runs[3], *kept = NULL;
	uint32_t kept_count = 0;
	int n, r = 0;

	while (!r && (n = dl_cursor_read(reader->cursor, runs, 3)) > 0) {
		for (int i = 0; i < n; i++)
			checker_copy_run(&reader->rig->checker, &runs[i]);
		kept = realloc(kept, (kept_count + 3) * sizeof(*kept));
		for (int i = 1; i < n; i++)
			kept[kept_count++] = runs[i];
		r = dl_cursor_ack(reader->cursor, runs, 1);
	}
	if (!r && n < 0)
		r = n;
	if (!r && kept_count)
		r = dl_cursor_ack(reader->cursor, kept, kept_count);
	free(kept);
	reader->result = r;
	return NULL;
}

static void pass_with_readers(struct rig *rig, uint32_t flags)
{
	struct reader readers[READERS];
	struct dl_cursor *cursor;

	cursor = rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, flags, NULL), 0);
	for (int i = 0; i < READERS; i++) {
		readers[i] = (struct reader){ .rig = rig, .cursor = cursor };
		assert_int_equal(
			pthread_create(&readers[i].thread, NULL, reader_thread, &readers[i]), 0);
	}
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i].thread, NULL);
	checker_end(&rig->checker, 0);
	for (int i = 0; i < READERS; i++)
		assert_int_equal(readers[i].result, 0);
}

static void several_readers_share_an_iterator(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 2);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *other = rig_slot(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	/* Write every third page, to get many runs. */
	struct guest_job job = {
		.program = GUEST_COUNT,
		.gpa = slot->gpa,
		.count = PAGES / 3,
		.stride_bytes = 3 * rig->page_bytes,
	};
	struct rig_range range = pages_of(other, 0, PAGES);

	rig_join(rig, 0);
	rig->vcpus[0].rounds = (volatile uint64_t *)slot->memory;
	assert_int_equal(machine_go(rig->vcpus[0].machine, &job), 0);
	rig_count(rig, 1, &range);
	for (int pass = 0; pass < 8; pass++) {
		rig_wait_rounds(rig, 0, 1);
		pass_with_readers(rig, 0);
	}
	rig_stop(rig);
	pass_with_readers(rig, DL_HARVEST_PAUSED);
	checker_expect_equal(&rig->checker);
}

/* The runs of a slot that was removed after the read can be acknowledged or requeued safely. */
static void slot_may_be_removed_under_an_iterator(uint32_t mode)
{
	struct rig *rig = open_rig(mode, 1);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *goes = rig_slot(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	struct rig_range range = pages_of(goes, 0, PAGES);

	(void)slot;
	rig_join(rig, 0);
	for (uint64_t round = 1; round < 6; round++) {
		bool ack = round % 2;
		struct dl_extent runs[4];
		struct dl_cursor *cursor;
		int n;

		rig_pass(rig, 0);
		rig_write(rig, 0, &range, round);
		cursor = rig->checker.cursor;
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		n = dl_cursor_read(cursor, runs, 4);
		assert_true(n > 0);
		assert_int_equal(rig_slot_remove(rig, goes), 0);
		if (round % 3)
			assert_int_equal(rig_slot_set(rig, goes, 0, 0), 0);
		if (ack)
			assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
		checker_end(&rig->checker, 0);
		if (!(round % 3)) {
			rig_pass(rig, 0);
			assert_int_equal(rig_slot_set(rig, goes, 0, 0), 0);
		}
	}
	rig_finish(rig);
}

/* The last declaration is there for the semicolon after the macro. */
#define both_modes(name)                        \
	static void ring_##name(void **state)   \
	{                                       \
		(void)state;                    \
		name(DL_MODE_RING);             \
	}                                       \
	static void bitmap_##name(void **state) \
	{                                       \
		(void)state;                    \
		name(DL_MODE_BITMAP);           \
	}                                       \
	static void bitmap_##name(void **state)

both_modes(runs_are_exact);
both_modes(a_page_written_after_it_was_read_is_reported_again);
both_modes(harvest_during_an_iteration_loses_no_page);
both_modes(unacked_runs_are_requeued);
both_modes(several_readers_share_an_iterator);
both_modes(slot_may_be_removed_under_an_iterator);

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_runs_are_exact),
		rig_test(bitmap_runs_are_exact),
		rig_test(ring_a_page_written_after_it_was_read_is_reported_again),
		rig_test(bitmap_a_page_written_after_it_was_read_is_reported_again),
		rig_test(ring_harvest_during_an_iteration_loses_no_page),
		rig_test(bitmap_harvest_during_an_iteration_loses_no_page),
		rig_test(ring_unacked_runs_are_requeued),
		rig_test(bitmap_unacked_runs_are_requeued),
		rig_test(ring_several_readers_share_an_iterator),
		rig_test(bitmap_several_readers_share_an_iterator),
		rig_test(ring_slot_may_be_removed_under_an_iterator),
		rig_test(bitmap_slot_may_be_removed_under_an_iterator),
	};

	return rig_run_tests("iterator", tests);
}
