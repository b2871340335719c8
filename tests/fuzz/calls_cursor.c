/* SPDX-License-Identifier: MIT */
/* For fuzz_calls.c: the calls on the cursor. */
#include "calls.h"

#include <errno.h>
#include <limits.h>

#define HARVEST_FLAGS (uint32_t)(DL_HARVEST_PAUSED | DL_HARVEST_ALL)
#define TAKE_FLAGS    (uint32_t)(DL_TAKE_PAUSED | DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR | DL_TAKE_LE)

/* A second consumer comes and goes: for the first one that changes nothing. */
static void visit(struct world *w, const struct dl_cursor_options *options)
{
	struct dl_cursor *visitor;
	int r = dl_cursor_new(w->log, options, &visitor);

	trace("visit %u: %d\n", options->flags, r);
	expect(!r, "%d", r);
	if (input_u8(&w->in) & 1)
		expect(!dl_harvest(visitor, DL_HARVEST_ALL, NULL), "harvest");
	dl_cursor_free(visitor);
}

static void begin_log(struct world *w, bool clean)
{
	memset(w->excused, true, sizeof(w->excused));
	for (unsigned int i = 0; i < w->slot_count; i++) {
		if (w->slots[i].flags & DL_SLOT_NO_LOG)
			continue;
		if (clean)
			world_equalize(w, &w->slots[i]);
		else
			world_excuse(w, &w->slots[i], false);
	}
	if (!clean)
		memset(w->copy, 0xff, sizeof(w->copy));
}

void cursor_new(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	/* Here the cursor covers all slots; the other flags are for the unit tests. */
	struct dl_cursor_options o = {
		.size = sizeof(o),
		.flags = how < 240 ? how & DL_CURSOR_CLEAN : (uint32_t)input_wild(&w->in) | 1,
		.coalesce_bytes = (uint64_t)(how >> 2 & 3) * w->page_bytes,
		.max_extent_bytes = (uint64_t)(how >> 4 & 7) * w->page_bytes,
	};
	struct snapshot before;
	int r;

	if (o.flags & 1) {
		struct dl_cursor *none;

		world_snapshot(w, &before);
		r = dl_cursor_new(w->log, &o, &none);
		expect(r == -EINVAL && !none, "%d", r);
		world_expect_same(w, &before);
		return;
	}
	if (w->cursor) {
		visit(w, &o);
		return;
	}
	r = dl_cursor_new(w->log, &o, &w->cursor);
	trace("new cursor %u: %d\n", o.flags, r);
	expect(!r, "%d", r);
	w->coalesces = o.coalesce_bytes;
	begin_log(w, o.flags & DL_CURSOR_CLEAN);
}

void cursor_free(struct world *w)
{
	dl_cursor_free(w->cursor);
	trace("free\n");
	w->cursor = NULL;
	w->plan.works = false;
	world_forget_pass(w);
	memset(w->excused, true, sizeof(w->excused));
}

void cursor_harvest(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	uint32_t flags = how < 240 ? how & HARVEST_FLAGS : (uint32_t)input_wild(&w->in);
	uint64_t bytes = 1;
	int expected = 0, r;

	if (!w->cursor || flags & ~HARVEST_FLAGS)
		expected = -EINVAL;
	else if (w->in_pass)
		expected = -EBUSY;
	if (flags & DL_HARVEST_PAUSED)
		world_stop_vcpus(w);
	r = dl_harvest(w->cursor, flags, how & 4 ? &bytes : NULL);
	trace("harvest %u: %d\n", flags, r);
	expect(r == expected, "%d, expected %d", r, expected);
	if (r)
		return;
	w->in_pass = true;
	expect(!(how & 4) || !(bytes % w->page_bytes), "%llu bytes are pending, no whole pages",
	       (unsigned long long)bytes);
}

void cursor_read(struct world *w)
{
	static struct dl_extent runs[8];
	uint8_t how = input_u8(&w->in);
	uint32_t room = MAX_HANDED - w->handed_count, most = how & 7;
	int n;

	if (how > 250)
		expect(dl_cursor_read(w->cursor, runs, (uint32_t)INT_MAX + how) == -EINVAL, "read");
	if (most > room)
		return;
	n = dl_cursor_read(w->cursor, runs, most);
	trace("read %u: %d\n", most, n);
	if (!w->cursor || !most) {
		expect(n == -EINVAL, "%d", n);
		return;
	}
	if (!w->in_pass) {
		expect(n == -EBUSY, "%d", n);
		return;
	}
	expect(n >= 0 && n <= (int)most, "%d", n);
	for (int i = 0; i < n; i++) {
		const struct dl_extent *run = &runs[i];

		world_copy_run(w, run);
		w->handed[w->handed_count++] =
			(struct range){ run->slot,	   false,      run->ticket,
					run->offset_bytes, run->bytes, run->hva };
	}
}

static const struct range *range_with(const struct range *ranges, unsigned int count,
				      const struct dl_extent *run, uint64_t offset)
{
	for (unsigned int i = 0; i < count; i++)
		if (ranges[i].ticket == run->ticket &&
		    offset - ranges[i].offset_bytes < ranges[i].bytes)
			return &ranges[i];
	return NULL;
}

/* A range that was handed out with the same ticket, or NULL. */
static const struct range *range_of(const struct world *w, uint64_t ticket)
{
	for (unsigned int i = 0; i < w->handed_count; i++)
		if (w->handed[i].ticket == ticket)
			return &w->handed[i];
	return NULL;
}

