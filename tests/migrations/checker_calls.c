/* SPDX-License-Identifier: MIT */
/* The calls of a checker that need no pass: cursors, slots and takes. */
#include "checker.h"

#include "../unit/cmocka_all.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int checker_join_one(struct checker *checker, uint32_t flags, uint32_t slot)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = flags,
		.slot = slot,
	};

	assert_null(checker->cursor);
	return dl_cursor_new(checker->log, &options, &checker->cursor);
}

int checker_join(struct checker *checker, uint32_t flags)
{
	return checker_join_one(checker, flags, 0);
}

void checker_leave(struct checker *checker)
{
	dl_cursor_free(checker->cursor);
	checker->cursor = NULL;
	checker_flush(checker);
}

static struct dl_cursor_stats stats_of(const struct checker *checker)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	if (checker->cursor)
		assert_int_equal(dl_cursor_stats(checker->cursor, &stats), 0);
	return stats;
}

uint64_t checker_pending(const struct checker *checker)
{
	return stats_of(checker).pending_bytes;
}

uint64_t checker_unacked(const struct checker *checker)
{
	return stats_of(checker).unacked_bytes;
}

/* The block that a slot's memory lies in, and the slot's first page in it. */
static struct checker_block *block_of(struct checker *checker, const struct dl_slot *slot,
				      uint64_t *first_page)
{
	for (unsigned int i = 0; i < checker->block_count; i++) {
		struct checker_block *block = &checker->blocks[i];
		uint64_t offset = slot->hva - (uintptr_t)block->memory;

		if (offset >= block->bytes)
			continue;
		*first_page = offset / checker->page_bytes;
		return block;
	}
	fail_msg("the memory of slot %x was not added to the checker", slot->slot);
	abort();
}

void checker_equalize_slot(struct checker *checker, const struct dl_slot *slot)
{
	uint64_t first;
	struct checker_block *block = block_of(checker, slot, &first);
	uint64_t at = first * checker->page_bytes;

	checker->copy(block->copy + at, block->memory + at, slot->bytes);
	gpa_receiver_put(&checker->by_gpa, slot->slot >> 16, slot->gpa, slot->bytes,
			 block->copy + at, 0);
}

/* Gives back what a removal has kept. Without marks: everything is pending anyway. */
static int give_back(struct checker *checker, const struct dl_slot *slot, bool mark)
{
	uint64_t first, pages = slot->bytes / checker->page_bytes;
	struct checker_block *block = block_of(checker, slot, &first);
	int r = 0;

	for (uint64_t page = first; page < first + pages && !r; page++) {
		uint64_t bit = UINT64_C(1) << page % 64;

		if (!(block->kept[page / 64] & bit))
			continue;
		block->kept[page / 64] &= ~bit;
		if (mark)
			r = dl_mark_slot(checker->log, slot->slot,
					 (page - first) * checker->page_bytes, 1);
	}
	return r;
}

int checker_slot_set(struct checker *checker, const struct dl_slot *slot)
{
	struct dl_slot known;
	bool is_new = !gpa_receiver_find(&checker->by_gpa, slot->slot, &known);
	int r = dl_slot_set(checker->log, slot);

	if (r || slot->flags & DL_SLOT_NO_LOG)
		return r;
	checker_map(checker, slot);
	return is_new ? give_back(checker, slot, slot->flags & DL_SLOT_CLEAN) : 0;
}

int checker_slot_remove(struct checker *checker, uint32_t number, uint32_t flags)
{
	struct checker_block *block;
	uint64_t *words, n, first;
	struct dl_slot slot;
	int r;

	if (!gpa_receiver_find(&checker->by_gpa, number, &slot))
		return -ENOENT;
	block = block_of(checker, &slot, &first);
	n = (slot.bytes / checker->page_bytes + 63) / 64;
	words = calloc(n, sizeof(*words));
	assert_non_null(words);
	r = dl_slot_remove(checker->log, number, flags, words, n);
	for (uint64_t page = 0; !r && page < n * 64; page++)
		if (words[page / 64] >> page % 64 & 1)
			block->kept[(first + page) / 64] |= UINT64_C(1) << (first + page) % 64;
	if (!r)
		checker_unmap(checker, number);
	free(words);
	return r;
}

int checker_slot_drop(struct checker *checker, uint32_t slot, uint32_t flags)
{
	int r = dl_slot_remove(checker->log, slot, flags, NULL, 0);

	if (!r)
		checker_unmap(checker, slot);
	return r;
}

/* Sends the pages that a take has put into words. */
static void send_words(struct checker *checker, const struct dl_slot *slot, const uint64_t *words,
		       uint64_t *sent)
{
	for (uint64_t page = 0; page < slot->bytes / checker->page_bytes; page++) {
		uint64_t offset = page * checker->page_bytes;
		const struct dl_extent run = {
			.gpa = slot->gpa + offset,
			.hva = slot->hva + offset,
			.offset_bytes = offset,
			.bytes = checker->page_bytes,
			.slot = slot->slot,
		};

		if (!(words[page / 64] >> page % 64 & 1))
			continue;
		checker_copy_run(checker, &run);
		++*sent;
	}
}

int checker_take(struct checker *checker, uint32_t number, uint32_t flags, uint64_t *pages)
{
	uint64_t *words, n, taken_bytes = 0, sent = 0;
	struct dl_slot slot;
	int r, cleared = 0;

	if (!gpa_receiver_find(&checker->by_gpa, number, &slot))
		return -ENOENT;
	n = (slot.bytes / checker->page_bytes + 63) / 64;
	words = calloc(n, sizeof(*words));
	assert_non_null(words);
	r = dl_cursor_take(checker->cursor, number, flags, words, n, &taken_bytes);
	if (flags & DL_TAKE_NO_CLEAR)
		cleared = dl_slot_clear(checker->log, number, 0, slot.bytes);
	if (cleared)
		assert_int_equal(dl_mark_slot(checker->log, number, 0, slot.bytes), 0);
	send_words(checker, &slot, words, &sent);
	assert_int_equal(sent * checker->page_bytes, taken_bytes);
	*pages += sent;
	free(words);
	return r ? r : cleared;
}

int checker_take_all(struct checker *checker, uint32_t flags, uint64_t *pages)
{
	uint32_t numbers[GPA_RECEIVER_SLOTS];
	unsigned int n = checker->by_gpa.slot_count;
	int r = 0;

	for (unsigned int i = 0; i < n; i++)
		numbers[i] = checker->by_gpa.slots[i].slot;
	for (unsigned int i = 0; i < n && !r; i++)
		r = checker_take(checker, numbers[i], flags, pages);
	return r;
}
