/* SPDX-License-Identifier: MIT */
#include "sender.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int check(int r, const char *what)
{
	if (r >= 0)
		return r;
	fprintf(stderr, "%s: %s\n", what, strerror(-r));
	exit(1);
}

void sender_init(struct sender *sender, struct kernel *kernel, struct dl_cursor *cursor,
		 bool takes_all)
{
	*sender = (struct sender){ .kernel = kernel, .cursor = cursor, .takes_all = takes_all };
	if (!takes_all)
		return;
	sender->taken = calloc(kernel->pages / 64, sizeof(*sender->taken));
	check(sender->taken ? 0 : -12, "memory for a bitmap");
}

void sender_fini(struct sender *sender)
{
	free(sender->taken);
}

static uint64_t page_of(const struct dl_extent *extent)
{
	return extent->gpa / KERNEL_PAGE_BYTES;
}

/* Returns what the page costs. */
static double send_page(struct sender *sender, uint64_t page)
{
	double cost = kernel_is_zero(sender->kernel, page) ? SENDER_ZERO_PAGE : 1;

	kernel_send(sender->kernel, page);
	sender->sent_pages++;
	sender->wire_pages += cost;
	return cost;
}

/* Acknowledges the extents that were sent whole. */
static void acknowledge(struct sender *sender)
{
	uint32_t n = sender->at - sender->acknowledged;

	if (n)
		check(dl_cursor_ack(sender->cursor, &sender->extents[sender->acknowledged], n),
		      "dl_cursor_ack");
	sender->acknowledged = sender->at;
}

static void acknowledge_part(struct sender *sender, struct dl_extent *extent, uint64_t pages)
{
	struct dl_extent part = *extent;

	part.bytes = pages * KERNEL_PAGE_BYTES;
	check(dl_cursor_ack(sender->cursor, &part, 1), "dl_cursor_ack");
	extent->gpa += part.bytes;
	extent->offset_bytes += part.bytes;
	extent->bytes -= part.bytes;
}

/* Sends of the extent what there is room for. */
static void send_extent(struct sender *sender, struct dl_extent *extent, double *room)
{
	uint64_t page = page_of(extent), pages = extent->bytes / KERNEL_PAGE_BYTES, sent = 0;

	while (sent<pages && * room> 0)
		*room -= send_page(sender, page + sent++);
	if (sent < pages)
		acknowledge_part(sender, extent, sent);
	else
		sender->at++;
}

static void begin_pass(struct sender *sender)
{
	check(dl_harvest(sender->cursor, 0, NULL), "dl_harvest");
	sender->in_pass = true;
	sender->count = sender->at = sender->acknowledged = 0;
}

static void end_pass(struct sender *sender)
{
	check(dl_cursor_end(sender->cursor, 0), "dl_cursor_end");
	sender->in_pass = false;
	sender->passes++;
}

static bool read_more(struct sender *sender)
{
	sender->count = (uint32_t)check(
		dl_cursor_read(sender->cursor, sender->extents, SENDER_EXTENTS), "dl_cursor_read");
	sender->at = sender->acknowledged = 0;
	return sender->count;
}

static bool send_live(struct sender *sender, double *room)
{
	if (!sender->in_pass)
		begin_pass(sender);
	for (; *room > 0; send_extent(sender, &sender->extents[sender->at], room)) {
		if (sender->at < sender->count)
			continue;
		acknowledge(sender);
		if (!read_more(sender)) {
			end_pass(sender);
			return true;
		}
	}
	acknowledge(sender);
	return false;
}

static void take(struct sender *sender, const struct dl_extent *extent)
{
	uint64_t first = page_of(extent), pages = extent->bytes / KERNEL_PAGE_BYTES;

	for (uint64_t page = first; page < first + pages; page++)
		sender->taken[page / 64] |= UINT64_C(1) << page % 64;
	sender->taken_pages += pages;
}

static void take_all(struct sender *sender)
{
	begin_pass(sender);
	while (read_more(sender)) {
		for (uint32_t i = 0; i < sender->count; i++)
			take(sender, &sender->extents[i]);
		check(dl_cursor_ack(sender->cursor, sender->extents, sender->count),
		      "dl_cursor_ack");
	}
	check(dl_cursor_end(sender->cursor, 0), "dl_cursor_end");
	sender->taken_word = 0;
}

static bool send_taken(struct sender *sender, double *room)
{
	if (!sender->in_pass)
		take_all(sender);
	sender->in_pass = true;
	while (*room > 0 && sender->taken_pages) {
		uint64_t *word = &sender->taken[sender->taken_word], bits = *word;

		if (!bits) {
			sender->taken_word++;
			continue;
		}
		*word = bits & (bits - 1);
		sender->taken_pages--;
		*room -= send_page(sender,
				   sender->taken_word * 64 + (uint64_t)__builtin_ctzll(bits));
	}
	if (sender->taken_pages)
		return false;
	sender->in_pass = false;
	sender->passes++;
	return true;
}

bool sender_send(struct sender *sender, double *room)
{
	return sender->takes_all ? send_taken(sender, room) : send_live(sender, room);
}

double sender_finish(struct sender *sender)
{
	const double all = 1e18;
	double before = sender->wire_pages, room = all;
	uint64_t pending;

	if (sender->in_pass)
		sender_send(sender, &room);
	do {
		check(dl_harvest(sender->cursor, DL_HARVEST_PAUSED, &pending), "dl_harvest");
		sender->in_pass = true;
		sender->count = sender->at = sender->acknowledged = 0;
		room = all;
		send_live(sender, &room);
	} while (pending);
	return sender->wire_pages - before;
}

uint64_t sender_unsent_pages(const struct sender *sender)
{
	return sender->taken_pages;
}
