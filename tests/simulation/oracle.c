/* SPDX-License-Identifier: MIT */
/*
 * Checks the end of a run.
 *
 * The vCPUs stop; passes and takes of each consumer that is there are repeated, with a flush
 * between, until nothing is pending (an injected fault may make one fail, then it is repeated).
 * Then the consumer's receivers must equal the memory: by guest address every page that some slot
 * maps which the consumer covers, where it is at home; by block these, and those of slots that were
 * removed with words. No error excuses a page. The only exceptions are:
 *   - memory of DL_SLOT_NO_LOG slots, and of slots removed without words;
 *   - memory of slots removed while the consumer was not there, or was beginning or ending;
 *   - the pages of ring entries that cells.c excuses: torn, before any overflow was known.
 * Then the guest continues and stores into every page once, which shows pages that were left
 * writable and unlogged. After a second final pass the copy must equal the memory again.
 */
#include <errno.h>
#include <string.h>

#include "world.h"

void oracle_after_reset(void)
{
	for (uint32_t i = 0; i < PLAN_VCPUS; i++) {
		struct model_ring ring;

		if (!world.vcpus[i].created ||
		    model_vcpu_ring(world.model, world.vcpus[i].fd, &ring))
			continue;
		if ((int32_t)(ring.dirty_index - ring.reset_index) < 0)
			sim_fail(SIM_STUCK_VCPU, "reset index %u is past the dirty index %u",
				 ring.reset_index, ring.dirty_index);
	}
}

/* Whether an entry that cells.c excuses names this page of a block. */
static bool is_excused(uint32_t block, uint32_t page)
{
	for (uint32_t p = 0; p < world.plan->place_count; p++)
		if (world.plan->places[p].block == block &&
		    cells_excuse(&world.plan->places[p], page))
			return true;
	return false;
}

static void describe_state(uint32_t block, uint32_t page, char *text, size_t bytes)
{
	for (uint32_t p = 0; p < world.plan->place_count; p++) {
		const struct place *place = &world.plan->places[p];
		uint8_t state = 0;
		size_t used = strlen(text);

		if (place->block != block || page < place->first_page ||
		    page >= (uint32_t)place->first_page + place->pages)
			continue;
		if (model_page_states(world.model, world.vm_fd, place->slot,
				      page - place->first_page, 1, &state))
			continue;
		snprintf(text + used, bytes - used, "; slot %#x: %s%s%s%s%s", place->slot,
			 state & MODEL_PAGE_PROTECTED ? "protected" : "writable",
			 state & MODEL_PAGE_IN_RING ? ", in a ring" : "",
			 state & MODEL_PAGE_RELEASED ? ", released" : "",
			 state & MODEL_PAGE_IN_BITMAP ? ", in the bitmap" : "",
			 state & MODEL_PAGE_STALE_TLB ? ", stale" : "");
	}
}

static void page_differs(const struct consumer *consumer, uint32_t block, uint32_t page,
			 const char *when)
{
	const struct page_note *note = &world.notes[block][page];
	char states[200] = "";

	if (is_excused(block, page)) {
		world.counts.excused++;
		return;
	}
	describe_state(block, page, states, sizeof(states));
	sim_fail(SIM_DIFFERS,
		 "%s, block %u page %u differs for consumer %u: generation %lu, written by %s at "
		 "%lu%s",
		 when, block, page, consumer->number, (unsigned long)note->generation,
		 note->by ? note->by : "nobody", (unsigned long)note->written_at, states);
}

static void compare(struct consumer *consumer, const char *when)
{
	channels_flush(consumer);
	channels_send_kept(consumer);
	for (uint32_t b = 0; b < world.plan->block_count; b++)
		for (uint32_t p = 0; p < world.plan->block_pages[b]; p++) {
			uint64_t gpa_page = layout_home(consumer, b, p);

			if (world.notes[b][p].due >> consumer->number & 1 &&
			    receivers_differ(consumer->number, b, p))
				page_differs(consumer, b, p, when);
			if (gpa_page && receivers_differ_at(consumer->number, b, p, gpa_page))
				page_differs(consumer, b, p, "at its guest address");
		}
}

/* Whether to repeat a call that failed; after enough tries without further faults. */
static bool again(uint32_t *tries, const char *call, int r)
{
	EXPECT(call, r);
	if (!r)
		return false;
	if (++*tries == MAX_TRIES / 2)
		faults_clear();
	if (*tries > MAX_TRIES)
		sim_fail(SIM_RESULT, "%s = %d without a fault", call, r);
	return true;
}

static void check_counters(const struct dl_cursor *cursor)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	if (dl_cursor_stats(cursor, &stats) || stats.pending_bytes || stats.unacked_bytes)
		sim_fail(SIM_RESULT,
			 "after a complete pass %lu bytes are pending, %lu unacknowledged",
			 (unsigned long)stats.pending_bytes, (unsigned long)stats.unacked_bytes);
}

