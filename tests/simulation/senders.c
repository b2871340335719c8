/* SPDX-License-Identifier: MIT */
/* Passes that several senders read at once. */
#include <errno.h>
#include <string.h>

#include "world.h"

enum { MAX_RUNS = 5 };

/* Fate of the runs of one read. */
enum fate {
	ACKED,
	ACKED_IN_PARTS,
	HALF_ACKED, /* the other half is not even sent */
	SENT,
	DROPPED,
};

/* Everything is pending, so what was sent does not count. */
static void begin_full_copy(struct consumer *consumer, uint64_t changes)
{
	/* The covered places are known only if no slot changed meanwhile. */
	for (uint32_t p = 0; p < world.plan->place_count && changes == world.changes; p++)
		if (layout_covers(consumer, p))
			receivers_spoil_place(1u << consumer->number, &world.plan->places[p],
					      layout_gpa(p));
}

/* Sometimes with the guest paused, or for a full copy. */
static int harvest_somehow(struct consumer *consumer)
{
	uint64_t chance = sim_random(&world.chance), changes = world.changes;
	bool paused = !(chance & 7), all = !(chance >> 8 & 15) && !world.changers;
	uint32_t flags = (paused ? DL_HARVEST_PAUSED : 0) | (all ? DL_HARVEST_ALL : 0);
	int r;

	if (paused)
		guest_pause();
	r = dl_harvest(consumer->cursor, flags, NULL);
	if (paused)
		guest_resume();
	/* A display whose slot does not exist. */
	EXPECT("dl_harvest", r, consumer->wish->flags & DL_CURSOR_ONE_SLOT ? -ENOENT : 0);
	if (!r && all)
		begin_full_copy(consumer, changes);
	return r;
}

/* Joins the open pass, or begins one after all channels are flushed. */
static bool join(struct consumer *consumer)
{
	struct promise promise;
	int r;

	if (consumer->pass_open) {
		consumer->pass_users += !consumer->is_taking;
		return !consumer->is_taking;
	}
	if (!consumer->cursor || consumer->is_stopping || consumer->pass_making || !log_enter())
		return false;
	consumer->pass_making = true;
	channels_flush(consumer);
	promise_note(&promise);
	r = harvest_somehow(consumer);
	if (!r)
		promise_check(&promise);
	sender_pass_begins(consumer, !r);
	log_leave();
	return !r;
}

void sender_pass_begins(struct consumer *consumer, bool is_open)
{
	memset(consumer->handed, 0, sizeof(consumer->handed));
	consumer->all_is_sent = true;
	consumer->pass_open = is_open;
	consumer->pass_users = is_open;
	consumer->pass_making = false;
}

void sender_leave(struct consumer *consumer)
{
	uint32_t flags = 0;

	if (consumer->pass_users > 1) {
		consumer->pass_users--;
		return;
	}
	consumer->pass_open = false;
	consumer->pass_making = true;
	if (consumer->all_is_sent && !sim_below(&world.chance, 4))
		flags = DL_END_COMMIT;
	EXPECT("dl_cursor_end", dl_cursor_end(consumer->cursor, flags));
	consumer->pass_making = false;
	consumer->pass_users--;
}

static struct dl_extent first_half(const struct dl_extent *run)
{
	struct dl_extent half = *run;

	half.bytes = (run->bytes / PAGE_BYTES + 1) / 2 * PAGE_BYTES;
	return half;
}

/* In reverse order, each run in one part or in two. */
static void acknowledge_in_parts(const struct consumer *consumer, const struct dl_extent *runs,
				 uint32_t n, bool second_too)
{
	int r = 0;

	while (n-- && !r) {
		struct dl_extent first = first_half(&runs[n]), rest = runs[n];

		rest.bytes -= first.bytes;
		rest.offset_bytes += first.bytes;
		r = dl_cursor_ack(consumer->cursor, &first, 1);
		EXPECT("dl_cursor_ack", r, -ECANCELED);
		if (r || !rest.bytes || !second_too)
			continue;
		r = dl_cursor_ack(consumer->cursor, &rest, 1);
		EXPECT("dl_cursor_ack", r, -ECANCELED);
	}
}

static void send_run(struct consumer *consumer, const struct dl_extent *run,
		     const struct incarnation *it)
{
	uint64_t first = run->offset_bytes / PAGE_BYTES;

	for (uint64_t i = 0; i < run->bytes / PAGE_BYTES; i++)
		channels_send(consumer, it->place, (uint32_t)(first + i),
			      run->gpa / PAGE_BYTES + i);
	throttle_sent(consumer, run->bytes);
}

