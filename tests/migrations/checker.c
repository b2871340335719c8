/* SPDX-License-Identifier: MIT */
#include "checker.h"

#include "cmocka_all.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_READERS = 8, MAX_RUNS = 64 };

static size_t block_bytes(const struct checker *checker, unsigned int i)
{
	return checker->guest->blocks[i].pages * checker->guest->page_bytes;
}

void checker_add_blocks(struct checker *checker)
{
	for (; checker->copy_count < checker->guest->block_count; checker->copy_count++) {
		unsigned int i = checker->copy_count;
		const uint8_t *memory = checker->guest->blocks[i].memory;
		uint8_t *copy = malloc(block_bytes(checker, i));

		assert_non_null(copy);
		/* It need not be a copy of one moment: nothing that was sent, that is all. */
		model_copy(copy, memory, block_bytes(checker, i));
		for (size_t at = 0; at < block_bytes(checker, i); at++)
			copy[at] = (uint8_t)~copy[at];
		checker->copies[i] = copy;
	}
}

void checker_init(struct checker *checker, struct guest *guest)
{
	memset(checker, 0, sizeof(*checker));
	checker->guest = guest;
	checker->batch_runs = 16;
	checker_add_blocks(checker);
}

void checker_free(struct checker *checker)
{
	for (unsigned int i = 0; i < checker->copy_count; i++)
		free(checker->copies[i]);
	checker->copy_count = 0;
}

void checker_equalize(struct checker *checker)
{
	for (unsigned int i = 0; i < checker->copy_count; i++)
		model_copy(checker->copies[i], checker->guest->blocks[i].memory,
			   block_bytes(checker, i));
}

void checker_copy_run(struct checker *checker, const struct dl_run *run)
{
	uint32_t page_bytes = checker->guest->page_bytes;

	for (unsigned int i = 0; i < checker->copy_count; i++) {
		uint64_t begin = (uintptr_t)checker->guest->blocks[i].memory;
		uint64_t at = run->hva - begin;

		if (run->hva < begin || at >= block_bytes(checker, i))
			continue;
		if (run->bytes > block_bytes(checker, i) - at || at % page_bytes ||
		    run->bytes % page_bytes || !run->bytes)
			break;
		model_copy(checker->copies[i] + at, checker->guest->blocks[i].memory + at,
			   run->bytes);
		atomic_fetch_add(&checker->pages_sent, run->bytes / page_bytes);
		return;
	}
	atomic_fetch_add(&checker->bad_runs, 1);
}

int checker_read(struct checker *checker, struct dl_iter *iter)
{
	struct dl_run runs[MAX_RUNS];

	for (;;) {
		int r, n = dl_iter_read(iter, runs, checker->batch_runs);

		if (n <= 0)
			return n;
		for (int i = 0; i < n; i++)
			checker_copy_run(checker, &runs[i]);
		r = dl_iter_ack(iter, runs, (uint32_t)n);
		if (r)
			return r;
	}
}

struct reader {
	pthread_t thread;
	struct checker *checker;
	struct dl_iter *iter;
	int result;
};

static void *read_all(void *opaque)
{
	struct reader *reader = opaque;

	reader->result = checker_read(reader->checker, reader->iter);
	return NULL;
}

int checker_drain(struct checker *checker, unsigned int count)
{
	struct reader readers[MAX_READERS];
	struct dl_iter *iter;
	int r = dl_iter_new(checker->guest->log, 0, &iter);

	if (r)
		return r;
	for (unsigned int i = 1; i < count; i++) {
		readers[i] = (struct reader){ .checker = checker, .iter = iter };
		assert_int_equal(pthread_create(&readers[i].thread, NULL, read_all, &readers[i]),
				 0);
	}
	r = checker_read(checker, iter);
	for (unsigned int i = 1; i < count; i++) {
		pthread_join(readers[i].thread, NULL);
		r = r ? r : readers[i].result;
	}
	dl_iter_free(iter);
	return r;
}

int checker_pass(struct checker *checker, uint32_t flags, unsigned int readers)
{
	int r = dl_harvest(checker->guest->log, flags, NULL);

	return r ? r : checker_drain(checker, readers);
}

static uint64_t differing(const struct checker *checker, unsigned int first, unsigned int end,
			  bool tell)
{
	uint32_t page_bytes = checker->guest->page_bytes;
	uint64_t pages = 0;

	for (unsigned int i = first; i < end; i++) {
		const struct guest_block *block = &checker->guest->blocks[i];

		for (uint64_t page = 0; page < block->pages; page++) {
			uint64_t at = page * page_bytes;

			if (!memcmp(checker->copies[i] + at, block->memory + at, page_bytes))
				continue;
			if (tell && !pages)
				print_error("block %u, page %lu differs\n", i, (unsigned long)page);
			pages++;
		}
	}
	return pages;
}

uint64_t checker_differing_of(const struct checker *checker, unsigned int first, unsigned int end)
{
	return differing(checker, first, end, false);
}

uint64_t checker_differing_pages(const struct checker *checker)
{
	return differing(checker, 0, checker->copy_count, false);
}

void checker_expect_equal(const struct checker *checker)
{
	assert_int_equal(atomic_load(&checker->bad_runs), 0);
	if (differing(checker, 0, checker->copy_count, true))
		fail_msg("the copy differs from the memory");
}