/* A pass with the vCPUs stopped. Returns the bytes that were pending. */
static uint64_t paused_pass(struct consumer *consumer, const char *when)
{
	struct pass pass = {
		.consumer = consumer,
		.state = world.plan->seed,
		.max_runs = 3,
		.give_up_after = UINT32_MAX,
	};
	uint64_t pending_bytes = 0;
	uint32_t tries = 0;

	channels_flush(consumer);
	while (again(&tries, "dl_harvest (paused)",
		     dl_harvest(consumer->cursor, DL_HARVEST_PAUSED, &pending_bytes)))
		;
	sender_pass_begins(consumer, true);
	consumer->pass_users = 0;
	/* Another pass reads the pages that a fault leaves unread. */
	if (!sender_pass(&pass))
		return pending_bytes ? pending_bytes : 1;
	if (!world.faults.n && !consumer->wish->coalesce_pages &&
	    pending_bytes != pass.pages * PAGE_BYTES)
		sim_fail(SIM_RESULT, "%s, %lu bytes were pending, %lu pages were handed out", when,
			 (unsigned long)pending_bytes, (unsigned long)pass.pages);
	return pending_bytes;
}

/* Returns true when nothing is left. */
static bool paused_takes(struct consumer *consumer)
{
	bool failed = false;

	return !taker_round(consumer, DL_TAKE_HARVEST | DL_TAKE_PAUSED, &failed) && !failed;
}

/* A display whose slot does not exist gets nothing. */
static bool has_no_slot(const struct consumer *consumer)
{
	bool exists = !(consumer->wish->flags & DL_CURSOR_ONE_SLOT);
	int r;

	for (uint32_t p = 0; p < world.plan->place_count; p++)
		exists |= world.places[p].now &&
			  world.plan->places[p].slot ==
				  world.plan->places[consumer->wish->place].slot;
	if (exists)
		return false;
	r = dl_harvest(consumer->cursor, DL_HARVEST_PAUSED, NULL);
	if (r != -ENOENT && !faults_may_give(-r))
		sim_fail(SIM_RESULT, "dl_harvest() = %d for a slot that does not exist", r);
	return true;
}

/* The last pass is repeated until nothing is pending. */
static void finish(struct consumer *consumer, const char *when)
{
	bool takes = consumer->wish->takes;

	if (has_no_slot(consumer))
		return;
	for (uint32_t tries = 0; takes ? !paused_takes(consumer) : paused_pass(consumer, when) != 0;
	     tries++) {
		if (tries > MAX_TRIES)
			sim_fail(SIM_RESULT, "%s, %s do not end", when, takes ? "takes" : "passes");
		if (tries > 3)
			faults_clear();
	}
	compare(consumer, when);
	check_counters(consumer->cursor);
}

static void final_pass(const char *when)
{
	vcpu_stop_all();
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (world.consumers[i].cursor)
			finish(&world.consumers[i], when);
}

static void note_stats(void)
{
	struct dl_stats stats = { .size = sizeof(stats) };
	uint64_t overwritten = 0;

	for (uint32_t i = 0; i < PLAN_VCPUS; i++) {
		struct model_ring ring;

		if (world.vcpus[i].created &&
		    !model_vcpu_ring(world.model, world.vcpus[i].fd, &ring))
			overwritten += ring.overwritten_entries;
	}
	if (dl_log_stats(world.log, &stats))
		sim_fail(SIM_RESULT, "dl_log_stats() failed");
	world.counts.overwritten = overwritten;
	if (stats.overflows && !world.plan->overflows && !world.faults.reset_faulty)
		sim_fail(SIM_RESULT, "%lu overflows are reported, but no ring overflowed",
			 (unsigned long)stats.overflows);
}

/* Every page is written once, by a random vCPU. */
static void go_on(void)
{
	const struct plan *plan = world.plan;
	uint64_t state = plan->seed ^ 0x676f;

	for (uint32_t p = 0; p < plan->place_count; p++)
		for (uint32_t page = 0; page < plan->places[p].pages; page++) {
			struct vcpu_state *vcpu = &world.vcpus[sim_below(&state, plan->vcpus)];

			if (vcpu->handle)
				vcpu_write(vcpu, p, page);
		}
}

static void begin_session(void)
{
	uint32_t tries = 0;

	while (!any_consumer() && again(&tries, "dl_cursor_new",
					consumer_start(&world.consumers[0], world.plan->seed & 1)))
		;
}

static void release_all(void)
{
	uint64_t state = world.plan->seed;
	bool close_first = sim_random(&state) & 1;

	if (sim_random(&state) & 1)
		throttle_end();
	for (uint32_t i = 0; i < CONSUMERS; i++)
		if (!world.closed && world.consumers[i].cursor && sim_random(&state) & 1)
			consumer_stop(&world.consumers[i]);
	if (!world.closed && close_first)
		world_close_log();
	/* The guest continues, whether the log is closed or not. */
	go_on();
	throttle_end();
	for (uint32_t i = 0; i < PLAN_VCPUS; i++)
		vcpu_unplug(&world.vcpus[i]);
	if (!world.closed)
		world_close_log();
}

void oracle_finale(void *opaque)
{
	if (!world.plan->faults_in_end)
		faults_clear();
	if (!world.closed) {
		begin_session();
		final_pass("at the end");
		faults_clear();
		go_on();
		final_pass("after the end");
		note_stats();
	}
	faults_clear();
	release_all();
	world_end();
}
