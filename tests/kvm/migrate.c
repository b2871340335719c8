/* SPDX-License-Identifier: MIT */
#include "migrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void migration_init(struct migration *migration, struct dl_log *log, size_t page_bytes)
{
	memset(migration, 0, sizeof(*migration));
	migration->log = log;
	migration->page_bytes = page_bytes;
	migration->batch_runs = MIGRATION_MAX_BATCH_RUNS;
}

void migration_free(struct migration *migration)
{
	for (unsigned int i = 0; i < migration->block_count; i++)
		free(migration->blocks[i].copy);
	migration->block_count = 0;
}

struct migration_block *migration_add(struct migration *migration, void *memory, size_t bytes)
{
	struct migration_block *block = &migration->blocks[migration->block_count];

	if (migration->block_count == MIGRATION_BLOCKS)
		return NULL;
	*block =
		(struct migration_block){ .memory = memory, .bytes = bytes, .copy = malloc(bytes) };
	if (!block->copy)
		return NULL;
	for (size_t i = 0; i < bytes; i += migration->page_bytes) {
		memcpy(block->copy + i, block->memory + i, migration->page_bytes);
		block->copy[i + migration->page_bytes - 1] ^= 0xff;
	}
	migration->block_count++;
	return block;
}

void migration_equalize(struct migration *migration)
{
	for (unsigned int i = 0; i < migration->block_count; i++)
		memcpy(migration->blocks[i].copy, migration->blocks[i].memory,
		       migration->blocks[i].bytes);
}

static struct migration_block *find_block(struct migration *migration, uint64_t hva, uint64_t bytes)
{
	for (unsigned int i = 0; i < migration->block_count; i++) {
		struct migration_block *block = &migration->blocks[i];
		uint64_t start = (uintptr_t)block->memory;

		if (hva >= start && hva - start < block->bytes &&
		    bytes <= block->bytes - (hva - start))
			return block;
	}
	return NULL;
}

static bool is_aligned(const struct migration *migration, const struct dl_run *run)
{
	uint64_t low = migration->page_bytes - 1;

	return run->bytes && !((run->bytes | run->gpa | run->hva | run->offset_bytes) & low);
}

bool migration_copy_run(struct migration *migration, const struct dl_run *run)
{
	struct migration_block *block = find_block(migration, run->hva, run->bytes);
	uint64_t pages = run->bytes / migration->page_bytes;
	size_t offset;

	if (!block || !is_aligned(migration, run)) {
		__atomic_fetch_add(&migration->bad_runs, 1, __ATOMIC_RELAXED);
		return false;
	}
	offset = (size_t)(run->hva - (uintptr_t)block->memory);
	memcpy(block->copy + offset, block->memory + offset, run->bytes);
	__atomic_fetch_add(&block->pages_sent, pages, __ATOMIC_RELAXED);
	__atomic_fetch_add(&migration->pages_sent, pages, __ATOMIC_RELAXED);
	return true;
}

int migration_drain(struct migration *migration)
{
	struct dl_run runs[MIGRATION_MAX_BATCH_RUNS];
	struct dl_iter *iter;
	int r = dl_iter_new(migration->log, 0, &iter);

	if (r)
		return r;
	while ((r = dl_iter_read(iter, runs, migration->batch_runs)) > 0) {
		uint32_t n = (uint32_t)r;

		for (uint32_t i = 0; i < n; i++)
			migration_copy_run(migration, &runs[i]);
		r = dl_iter_ack(iter, runs, n);
		if (r)
			break;
	}
	dl_iter_free(iter);
	return r;
}

int migration_pass(struct migration *migration, uint32_t flags, uint64_t *pending_bytes)
{
	int r = dl_harvest(migration->log, flags, pending_bytes);

	if (r)
		return r;
	migration->passes++;
	return migration_drain(migration);
}

static uint64_t compare_block(const struct migration *migration, unsigned int index, bool print)
{
	const struct migration_block *block = &migration->blocks[index];
	const size_t page_bytes = migration->page_bytes;
	uint64_t differing = 0;

	for (size_t i = 0; i < block->bytes; i += page_bytes) {
		if (!memcmp(block->copy + i, block->memory + i, page_bytes))
			continue;
		if (print && differing < 4)
			printf("  block %u: page %zu differs\n", index, i / page_bytes);
		differing++;
	}
	if (print && differing)
		printf("  block %u: %llu of %zu pages differ after %u passes\n", index,
		       (unsigned long long)differing, block->bytes / page_bytes, migration->passes);
	return differing;
}

uint64_t migration_differing_pages(const struct migration *migration, bool print)
{
	uint64_t differing = 0;

	for (unsigned int i = 0; i < migration->block_count; i++) {
		if (!migration->blocks[i].ignored)
			differing += compare_block(migration, i, print);
	}
	return differing;
}
