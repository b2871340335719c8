/* SPDX-License-Identifier: MIT */
/* Harvests, and iterators that several senders read at once. */
#include <errno.h>

#include "world.h"

enum { MAX_RUNS = 5 };

/* Joins the current iterator, or creates one. */
static bool join(void)
{
	struct dl_iter *iter = NULL;
	int r;

	if (world.iter) {
		world.iter_users++;
		return true;
	}
	if (world.iter_making || !log_enter())
		return false;
	world.iter_making = true;
	r = dl_iter_new(world.log, 0, &iter);
	log_leave();
	world.iter_making = false;
	/* -EBUSY: the previous one is still being freed. */
	EXPECT("dl_iter_new", r, -ECANCELED, -EBUSY);
	if (r)
		return false;
	world.iter = iter;
	world.iter_users = 1;
	return true;
}

/* The last sender frees the iterator: by then the channels of all are flushed. */
static void leave(void)
{
	struct dl_iter *iter = world.iter;

	if (--world.iter_users)
		return;
	world.iter = NULL;
	dl_iter_free(iter);
	EXPECT("dl_iter_free", 0);
}

static void acknowledge(const struct dl_run *runs, uint32_t n, bool in_parts)
{
	int r = 0;

	if (!in_parts) {
		r = dl_iter_ack(world.iter, runs, n);
		EXPECT("dl_iter_ack", r, -ECANCELED);
		return;
	}
	/* In reverse order, each run in two parts. */
	while (n-- && !r) {
		struct dl_run first = runs[n], rest = runs[n];

		first.bytes = (first.bytes / PAGE_BYTES + 1) / 2 * PAGE_BYTES;
		rest.bytes -= first.bytes;
		rest.offset_bytes += first.bytes;
		r = dl_iter_ack(world.iter, &first, 1);
		EXPECT("dl_iter_ack", r, -ECANCELED);
		if (r || !rest.bytes)
			continue;
		r = dl_iter_ack(world.iter, &rest, 1);
		EXPECT("dl_iter_ack", r, -ECANCELED);
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
	struct dl_run runs[MAX_RUNS];
	uint32_t read = 0, failures = 0;
	int n = 0;

	if (!join())
		return false;
	world.counts.passes++;
	while (read < give_up_after) {
		uint64_t began_at = sim.now;

		n = dl_iter_read(world.iter, runs, max_runs);
		EXPECT("dl_iter_read", n, -ECANCELED);
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

static void harvest(void)
{
	struct promise promise;
	uint64_t pending_bytes;
	int r;

	if (!log_enter())
		return;
	promise_note(&promise);
	r = dl_harvest(world.log, 0, &pending_bytes);
	EXPECT("dl_harvest", r, -ECANCELED);
	if (!r)
		promise_check(&promise);
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
	if (op->code == OP_PASS)
		(void)sender_pass(max_runs, give_up_after, ack_share, &state, &pages);
}
