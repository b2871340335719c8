/* SPDX-License-Identifier: MIT */
#include "checker.h"

#include "../unit/cmocka_all.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_RUNS = 16, MAX_PRINTED = 4, MOST_LAST_PASSES = 50 };

static void plain_copy(void *to, const void *from, size_t bytes)
{
	memcpy(to, from, bytes);
}

void checker_init(struct checker *checker, struct dl_log *log, size_t page_bytes,
		  checker_copy *copy)
{
	memset(checker, 0, sizeof(*checker));
	checker->log = log;
	checker->page_bytes = page_bytes;
	checker->copy = copy ? copy : plain_copy;
	checker->batch_runs = BATCH_RUNS;
	checker->pass = 1;
	gpa_receiver_init(&checker->by_gpa, page_bytes);
}

void checker_free(struct checker *checker)
{
	checker_leave(checker);
	for (unsigned int i = 0; i < checker->block_count; i++) {
		free(checker->blocks[i].copy);
		free(checker->blocks[i].passes);
		free(checker->blocks[i].kept);
	}
	checker->block_count = 0;
	gpa_receiver_free(&checker->by_gpa);
	if (checker->is_late)
		channels_free(&checker->channels);
	checker->is_late = false;
}

void checker_deliver_late(struct checker *checker, uint64_t seed)
{
	channels_init(&checker->channels, seed);
	checker->is_late = true;
}

struct checker_block *checker_add(struct checker *checker, void *memory, size_t bytes)
{
	struct checker_block *block = &checker->blocks[checker->block_count];
	size_t pages = bytes / checker->page_bytes;

	assert_true(checker->block_count < CHECKER_BLOCKS);
	memset(block, 0, sizeof(*block));
	block->memory = memory;
	block->bytes = bytes;
	block->copy = malloc(bytes);
	block->passes = calloc(pages, sizeof(block->passes[0]));
	block->kept = calloc((pages + 63) / 64, sizeof(block->kept[0]));
	assert_true(block->copy && block->passes && block->kept);
	/* The snapshot need not be consistent; it only has to differ from what is sent later. */
	checker->copy(block->copy, memory, bytes);
	for (size_t i = 0; i < bytes; i++)
		block->copy[i] = (uint8_t)~block->copy[i];
	checker->block_count++;
	return block;
}

void checker_equalize(struct checker *checker)
{
	for (unsigned int i = 0; i < checker->block_count; i++)
		checker->copy(checker->blocks[i].copy, checker->blocks[i].memory,
			      checker->blocks[i].bytes);
	gpa_receiver_equalize(&checker->by_gpa, checker->copy);
}

static struct checker_block *find_block(struct checker *checker, uint64_t hva, uint64_t bytes)
{
	for (unsigned int i = 0; i < checker->block_count; i++) {
		struct checker_block *block = &checker->blocks[i];
		uint64_t start = (uintptr_t)block->memory;

		if (hva >= start && hva - start < block->bytes &&
		    bytes <= block->bytes - (hva - start))
			return block;
	}
	return NULL;
}

/* Where the receiver by blocks has the memory of an extent. */
static uint8_t *copy_of(struct checker *checker, const struct dl_extent *run)
{
	const struct checker_block *block = find_block(checker, run->hva, run->bytes);

	return block->copy + (run->hva - (uintptr_t)block->memory);
}

/* The receiver by gpa gets what the other one has got. */
static void deliver_by_gpa(struct checker *checker, const struct dl_extent *run,
			   const uint8_t *data, uint64_t pass)
{
	if (!checker->by_gpa.slot_count)
		return;
	if (!gpa_receiver_put(&checker->by_gpa, run->slot >> 16, run->gpa, run->bytes, data, pass))
		atomic_fetch_add(&checker->bad_runs, 1);
}

static void deliver(void *opaque, const struct channel_message *message)
{
	struct checker *checker = opaque;
	const struct dl_extent *run = &message->extent;

	memcpy(copy_of(checker, run), message->data, run->bytes);
	deliver_by_gpa(checker, run, message->data, message->pass);
}

static bool is_aligned(const struct checker *checker, const struct dl_extent *run)
{
	uint64_t low = checker->page_bytes - 1;

	return run->bytes && !((run->bytes | run->gpa | run->hva | run->offset_bytes) & low);
}

/* Counts the pages of an extent. False: the pass has handed out one of them already. */
static bool count_pages(struct checker *checker, struct checker_block *block,
			const struct dl_extent *run, uint64_t pass)
{
	uint64_t first = (run->hva - (uintptr_t)block->memory) / checker->page_bytes;
	uint64_t pages = run->bytes / checker->page_bytes;
	bool is_new = true;

	atomic_fetch_add(&block->pages_sent, pages);
	atomic_fetch_add(&checker->pages_sent, pages);
	for (uint64_t page = first; pass && page < first + pages; page++)
		is_new &= atomic_exchange(&block->passes[page], pass) != pass;
	return is_new;
}

