/* SPDX-License-Identifier: MIT */
/* Consumers begin and end. */
#include "world.h"

static bool is_unused(const void *opaque)
{
	const struct consumer *consumer = opaque;

	return !consumer->pass_users && !consumer->pass_making && !consumer->takers &&
	       !consumer->planners;
}

bool any_consumer(void)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].cursor)
			return true;
	return false;
}

/* The consumers that want only some slots. */
uint32_t consumers_of_wanted(void)
{
	uint32_t consumers = 0;

	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.plan->wishes[i].flags & DL_CURSOR_WANTED)
			consumers |= 1u << i;
	return consumers;
}

static int make_cursor(struct consumer *consumer, bool clean)
{
	const struct wish *wish = consumer->wish;
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = wish->flags | (clean ? DL_CURSOR_CLEAN : 0),
		.slot = wish->flags & DL_CURSOR_ONE_SLOT ? world.plan->places[wish->place].slot : 0,
		.coalesce_bytes = wish->coalesce_pages * (uint64_t)PAGE_BYTES,
		.max_extent_bytes = wish->max_pages * (uint64_t)PAGE_BYTES,
	};
	struct dl_cursor *cursor;
	int r = dl_cursor_new(world.log, &options, &cursor);

	EXPECT("dl_cursor_new", r);
	consumer->cursor = cursor;
	return r;
}

static void send_everything(uint32_t consumers)
{
	const struct plan *plan = world.plan;

	for (uint32_t b = 0; b < plan->block_count; b++)
		receivers_copy_block(consumers, b, 0, plan->block_pages[b]);
	for (uint32_t p = 0; p < plan->place_count; p++)
		if (layout_gpa(p))
			receivers_copy_place(consumers, &plan->places[p], layout_gpa(p));
}

int consumer_start(struct consumer *consumer, bool clean)
{
	uint32_t me = 1u << consumer->number;
	int r;

	if (consumer->wish->dropped)
		return 0;
	consumer->epoch = ++world.epoch;
	consumer->is_starting = true;
	/* A clean start assumes that all memory is sent. It is copied after the start returns. */
	if (!clean)
		receivers_spoil_all(me);
	consumer->began_at = sim.now;
	r = make_cursor(consumer, clean);
	consumer->epoch = ++world.epoch;
	consumer->is_starting = false;
	if (r)
		return r;
	world.counts.sessions++;
	layout_note_start(consumer);
	consumer->sends_all = clean;
	if (clean)
		send_everything(me);
	consumer->sends_all = false;
	return 0;
}

void consumer_forget(struct consumer *consumer)
{
	struct dl_cursor *cursor = consumer->cursor;

	/* Freeing is a handle's last call. */
	consumer->is_stopping = true;
	sim_wait(is_unused, consumer, "a cursor's users", SIM_SITE("before dl_cursor_free"));
	consumer->cursor = NULL;
	dl_cursor_free(cursor);
	channels_flush(consumer);
	consumer->is_stopping = false;
}

void consumer_stop(struct consumer *consumer)
{
	consumer->epoch = ++world.epoch;
	consumer_forget(consumer);
	consumer->epoch = ++world.epoch;
}
