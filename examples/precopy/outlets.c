/* SPDX-License-Identifier: MIT */
#include "outlets.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Few, so that several connections share a short pass. */
enum { EXTENTS_PER_READ = 16 };

void outlets_init(struct outlets *outlets, struct wire *control, const int *fds, unsigned int n,
		  const struct sender *like)
{
	memset(outlets, 0, sizeof(*outlets));
	outlets->n = n;
	for (unsigned int i = 0; i < n; i++) {
		struct outlet *outlet = &outlets->outlet[i];

		outlet->outlets = outlets;
		outlet->wire = i ? &outlet->own_wire : control;
		if (i) {
			wire_init(outlet->wire, fds[i]);
			outlet->wire->cancelled = like->cancelled;
		}
		outlet->sender = *like;
		outlet->sender.wire = outlet->wire;
		outlet->sender.bandwidth_bytes_per_s = (like->bandwidth_bytes_per_s + n - 1) / n;
		outlet->sender.progress = &outlets->progress;
		outlet->sender.shows_progress = !i;
	}
}

void outlets_close(struct outlets *outlets)
{
	for (unsigned int i = 1; i < outlets->n; i++)
		close(outlets->outlet[i].wire->fd);
}

void outlets_set_plan(struct outlets *outlets, struct dl_plan *plan)
{
	for (unsigned int i = 0; i < outlets->n; i++)
		outlets->outlet[i].sender.plan = plan;
}

/* The reason of a further connection becomes that of the migration. */
static int pass_on_failure(struct outlets *outlets, unsigned int i, int r)
{
	struct outlet *outlet = &outlets->outlet[i];

	if (r && i && !*outlets->outlet[0].wire->why)
		wire_fail(outlets->outlet[0].wire, r, "channel %u: %.200s", i, outlet->wire->why);
	return r;
}

int outlets_announce(struct outlets *outlets, uint64_t token)
{
	int r = 0;

	for (unsigned int i = 1; i < outlets->n && !r; i++)
		r = pass_on_failure(
			outlets, i,
			wire_send(outlets->outlet[i].wire, WIRE_CHANNEL, 0, &token, sizeof(token)));
	return r;
}

int outlets_finish(struct outlets *outlets)
{
	int r = 0;

	for (unsigned int i = 1; i < outlets->n && !r; i++)
		r = pass_on_failure(
			outlets, i,
			wire_send(outlets->outlet[i].wire, WIRE_CHANNEL_END, 0, NULL, 0));
	return r;
}

/* Each is acknowledged at once, so that what is left is known while the pass goes on. */
static int send_extents(struct outlet *outlet, const struct dl_extent *extents, int n)
{
	struct outlets *outlets = outlet->outlets;
	int r = 0;

	for (int i = 0; !r && i < n && !atomic_load(&outlets->enough); i++) {
		r = sender_send_extents(&outlet->sender, &extents[i], 1);
		if (!r && (r = dl_cursor_ack(outlets->cursor, &extents[i], 1)))
			outlet->failed_call = "dl_cursor_ack";
	}
	return r;
}

/* This connection's part of the pass: whatever it reads from the cursor. */
static int send_part(struct outlet *outlet)
{
	struct outlets *outlets = outlet->outlets;
	struct dl_extent extents[EXTENTS_PER_READ];
	int n = 0, r = 0;

	while (!r && !atomic_load(&outlets->failed) && !atomic_load(&outlets->enough) &&
	       (n = dl_cursor_read(outlets->cursor, extents, EXTENTS_PER_READ)) > 0)
		r = send_extents(outlet, extents, n);
	if (n < 0) {
		r = n;
		outlet->failed_call = "dl_cursor_read";
	}
	return r ? r : sender_flush(&outlet->sender);
}

static void *outlet_main(void *opaque)
{
	struct outlet *outlet = opaque;

	outlet->failed_call = NULL;
	outlet->result = send_part(outlet);
	if (outlet->result)
		atomic_store(&outlet->outlets->failed, true);
	return NULL;
}

static void begin(struct outlets *outlets, const struct pass_row *row)
{
	struct activity *activity = outlets->outlet[0].sender.activity;

	activity->pass = outlets->outlet[0].sender.report->row_count;
	activity->pass_bytes = row->dirty_bytes;
	activity->pass_sent_bytes = 0;
	outlets->progress.dirty_bytes = row->dirty_bytes;
	outlets->progress.sent_pages = outlets->progress.wire_bytes = 0;
	for (unsigned int i = 0; i < outlets->n; i++) {
		struct outlet *outlet = &outlets->outlet[i];

		memset(&outlet->row, 0, sizeof(outlet->row));
		outlet->row.final = row->final;
		sender_begin_pass(&outlet->sender, &outlet->row);
	}
}

static void add_up(const struct outlets *outlets, struct pass_row *row)
{
	uint64_t ns = 0;

	for (unsigned int i = 0; i < outlets->n; i++) {
		const struct pass_row *part = &outlets->outlet[i].row;

		row->sent_pages += part->sent_pages;
		row->zero_pages += part->zero_pages;
		row->wire_bytes += part->wire_bytes;
		ns = part->ns > ns ? part->ns : ns;
	}
	row->ns += ns;
}

int outlets_send_pass(struct outlets *outlets, struct dl_cursor *cursor, struct pass_row *row,
		      const char **failed_call)
{
	int result = 0;

	outlets->cursor = cursor;
	begin(outlets, row);
	/* Without a thread the others send its part too. */
	for (unsigned int i = 1; i < outlets->n; i++)
		outlets->outlet[i].has_thread = !pthread_create(&outlets->outlet[i].thread, NULL,
								outlet_main, &outlets->outlet[i]);
	outlet_main(&outlets->outlet[0]);
	for (unsigned int i = 0; i < outlets->n; i++) {
		struct outlet *outlet = &outlets->outlet[i];

		if (i && outlet->has_thread)
			pthread_join(outlet->thread, NULL);
		else if (i)
			outlet->result = 0;
		if (!outlet->result || result)
			continue;
		*failed_call = outlet->failed_call;
		result = pass_on_failure(outlets, i, outlet->result);
	}
	add_up(outlets, row);
	return result;
}
