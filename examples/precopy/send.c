/* SPDX-License-Identifier: MIT */
#include "send.h"
#include "../clock.h"
#include "pages.h"

#include <errno.h>

#define MIN_SLEEP_NS (3 * NS_PER_MS)

void sender_begin_pass(struct sender *sender, struct pass_row *row)
{
	sender->row = row;
	sender->start_ns = clock_ns();
	sender->start_bytes = sender->wire->sent_bytes;
}

static void update_row(struct sender *sender)
{
	sender->row->ns = clock_ns() - sender->start_ns;
	sender->row->wire_bytes = sender->wire->sent_bytes - sender->start_bytes;
}

/* Sleeps until the bytes sent in this pass are within the bandwidth limit. */
static void throttle(struct sender *sender)
{
	struct timespec due;
	uint64_t due_ns;

	if (!sender->bandwidth_bytes_per_s)
		return;
	due_ns = sender->start_ns + (uint64_t)((double)sender->row->wire_bytes * NS_PER_S /
					       (double)sender->bandwidth_bytes_per_s);
	/* Skip short sleeps: falling asleep and waking up take time too. */
	if (due_ns < clock_ns() + MIN_SLEEP_NS)
		return;
	due = clock_timespec(due_ns);
	while (due_ns > clock_ns() && !*sender->cancelled)
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
}

enum page_kind { PAGE_DATA, PAGE_ZERO, PAGE_SKIPPED };

static enum page_kind page_kind(const struct sender *sender, uint64_t offset_bytes)
{
	uint32_t page_bytes = sender->machine->layout.page_bytes;

	if (saboteur_skips_page(sender->saboteur, offset_bytes, sender->row->final))
		return PAGE_SKIPPED;
	if (sender->zero_pages &&
	    page_is_zero(saboteur_contents(sender->saboteur, offset_bytes), page_bytes))
		return PAGE_ZERO;
	return PAGE_DATA;
}

/*
 * Sends adjacent pages of one kind as one frame. The guest may keep writing: pages that change now
 * become dirty again.
 */
static int send_frame(struct sender *sender, enum page_kind kind, uint64_t offset_bytes,
		      uint64_t bytes)
{
	uint64_t pages = bytes / sender->machine->layout.page_bytes;
	uint64_t wire_bytes = sender->wire->sent_bytes, start_ns = clock_ns();
	int r;

	if (kind == PAGE_SKIPPED)
		return 0;
	if (kind == PAGE_ZERO) {
		r = wire_send(sender->wire, WIRE_ZEROS, offset_bytes, &bytes, sizeof(bytes));
		sender->row->zero_pages += pages;
	} else {
		r = wire_send(sender->wire, WIRE_PAGES, offset_bytes,
			      saboteur_contents(sender->saboteur, offset_bytes), bytes);
	}
	if (r)
		return r;
	sender->row->sent_pages += pages;
	sender->progress->sent_pages += pages;
	sender->progress->wire_bytes += sender->wire->sent_bytes - wire_bytes;
	heat_note(&sender->activity->heat, sender->extent->slot,
		  offset_bytes - sender->extent->cookie, bytes);
	sender->activity->sent_pages += pages;
	sender->activity->pass_sent_bytes += bytes;
	sender->activity->wire_bytes += sender->wire->sent_bytes - wire_bytes;
	update_row(sender);
	throttle(sender);
	/* Pages that are sent as zeros say nothing about the wire. */
	if (sender->plan && kind == PAGE_DATA)
		r = dl_plan_sent(sender->plan, bytes, clock_ns() - start_ns);
	if (sender->shows_progress)
		report_progress(sender->report, sender->progress, sender->row->ns);
	return r;
}

static int send_extent(struct sender *sender, uint64_t offset_bytes, uint64_t bytes)
{
	uint32_t page_bytes = sender->machine->layout.page_bytes;
	uint64_t start = offset_bytes, at = offset_bytes, end = offset_bytes + bytes;
	enum page_kind kind = PAGE_SKIPPED, next;
	int r;

	for (; at < end; at += page_bytes) {
		next = page_kind(sender, at);
		if (next == kind && (kind != PAGE_DATA || at - start < WIRE_MAX_BYTES))
			continue;
		if (at > start) {
			r = send_frame(sender, kind, start, at - start);
			if (r)
				return r;
		}
		start = at;
		kind = next;
	}
	return end > start ? send_frame(sender, kind, start, end - start) : 0;
}

int sender_send_extents(struct sender *sender, const struct dl_extent *extents, int n_extents)
{
	int i, r = 0;

	for (i = 0; !r && i < n_extents; i++) {
		if (*sender->cancelled)
			return wire_fail(sender->wire, -EINTR, "cancelled");
		sender->extent = &extents[i];
		/* The cookie of a slot is its offset in the host's mapping. */
		r = send_extent(sender, extents[i].cookie + extents[i].offset_bytes,
				extents[i].bytes);
	}
	return r;
}

int sender_flush(struct sender *sender)
{
	int r = wire_send(sender->wire, WIRE_PASS_END, 0, NULL, 0);

	if (!r)
		r = wire_expect(sender->wire, WIRE_PASS_DONE, NULL, 0);
	update_row(sender);
	return r;
}