static bool send_run(struct checker *checker, const struct dl_extent *run, uint64_t pass)
{
	struct checker_block *block = find_block(checker, run->hva, run->bytes);
	const void *memory = (const void *)(uintptr_t)run->hva;

	if (!block || !is_aligned(checker, run) || !count_pages(checker, block, run, pass)) {
		atomic_fetch_add(&checker->bad_runs, 1);
		return false;
	}
	if (checker->is_late) {
		struct channel_message *message = channels_message(run, pass);

		checker->copy(message->data, memory, run->bytes);
		channels_send(&checker->channels, message);
	} else {
		checker->copy(copy_of(checker, run), memory, run->bytes);
		deliver_by_gpa(checker, run, copy_of(checker, run), pass);
	}
	return true;
}

bool checker_copy_run(struct checker *checker, const struct dl_extent *run)
{
	return send_run(checker, run, 0);
}

int checker_read(struct checker *checker)
{
	struct dl_extent runs[CHECKER_MAX_RUNS];

	for (;;) {
		int r, n = dl_cursor_read(checker->cursor, runs, checker->batch_runs);

		if (n <= 0)
			return n;
		for (int i = 0; i < n; i++)
			send_run(checker, &runs[i], checker->pass);
		r = dl_cursor_ack(checker->cursor, runs, (uint32_t)n);
		if (r)
			return r;
	}
}

void checker_flush(struct checker *checker)
{
	if (checker->is_late)
		channels_flush(&checker->channels, deliver, checker);
	checker->pass++;
}

void checker_end(struct checker *checker, uint32_t flags)
{
	assert_int_equal(dl_cursor_end(checker->cursor, flags), 0);
	checker_flush(checker);
}

struct reader {
	pthread_t thread;
	struct checker *checker;
	int result;
};

static void *read_all(void *opaque)
{
	struct reader *reader = opaque;

	reader->result = checker_read(reader->checker);
	return NULL;
}

int checker_finish_pass(struct checker *checker, unsigned int count)
{
	struct reader readers[CHECKER_MAX_READERS];
	int r;

	for (unsigned int i = 1; i < count; i++) {
		readers[i] = (struct reader){ .checker = checker };
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all, &readers[i]),
				 0);
	}
	r = checker_read(checker);
	for (unsigned int i = 1; i < count; i++) {
		pthread_join(readers[i].thread, NULL);
		r = r ? r : readers[i].result;
	}
	checker_end(checker, 0);
	return r;
}

int checker_pass(struct checker *checker, uint32_t flags, unsigned int readers)
{
	int r = dl_harvest(checker->cursor, flags, NULL);

	return r ? r : checker_finish_pass(checker, readers);
}

/* Memory that no slot maps any more is known to the receiver by blocks only. */
static void send_kept(struct checker *checker)
{
	for (unsigned int i = 0; i < checker->block_count; i++) {
		struct checker_block *block = &checker->blocks[i];

		for (size_t page = 0; page < block->bytes / checker->page_bytes; page++) {
			size_t at = page * checker->page_bytes;

			if (!(block->kept[page / 64] >> page % 64 & 1))
				continue;
			checker->copy(block->copy + at, block->memory + at, checker->page_bytes);
			block->kept[page / 64] &= ~(UINT64_C(1) << page % 64);
		}
	}
}

int checker_last_pass(struct checker *checker, unsigned int readers)
{
	uint64_t pending_bytes;
	int r, passes = 0;

	do {
		assert_true(passes++ < MOST_LAST_PASSES);
		r = dl_harvest(checker->cursor, DL_HARVEST_PAUSED, &pending_bytes);
		if (!r)
			r = checker_finish_pass(checker, readers);
		if (r)
			return r;
	} while (pending_bytes);
	send_kept(checker);
	return 0;
}

int checker_harvest(struct checker *checker, uint32_t flags, uint64_t *pending_bytes)
{
	int r = dl_harvest(checker->cursor, flags, pending_bytes);

	if (!r)
		assert_int_equal(dl_cursor_end(checker->cursor, 0), 0);
	return r;
}

static uint64_t differing(const struct checker *checker, bool print)
{
	uint64_t pages = 0;

	for (unsigned int i = 0; i < checker->block_count; i++) {
		const struct checker_block *block = &checker->blocks[i];

		for (size_t at = 0; at < block->bytes && !block->ignored;
		     at += checker->page_bytes) {
			if (!memcmp(block->copy + at, block->memory + at, checker->page_bytes))
				continue;
			if (print && pages < MAX_PRINTED)
				print_error("block %u, page %zu differs\n", i,
					    at / checker->page_bytes);
			pages++;
		}
	}
	return pages;
}

uint64_t checker_differing_pages(const struct checker *checker)
{
	return differing(checker, false);
}

static bool is_ignored(void *opaque, uint64_t hva)
{
	const struct checker_block *block = find_block(opaque, hva, 1);

	return !block || block->ignored;
}

uint64_t checker_differing_by_gpa(struct checker *checker)
{
	return gpa_receiver_differing(&checker->by_gpa, false, is_ignored, checker);
}

void checker_expect_equal(struct checker *checker)
{
	uint64_t pages = differing(checker, true);
	uint64_t by_gpa = gpa_receiver_differing(&checker->by_gpa, true, is_ignored, checker);

	assert_int_equal(atomic_load(&checker->bad_runs), 0);
	if (pages || by_gpa)
		fail_msg("%lu pages by block and %lu by gpa differ from the memory",
			 (unsigned long)pages, (unsigned long)by_gpa);
}
