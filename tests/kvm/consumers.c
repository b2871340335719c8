/* SPDX-License-Identifier: MIT */
#include "consumers.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct checker consumers[CONSUMERS_MAX];
static unsigned int consumer_count;

struct checker *consumer_new(struct rig *rig)
{
	struct checker *consumer = &consumers[consumer_count];

	assert_in_range(consumer_count, 0, CONSUMERS_MAX - 1);
	checker_init(consumer, rig->log, rig->page_bytes, NULL);
	if (consumer_count++ % 2)
		checker_deliver_late(consumer, consumer_count);
	return consumer;
}

static struct checker_block *block_of(struct checker *consumer, const uint8_t *memory)
{
	for (unsigned int i = 0; i < consumer->block_count; i++)
		if (consumer->blocks[i].memory == memory)
			return &consumer->blocks[i];
	return NULL;
}

void consumer_watch(struct checker *consumer, const struct rig_slot *slot)
{
	const struct dl_slot mapped = rig_slot_description(slot, 0, 0);

	if (!block_of(consumer, slot->memory))
		checker_add(consumer, slot->memory, slot->bytes);
	checker_map(consumer, &mapped);
}

struct checker *consumer_of_all(struct rig *rig)
{
	struct checker *consumer = consumer_new(rig);

	for (unsigned int i = 0; i < rig->slot_count; i++)
		consumer_watch(consumer, &rig->slots[i]);
	return consumer;
}

/* Pages of removed slots that are to be sent: the rig's checker has them from the words. */
static void copy_kept(struct checker *consumer, const struct rig_slot *slot)
{
	struct checker_block *block = block_of(consumer, slot->memory);
	uint64_t words = (slot->bytes / consumer->page_bytes + 63) / 64;

	if (block)
		memcpy(block->kept, slot->block->kept, words * sizeof(block->kept[0]));
}

void consumers_set(struct rig *rig, const struct rig_slot *slot, uint32_t flags)
{
	const struct dl_slot mapped = rig_slot_description(slot, flags, 0);

	assert_int_equal(rig_slot_set(rig, slot, flags, 0), 0);
	for (unsigned int i = 0; i < consumer_count; i++) {
		if (!block_of(&consumers[i], slot->memory))
			continue;
		checker_map(&consumers[i], &mapped);
		copy_kept(&consumers[i], slot);
	}
}

void consumers_remove(struct rig *rig, const struct rig_slot *slot, uint32_t flags)
{
	assert_int_equal(checker_slot_remove(&rig->checker, slot->slot, flags), 0);
	for (unsigned int i = 0; i < consumer_count; i++) {
		checker_unmap(&consumers[i], slot->slot);
		copy_kept(&consumers[i], slot);
	}
}

uint64_t consumer_pass(struct checker *consumer, unsigned int readers)
{
	uint64_t pending_bytes;

	assert_int_equal(dl_harvest(consumer->cursor, 0, &pending_bytes), 0);
	assert_int_equal(checker_finish_pass(consumer, readers), 0);
	return pending_bytes / consumer->page_bytes;
}

uint64_t consumer_measure(struct checker *consumer)
{
	uint64_t pending_bytes;

	assert_int_equal(checker_harvest(consumer, 0, &pending_bytes), 0);
	return pending_bytes / consumer->page_bytes;
}

void consumer_finish(struct checker *consumer)
{
	assert_int_equal(checker_last_pass(consumer, 1), 0);
	checker_expect_equal(consumer);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Adds the pages of an extent, without going over the room. */
static unsigned int add_pages(const struct checker *consumer, const struct dl_extent *extent,
			      uint64_t *gpas, unsigned int room)
{
	unsigned int n = 0;

	for (uint64_t at = 0; at < extent->bytes && n < room; at += consumer->page_bytes)
		gpas[n++] = (uint64_t)(extent->slot >> 16) << 60 | (extent->gpa + at);
	return n;
}

unsigned int consumer_pages(struct checker *consumer, uint64_t *gpas, unsigned int room)
{
	struct dl_extent extents[CHECKER_MAX_RUNS];
	unsigned int count = 0;
	int n;

	assert_int_equal(dl_harvest(consumer->cursor, 0, NULL), 0);
	while ((n = dl_cursor_read(consumer->cursor, extents, CHECKER_MAX_RUNS)) > 0) {
		for (int i = 0; i < n; i++) {
			assert_true(checker_copy_run(consumer, &extents[i]));
			count += add_pages(consumer, &extents[i], gpas + count, room - count);
		}
		assert_int_equal(dl_cursor_ack(consumer->cursor, extents, (uint32_t)n), 0);
	}
	assert_int_equal(n, 0);
	checker_end(consumer, 0);
	qsort(gpas, count, sizeof(gpas[0]), by_value);
	for (unsigned int i = 1; i < count; i++)
		assert_int_not_equal(gpas[i], gpas[i - 1]);
	return count;
}

void consumer_expect(struct checker *consumer, const struct rig_range *range)
{
	uint64_t first = range->slot->gpa + range->first_page * consumer->page_bytes;
	uint64_t *gpas = calloc(range->pages + 1, sizeof(*gpas));
	unsigned int count;

	assert_non_null(gpas);
	count = consumer_pages(consumer, gpas, (unsigned int)range->pages + 1);
	if (count != range->pages)
		fail_msg("%u pages or more, expected %" PRIu64, count, range->pages);
	for (uint64_t i = 0; i < count; i++)
		assert_int_equal(gpas[i], (uint64_t)(range->slot->slot >> 16) << 60 |
						  (first + i * consumer->page_bytes));
	free(gpas);
}

void consumers_free(void)
{
	while (consumer_count)
		checker_free(&consumers[--consumer_count]);
}