/* True if the whole run was handed out, and no page of it acknowledged yet. */
static bool may_ack(const struct world *w, const struct dl_extent *run)
{
	uint64_t page_bytes = w->page_bytes;

	if (!run->bytes || run->bytes % page_bytes || run->offset_bytes % page_bytes)
		return false;
	for (uint64_t at = 0; at < run->bytes; at += page_bytes) {
		if (!range_with(w->handed, w->handed_count, run, run->offset_bytes + at) ||
		    range_with(w->acked, w->acked_count, run, run->offset_bytes + at))
			return false;
	}
	return true;
}

static void spoil_run(struct world *w, struct dl_extent *run)
{
	switch (input_u8(&w->in) % 8) {
	case 0: /* not looked at */
		run->slot = (uint32_t)input_wild(&w->in);
		break;
	case 1:
		run->ticket = input_wild(&w->in);
		break;
	case 2:
		run->offset_bytes = input_wild(&w->in);
		break;
	case 3:
		run->bytes = input_wild(&w->in);
		break;
	case 4:
		run->offset_bytes += (uint64_t)input_u8(&w->in) * w->page_bytes;
		break;
	case 5:
		run->bytes = (1 + (uint64_t)input_u8(&w->in)) * w->page_bytes;
		break;
	case 6:
		run->gpa = input_wild(&w->in);
		run->hva = input_wild(&w->in);
		break;
	}
}

/* The cursor accepts pages that it has read ahead; the caller then loses them. */
static void excuse_unseen(struct world *w, const struct dl_extent *run)
{
	const struct range *any = range_of(w, run->ticket);

	for (uint64_t at = 0; at < run->bytes; at += w->page_bytes) {
		uint64_t hva = any->hva - any->offset_bytes + run->offset_bytes + at;

		if (world_in_arena(w, hva))
			w->excused[world_arena_page(w, hva)] = true;
	}
}

void cursor_ack(struct world *w)
{
	uint8_t which = input_u8(&w->in), how = input_u8(&w->in);
	const struct range *of;
	struct dl_extent run = { 0 };
	int r;

	if (w->handed_count) {
		const struct range *from = &w->handed[which % w->handed_count];

		run = (struct dl_extent){ .slot = from->slot,
					  .ticket = from->ticket,
					  .offset_bytes = from->offset_bytes,
					  .bytes = from->bytes,
					  .hva = from->hva };
	}
	for (int i = how % 4; i > 1; i--)
		spoil_run(w, &run);
	if (w->acked_count == MAX_HANDED || (run.bytes >> 28 && !(run.bytes % w->page_bytes)))
		return;
	r = dl_cursor_ack(w->cursor, &run, 1);
	trace("ack slot %#x %#llx: %d\n", run.slot, (unsigned long long)run.offset_bytes, r);
	expect(!r || r == -EINVAL, "%d", r);
	expect(w->cursor || r, "%d", r);
	of = range_of(w, run.ticket);
	/* Another ticket is of another cursor, or of an earlier pass; or its slot has changed. */
	if (!of || of->gone || r == -EINVAL) {
		expect(!of || of->gone || !may_ack(w, &run), "%d", r);
		return;
	}
	if (!may_ack(w, &run))
		excuse_unseen(w, &run);
	w->acked[w->acked_count++] =
		(struct range){ run.slot, false, run.ticket, run.offset_bytes, run.bytes, 0 };
}

void cursor_end(struct world *w)
{
	int r = dl_cursor_end(w->cursor, 0);

	expect(r == (w->cursor ? 0 : -EINVAL), "%d", r);
	world_forget_pass(w);
}

/* Sends what a take gave: after the clear, if that was left out. Returns the pages. */
static uint64_t send_taken(struct world *w, const struct dl_slot *slot, uint32_t flags,
			   const uint64_t *words)
{
	uint64_t pages = 0;

	if (flags & DL_TAKE_NO_CLEAR)
		expect(!dl_slot_clear(w->log, slot->slot, 0, slot->bytes), "clear");
	for (uint64_t page = 0; page < MAX_SLOT_PAGES; page++) {
		const struct dl_extent run = { .hva = slot->hva + page * w->page_bytes,
					       .bytes = w->page_bytes };

		if (!(words[page / 64] >> page % 64 & 1))
			continue;
		expect(page * w->page_bytes < slot->bytes, "a page past the end");
		world_copy_run(w, &run);
		pages++;
	}
	return pages;
}

void cursor_take(struct world *w)
{
	static uint64_t words[MAX_SLOT_PAGES / 64];
	uint8_t how = input_u8(&w->in), which = input_u8(&w->in);
	uint32_t flags = how < 240 ? how & TAKE_FLAGS : (uint32_t)input_wild(&w->in),
		 number = which;
	uint64_t n_words = MAX_SLOT_PAGES / 64, taken_bytes = 1;
	const struct dl_slot *slot;
	int expected = 0, r;

	if (which < 240 && w->slot_count)
		number = w->slots[which % w->slot_count].slot;
	slot = world_slot(w, number);
	if (how & 32 && slot)
		n_words = (slot->bytes / w->page_bytes - 1) / 64;
	if (!w->cursor || flags & ~TAKE_FLAGS || (flags & 3) == DL_TAKE_PAUSED)
		expected = -EINVAL;
	else if (!slot)
		expected = -ENOENT;
	else if (how & 32)
		expected = -EINVAL;
	if (flags & DL_TAKE_PAUSED)
		world_stop_vcpus(w);
	memset(words, 0, sizeof(words));
	r = dl_cursor_take(w->cursor, number, flags, words, n_words, &taken_bytes);
	trace("take %u of slot %#x: %d\n", flags, number, r);
	expect(r == expected, "%d, expected %d", r, expected);
	if (!r)
		expect(send_taken(w, slot, flags, words) * w->page_bytes == taken_bytes,
		       "%llu bytes", (unsigned long long)taken_bytes);
}
