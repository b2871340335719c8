/* SPDX-License-Identifier: MIT */
/* For fuzz_calls.c: watches, what the VMM writes through them, and their audits. */
#include "calls.h"

#include <errno.h>

bool world_records(const struct world *w)
{
	bool records = w->cursor;

	for (unsigned int i = 0; i < w->watch_count; i++)
		records |= w->watches[i].audit;
	return records;
}

static struct watch *watch_of(struct world *w, uint32_t slot)
{
	for (unsigned int i = 0; i < w->watch_count; i++)
		if (w->watches[i].slot == slot)
			return &w->watches[i];
	return NULL;
}

void watches_forget(struct world *w, uint32_t slot)
{
	struct watch *watch = watch_of(w, slot);

	if (watch)
		*watch = w->watches[--w->watch_count];
}

static bool overlap(uint64_t one, uint64_t one_bytes, uint64_t other, uint64_t other_bytes)
{
	return one < other + other_bytes && other < one + one_bytes;
}

static bool overlaps_slot(const struct world *w, uint64_t alias, uint64_t bytes)
{
	for (unsigned int i = 0; i < w->slot_count; i++)
		if (overlap(alias, bytes, w->slots[i].hva, w->slots[i].bytes))
			return true;
	return false;
}

static bool overlaps_watch(const struct world *w, uint64_t alias, uint64_t bytes)
{
	for (unsigned int i = 0; i < w->watch_count; i++)
		if (overlap(alias, bytes, w->watches[i].start, w->watches[i].bytes))
			return true;
	return false;
}

static int expected_watch(struct world *w, uint32_t number, uint64_t alias, uint32_t flags)
{
	const struct dl_slot *slot = world_slot(w, number);
	const struct watch *watch = watch_of(w, number);

	if (flags & ~(uint32_t)DL_WATCH_AUDIT || (flags && !alias))
		return -EINVAL;
	if (!slot)
		return -ENOENT;
	if (!alias)
		return 0;
	if (slot->flags & DL_SLOT_NO_LOG || alias % w->page_bytes || alias + slot->bytes < alias ||
	    overlaps_slot(w, alias, slot->bytes))
		return -EINVAL;
	if (watch)
		return watch->start == alias ? 0 : -EBUSY;
	if (overlaps_watch(w, alias, slot->bytes))
		return -EEXIST;
	return w->kernel.has && !(w->kernel.has & MODEL_HAS_WATCH) ? -EOPNOTSUPP : 0;
}

static void apply(struct world *w, const struct dl_slot *slot, uint64_t alias, uint32_t flags)
{
	struct watch *watch = watch_of(w, slot->slot);

	if (!alias) {
		watches_forget(w, slot->slot);
		return;
	}
	if (!watch)
		watch = &w->watches[w->watch_count++];
	*watch = (struct watch){ slot->slot, flags & DL_WATCH_AUDIT, alias, slot->bytes };
}

/* Mostly where the slot's memory is, in the second mapping of all of it. */
static uint64_t choose_alias(const struct world *w, const struct dl_slot *slot, uint8_t how)
{
	uint64_t hva = slot ? slot->hva : (uintptr_t)w->arena;

	switch (how % 16) {
	case 0 ... 2:
		return 0;
	case 3:
		return hva;
	case 4:
		return (uintptr_t)w->alias + 8;
	case 5:
		return -(uint64_t)w->page_bytes;
	default:
		return (uintptr_t)w->alias + (hva - (uintptr_t)w->arena);
	}
}

static void set_watch(struct world *w, uint8_t how)
{
	struct input *in = &w->in;
	uint8_t which = input_u8(in);
	const struct dl_slot *slot = w->slot_count ? &w->slots[which % w->slot_count] : NULL;
	uint32_t number = slot && which < 240 ? slot->slot : which;
	uint32_t flags = how & 64 ? DL_WATCH_AUDIT : 0;
	uint64_t alias = choose_alias(w, slot, how);
	struct snapshot before;
	int expected, r;

	if (how > 250)
		flags = (uint32_t)input_wild(in);
	expected = expected_watch(w, number, alias, flags);
	if (expected)
		world_snapshot(w, &before);
	r = dl_slot_watch(w->log, number, (void *)(uintptr_t)alias, flags);
	trace("watch slot %#x, flags %u, at %#llx: %d\n", number, flags, (unsigned long long)alias,
	      r);
	expect(r == expected, "%d, expected %d", r, expected);
	if (r)
		world_expect_same(w, &before);
	else
		apply(w, world_slot(w, number), alias, flags);
}

/* The VMM writes through an alias, and does not mark it. */
static void device_writes(struct world *w)
{
	uint8_t which = input_u8(&w->in), first = input_u8(&w->in), count = input_u8(&w->in);
	const struct watch *watch;
	uint64_t pages;

	if (!w->watch_count)
		return;
	watch = &w->watches[which % w->watch_count];
	pages = watch->bytes / w->page_bytes;
	for (uint32_t i = 0; i <= count % 16u; i++) {
		uint64_t at = watch->start + (first + i) % pages * w->page_bytes;
		uint64_t hva = at - (uintptr_t)w->alias + (uintptr_t)w->arena;

		*world_memory(w, hva) = ++w->value;
		model_alias_wrote(w->model, (void *)(uintptr_t)at, 8);
	}
	trace("  the VMM wrote to slot %#x\n", watch->slot);
}

/* Checks that an audit shows only audited slots, and whole pages. */
static void read_audit(struct world *w, struct dl_cursor *audit)
{
	struct dl_extent extents[4];
	int n;

	while ((n = dl_cursor_read(audit, extents, 4)) > 0) {
		for (int i = 0; i < n; i++) {
			const struct watch *watch = watch_of(w, extents[i].slot);

			expect(watch && watch->audit, "slot %#x is not audited", extents[i].slot);
			expect(extents[i].bytes && extents[i].offset_bytes < watch->bytes &&
				       extents[i].bytes <= watch->bytes - extents[i].offset_bytes,
			       "missed pages outside of the slot");
		}
		expect(!dl_cursor_ack(audit, extents, (uint32_t)n), "ack");
	}
	expect(!n, "%d", n);
}

static void audit(struct world *w, uint8_t how)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .flags = DL_CURSOR_MISSED };
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_cursor *cursor;

	expect(!dl_cursor_new(w->log, &options, &cursor), "an audit");
	for (int i = 0; i < 1 + how % 3; i++) {
		expect(!dl_harvest(cursor, 0, NULL), "harvest");
		if (how & 64)
			read_audit(w, cursor);
		expect(!dl_cursor_end(cursor, 0), "end");
	}
	dl_cursor_free(cursor);
	expect(!dl_log_stats(w->log, &stats) && stats.missed_bytes <= stats.watched_bytes,
	       "more was missed than found");
	trace("audit: %llu bytes missed\n", (unsigned long long)stats.missed_bytes);
}

void watches(struct world *w)
{
	uint8_t how = input_u8(&w->in);

	if (how % 4 == 0)
		audit(w, how);
	else if (how % 4 == 1)
		set_watch(w, (uint8_t)(input_u8(&w->in) | (how & 64)));
	else
		device_writes(w);
}
