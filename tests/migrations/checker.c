/* SPDX-License-Identifier: MIT */
#include "checker.h"

#include "../unit/cmocka_all.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH_RUNS = 16, MAX_PRINTED = 4 };

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
}

void checker_free(struct checker *checker)
{
	for (unsigned int i = 0; i < checker->block_count; i++)
		free(checker->blocks[i].copy);
	checker->block_count = 0;
}

struct checker_block *checker_add(struct checker *checker, void *memory, size_t bytes)
{
	struct checker_block *block = &checker->blocks[checker->block_count];

	assert_true(checker->block_count < CHECKER_BLOCKS);
	memset(block, 0, sizeof(*block));
	block->memory = memory;
	block->bytes = bytes;
	block->copy = malloc(bytes);
	assert_non_null(block->copy);
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
}

static struct checker_block *find_block(struct checker *checker, const struct dl_run *run)
{
	for (unsigned int i = 0; i < checker->block_count; i++) {
		struct checker_block *block = &checker->blocks[i];
		uint64_t start = (uintptr_t)block->memory;

		if (run->hva >= start && run->hva - start < block->bytes &&
		    run->bytes <= block->bytes - (run->hva - start))
			return block;
	}
	return NULL;
}

static bool is_aligned(const struct checker *checker, const struct dl_run *run)
{
	uint64_t low = checker->page_bytes - 1;

	return run->bytes && !((run->bytes | run->gpa | run->hva | run->offset_bytes) & low);
}

bool checker_copy_run(struct checker *checker, const struct dl_run *run)
{
	struct checker_block *block = find_block(checker, run);
	size_t offset;

	if (!block || !is_aligned(checker, run)) {
		atomic_fetch_add(&checker->bad_runs, 1);
		return false;
	}
	offset = (size_t)(run->hva - (uintptr_t)block->memory);
	checker->copy(block->copy + offset, block->memory + offset, run->bytes);
	atomic_fetch_add(&block->pages_sent, run->bytes / checker->page_bytes);
	atomic_fetch_add(&checker->pages_sent, run->bytes / checker->page_bytes);
	return true;
}

int checker_read(struct checker *checker, struct dl_iter *iter)
{
	struct dl_run runs[CHECKER_MAX_RUNS];

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
	struct reader readers[CHECKER_MAX_READERS];
	struct dl_iter *iter;
	int r = dl_iter_new(checker->log, 0, &iter);

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
	int r = dl_harvest(checker->log, flags, NULL);

	return r ? r : checker_drain(checker, readers);
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

void checker_expect_equal(const struct checker *checker)
{
	uint64_t pages = differing(checker, true);

	assert_int_equal(atomic_load(&checker->bad_runs), 0);
	if (pages)
		fail_msg("%lu pages of the copy differ from the memory", (unsigned long)pages);
}