static enum fate draw_fate(struct pass *pass, bool gives_up)
{
	if (gives_up || (pass->ack_share && !sim_below(&pass->state, pass->ack_share)))
		return HALF_ACKED + sim_below(&pass->state, 3);
	return sim_below(&pass->state, 2) ? ACKED : ACKED_IN_PARTS;
}

/* Sends runs before it acknowledges them. */
static void handle(struct pass *pass, const struct dl_extent *runs, uint32_t n, enum fate fate,
		   const struct incarnation **slots)
{
	struct consumer *consumer = pass->consumer;

	if (fate == DROPPED || fate == HALF_ACKED)
		consumer->all_is_sent = false;
	for (uint32_t i = 0; i < n && fate != DROPPED; i++) {
		struct dl_extent part = fate == HALF_ACKED ? first_half(&runs[i]) : runs[i];

		send_run(consumer, &part, slots[i]);
	}
	if (fate == ACKED)
		EXPECT("dl_cursor_ack", dl_cursor_ack(consumer->cursor, runs, n), -ECANCELED);
	else if (fate == ACKED_IN_PARTS || fate == HALF_ACKED)
		acknowledge_in_parts(consumer, runs, n, fate == ACKED_IN_PARTS);
}

/*
 * Takes what is pending, behind the reader and ahead of it. What the pass has handed out stays with
 * it, and newer contents of the same pages are flushed before older ones could follow.
 */
static void take_between(struct pass *pass)
{
	struct consumer *consumer = pass->consumer;
	uint32_t flags = sim_below(&pass->state, 2) ? DL_TAKE_NO_CLEAR : 0;
	bool failed = false;

	if (!pass->takes_too || consumer->pass_users > 1 || sim_below(&pass->state, 3) ||
	    !log_enter())
		return;
	consumer->is_taking = true;
	if (sim_below(&pass->state, 2))
		flags |= DL_TAKE_HARVEST;
	(void)taker_round(consumer, flags, &failed);
	channels_flush(consumer);
	consumer->is_taking = false;
	log_leave();
}

/* Reads until nothing is left, or enough to give up. Returns the result of the last read. */
static int read_runs(struct pass *pass)
{
	const struct incarnation *slots[MAX_RUNS];
	struct dl_extent runs[MAX_RUNS];
	uint32_t read = 0, failures = 0;

	while (read < pass->give_up_after) {
		uint64_t began_at = sim.now;
		int n = dl_cursor_read(pass->consumer->cursor, runs, pass->max_runs);

		EXPECT("dl_cursor_read", n, -ECANCELED);
		if (n < 0 && n != -ECANCELED && failures++ < MAX_TRIES)
			continue;
		if (n <= 0)
			return n;
		for (int i = 0; i < n; i++) {
			slots[i] = check_run(pass->consumer, &runs[i], began_at);
			pass->pages += runs[i].bytes / PAGE_BYTES;
		}
		read += (uint32_t)n;
		handle(pass, runs, (uint32_t)n, draw_fate(pass, read >= pass->give_up_after),
		       slots);
		take_between(pass);
	}
	return 1;
}

bool sender_pass(struct pass *pass)
{
	int n;

	if (!join(pass->consumer))
		return false;
	world.counts.passes++;
	n = read_runs(pass);
	sender_leave(pass->consumer);
	return !n;
}

static void reap(void)
{
	uint64_t again_ns;

	if (!log_enter())
		return;
	EXPECT("dl_log_reap", dl_log_reap(world.log, DL_REAP_NOW, &again_ns));
	log_leave();
}

/* While a pass is open the rings can only be reaped, or without one. */
static void harvest(struct consumer *consumer)
{
	if (consumer->wish->takes || consumer->pass_open || consumer->pass_making)
		reap();
	else if (join(consumer))
		sender_leave(consumer);
}

static void take_all(uint64_t *state)
{
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].wish->takes)
			taker_act(&world.consumers[i], state);
}

void sender_act(const struct op *op)
{
	struct consumer *consumer = &world.consumers[op->slot];
	struct pass pass = {
		.consumer = consumer,
		.state = op->number,
		.takes_too = consumer->wish->takes_too,
	};

	pass.max_runs = 1 + sim_below(&pass.state, MAX_RUNS);
	pass.give_up_after = sim_below(&pass.state, 3) ? UINT32_MAX : 1 + sim_below(&pass.state, 6);
	pass.ack_share = sim_below(&pass.state, 3) ? 0 : 2 + sim_below(&pass.state, 3);
	if (op->code == OP_HARVEST || sim_below(&pass.state, 3))
		harvest(consumer);
	if (op->code == OP_HARVEST)
		take_all(&pass.state);
	else if (consumer->wish->takes)
		taker_act(consumer, &pass.state);
	else
		(void)sender_pass(&pass);
}
