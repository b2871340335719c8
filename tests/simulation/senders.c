/* SPDX-License-Identifier: MIT */
/* Passes that several senders read at once, and takes of a second cursor. */
#include <errno.h>

#include "world.h"

enum { MAX_RUNS = 5 };

/* Joins the open pass, or begins one. */
static bool join(void)
{
	struct promise promise;
	int r;

	if (world.pass_open) {
		world.pass_users++;
		return true;
	}
	if (!world.is_on || world.pass_making || !log_enter())
		return false;
	world.pass_making = true;
	promise_note(&promise);
	r = dl_harvest(world.cursor, 0, NULL);
	EXPECT("dl_harvest", r);
	if (!r)
		promise_check(&promise);
	world.pass_open = !r;
	world.pass_users = !r;
	world.pass_making = false;
	log_leave();
	return !r;
}

/* The last sender ends the pass: by then the channels of all are flushed. */
static void leave(void)
{
	if (world.pass_users > 1) {
		world.pass_users--;
		return;
	}
	world.pass_open = false;
	world.pass_making = true;
	EXPECT("dl_cursor_end", dl_cursor_end(world.cursor, 0));
	world.pass_making = false;
	world.pass_users--;
}

static void acknowledge(const struct dl_extent *runs, uint32_t n, bool in_parts)
{
	int r = 0;

	if (!in_parts) {
		r = dl_cursor_ack(world.cursor, runs, n);
		EXPECT("dl_cursor_ack", r, -ECANCELED);
		return;
	}
	/* In reverse order, each run in two parts. */
	while (n-- && !r) {
		struct dl_extent first = runs[n], rest = runs[n];

		first.bytes = (first.bytes / PAGE_BYTES + 1) / 2 * PAGE_BYTES;
		rest.bytes -= first.bytes;
		rest.offset_bytes += first.bytes;
		r = dl_cursor_ack(world.cursor, &first, 1);
		EXPECT("dl_cursor_ack", r, -ECANCELED);
		if (r || !rest.bytes)
			continue;
		r = dl_cursor_ack(world.cursor, &rest, 1);
		EXPECT("dl_cursor_ack", r, -ECANCELED);
	}
}

/*
 * Reads until nothing is left or, after give_up_after runs, leaves without acknowledging. One read
 * in ack_share is not acknowledged; with 0 all are. Returns false if it did not reach the end.
 */
bool sender_pass(uint32_t max_runs, uint32_t give_up_after, uint32_t ack_share, uint64_t *state,
		 uint64_t *pages)
{
	const struct incarnation *slots[MAX_RUNS];
	struct dl_extent runs[MAX_RUNS];
	uint32_t read = 0, failures = 0;
	int n = 0;

	if (!join())
		return false;
	world.counts.passes++;
	while (read < give_up_after) {
		uint64_t began_at = sim.now;

		n = dl_cursor_read(world.cursor, runs, max_runs);
		EXPECT("dl_cursor_read", n, -ECANCELED);
		if (n < 0 && n != -ECANCELED && failures++ < MAX_TRIES)
			continue;
		if (n <= 0)
			break;
		for (int i = 0; i < n; i++)
			slots[i] = check_run(&runs[i], began_at);
		for (int i = 0; i < n; i++) {
			copy_run(&runs[i], slots[i]);
			*pages += runs[i].bytes / PAGE_BYTES;
		}
		read += (uint32_t)n;
		if (read < give_up_after && (!ack_share || sim_below(state, ack_share)))
			acknowledge(runs, (uint32_t)n, sim_random(state) & 1);
	}
	leave();
	return !n && read < give_up_after;
}

/* While a pass is open the rings can only be reaped. */
static void harvest(void)
{
	uint64_t again_ns;

	if (world.pass_open || world.pass_making) {
		if (log_enter()) {
			EXPECT("dl_log_reap", dl_log_reap(world.log, DL_REAP_NOW, &again_ns));
			log_leave();
		}
		return;
	}
	if (join())
		leave();
}

/* Protects pages that were taken writable. False if that fails: they must be marked then. */
static bool protect(uint32_t p)
{
	const struct place *place = &world.plan->places[p];
	uint64_t bytes = (uint64_t)place->pages * PAGE_BYTES;

	for (uint32_t tries = 0; tries < MAX_TRIES; tries++) {
		int r = dl_slot_clear(world.log, place->slot, 0, bytes);

		EXPECT("dl_slot_clear", r, -ENOENT, -EINVAL, -ECANCELED);
		/* A slot that is gone is not in the guest. */
		if (r >= 0 || !world.places[p].now)
			return true;
	}
	return false;
}

/* Takes one slot of the second cursor and sends its pages. Returns their number. */
static uint64_t take_slot(uint32_t p, uint32_t flags, bool *failed)
{
	const struct place *place = &world.plan->places[p];
	uint64_t words[BLOCK_BYTES / PAGE_BYTES / 64 + 1] = { 0 }, taken = 0;
	uint32_t n = sizeof(words) / sizeof(words[0]);
	int r = dl_cursor_take(world.second, place->slot, flags, words, n, &taken);

	EXPECT("dl_cursor_take", r, -ENOENT, -EINVAL, -ECANCELED);
	*failed |= r < 0;
	if (flags & DL_TAKE_NO_CLEAR && taken && !protect(p)) {
		for (uint32_t page = 0; page < place->pages; page++)
			if (words[page / 64] >> page % 64 & 1)
				(void)dl_mark_slot(world.log, place->slot,
						   page * (uint64_t)PAGE_BYTES, 1);
		*failed = true;
		return taken / PAGE_BYTES;
	}
	for (uint32_t page = 0; page < place->pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			copy_pages(SECOND, place->block, place->first_page + page, 1);
	return taken / PAGE_BYTES;
}

uint64_t sender_take(uint32_t flags, bool *failed)
{
	uint64_t pages = 0;

	for (uint32_t p = 0; p < world.plan->place_count; p++)
		if (world.places[p].now)
			pages += take_slot(p, flags, failed);
	return pages;
}

static void take(uint64_t *state)
{
	uint32_t flags = sim_below(state, 4) ? DL_TAKE_HARVEST : 0;
	bool failed = false;

	if (!world.is_on || !world.second || world.changers || !log_enter())
		return;
	world.takers++;
	if (sim_below(state, 2))
		flags |= DL_TAKE_NO_CLEAR;
	(void)sender_take(flags, &failed);
	world.takers--;
	log_leave();
}

void sender_act(const struct op *op)
{
	uint64_t state = op->number, pages = 0;
	uint32_t max_runs = 1 + sim_below(&state, MAX_RUNS);
	uint32_t give_up_after = sim_below(&state, 3) ? UINT32_MAX : 1 + sim_below(&state, 6);
	uint32_t ack_share = sim_below(&state, 3) ? 0 : 2 + sim_below(&state, 3);

	if (op->code == OP_HARVEST || sim_below(&state, 3))
		harvest();
	if (op->code == OP_HARVEST || !sim_below(&state, 3))
		take(&state);
	if (op->code == OP_PASS)
		(void)sender_pass(max_runs, give_up_after, ack_share, &state, &pages);
}
