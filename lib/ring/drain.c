/* SPDX-License-Identifier: MIT */
/* Draining one vCPU's ring, or all rings: copy, release, reset, publish. */

#include "ring/drain.h"

#include <errno.h>

/*
 * Upper bound on entries per reset; limits how long a full vCPU waits. Smaller resets are not worth
 * a flush, which interrupts every vCPU; half of it is, if vCPUs exited full since the last harvest.
 */
#ifndef RESET_ENTRIES /* tests have small rings */
#define RESET_ENTRIES 8192u
#endif

/* Rings to reset: one of a vCPU's own drain, or those that a harvest has collected. */
struct drain_request {
	struct dli_reset_request request; /* first, for to_drain_request() */
	struct dli_ring *first;		  /* linked; the submitter holds their locks */
	bool is_drain;			  /* a vCPU's own: one ring */
	bool exited_full;		  /* is_drain: the vCPU exited with a full ring */
	bool found_little;		  /* out: exited_full, and there was little in it */
	bool nudged;			  /* the ring was nudged in place of a release */
};

static struct drain_request *to_drain_request(struct dli_reset_request *request)
{
	return (struct drain_request *)request;
}

/* Everything that resets by itself comes before any release: see dli_ring_recover(). */
static void recover_rings(struct dli_reset *reset, struct drain_request *drain)
{
	struct dli_ring *ring = drain->first;
	int result = 0;

	for (; ring; ring = dli_ring_next(ring)) {
		int r = dli_ring_recover(ring, reset);

		result = result ? result : r;
	}
	ring = drain->first;
	if (drain->is_drain && !result) {
		drain->found_little = drain->exited_full && dli_ring_found_little(ring);
		drain->nudged = drain->found_little && dli_ring_nudge_armed(ring);
		if (drain->nudged)
			result = dli_ring_nudge(ring, reset);
	}
	drain->request.result = result;
}

/* True if a ring needs a reset. */
static bool release_rings(struct dli_reset *reset, struct drain_request *drain)
{
	bool needed = false;

	if (drain->nudged)
		return false;
	for (struct dli_ring *ring = drain->first; ring; ring = dli_ring_next(ring))
		needed |= dli_ring_release(ring, reset);
	return needed;
}

/* The cells that a reset is to take back. */
static uint64_t count_released(struct dli_reset_request *batch)
{
	uint64_t cells = 0;

	for (; batch; batch = batch->next) {
		struct dli_ring *ring = to_drain_request(batch)->first;

		for (; ring; ring = dli_ring_next(ring))
			if (dli_ring_reset_pending(ring))
				cells += dli_ring_released(ring);
	}
	return cells;
}

/* The reset's error concerns only requests that have released something. */
static void fail_request(struct drain_request *drain, int error)
{
	for (struct dli_ring *ring = drain->first; ring; ring = dli_ring_next(ring))
		if (dli_ring_reset_failed(ring))
			drain->request.result = error;
}

/* True if the reset left cells of a ring behind. */
static bool verify_rings(struct dli_reset *reset, struct drain_request *drain, bool retried)
{
	bool behind = false;

	for (struct dli_ring *ring = drain->first; ring; ring = dli_ring_next(ring)) {
		if (drain->is_drain && dli_ring_reset_pending(ring))
			ring_count(&dli_ring_stats(ring)->resets, 1);
		behind |= !dli_ring_verify(ring, reset, retried);
	}
	return behind;
}

static void run_batch(struct dli_reset *reset, struct dli_reset_request *batch)
{
	bool needed = false, retried = false;
	struct dli_reset_request *request;

	for (request = batch; request; request = request->next)
		recover_rings(reset, to_drain_request(request));
	for (request = batch; request; request = request->next)
		needed |= release_rings(reset, to_drain_request(request));
	while (needed) {
		int r = dli_reset_rings(reset);

		for (request = batch; request && r < 0; request = request->next)
			fail_request(to_drain_request(request), r);
		if (r < 0)
			return;
		/*
		 * Another log's dl_log_open(), or another program, has taken the missing ones by a
		 * reset of its own. Its flush may be to come; and if it was cut short, it has
		 * dropped them unprotected.
		 */
		if (!retried && (uint64_t)r < count_released(batch))
			dli_reset_request_repair(reset);
		needed = false;
		for (request = batch; request; request = request->next)
			needed |= verify_rings(reset, to_drain_request(request), retried);
		retried = true;
	}
}

/* Has a request completed, by this thread or by another one. */
static int submit(struct dli_reset *reset, struct drain_request *drain)
{
	struct dli_reset_request *batch = dli_reset_submit(reset, &drain->request);

	if (batch) {
		run_batch(reset, batch);
		dli_reset_complete(reset, batch);
	}
	return drain->request.result;
}

int dli_drain_ring(struct dli_ring *ring, struct dli_reset *reset, struct dli_slots *slots)
{
	struct drain_request drain = { .first = ring, .is_drain = true };
	int r;

	dli_ring_lock(ring);
	drain.exited_full = dli_ring_exited_full(ring);
	if (drain.exited_full)
		atomic_fetch_add_explicit(&reset->full_drains, 1, memory_order_relaxed);
	dli_ring_copy(ring);
	dli_ring_set_next(ring, NULL);
	r = submit(reset, &drain);
	if (r != -ECANCELED) {
		ring_count(&dli_ring_stats(ring)->full_exits, drain.exited_full);
		if (r < 0)
			dli_ring_disarm_nudge(ring);
		else if (drain.found_little)
			dli_ring_arm_nudge(ring);
	}
	dli_ring_publish(ring, slots);
	dli_ring_unlock(ring);
	return r;
}

/* One dli_drain_all(). */
struct harvest {
	struct dli_vcpu_list *vcpus;
	struct dli_reset *reset;
	struct dli_slots *slots;
	bool last;
	int result;
	struct drain_request drain;
	uint32_t entries;     /* in the request's rings */
	uint64_t full_drains; /* when the harvest before this one began */
};

static uint32_t reset_entries(const struct harvest *harvest)
{
	uint64_t full_drains =
		atomic_load_explicit(&harvest->reset->full_drains, memory_order_relaxed);

	return full_drains == harvest->full_drains ? RESET_ENTRIES : RESET_ENTRIES / 2;
}

/* Resets, publishes and unlocks the collected rings. */
static void flush_rings(struct harvest *harvest)
{
	struct dli_ring *ring = harvest->drain.first, *next;
	int r;

	if (!ring)
		return;
	r = submit(harvest->reset, &harvest->drain);
	harvest->result = harvest->result ? harvest->result : r;
	for (; ring; ring = next) {
		next = dli_ring_next(ring);
		if (harvest->last)
			dli_ring_check_empty(ring, harvest->reset);
		dli_ring_publish(ring, harvest->slots);
		dli_vcpu_list_note_recent(harvest->vcpus, dli_ring_take_recent(ring));
		dli_ring_unlock(ring);
	}
	harvest->drain = (struct drain_request){ 0 };
	harvest->entries = 0;
}

/* Adds a ring, whose lock is held, to the request. */
static void collect_ring(struct harvest *harvest, struct dli_ring *ring)
{
	harvest->entries += dli_ring_copy(ring);
	dli_ring_set_next(ring, harvest->drain.first);
	harvest->drain.first = ring;
	if (harvest->entries >= reset_entries(harvest))
		flush_rings(harvest);
}

/* Collects the rings of a group that are not locked. Returns the others, a bit each. */
static uint64_t collect_free_rings(struct harvest *harvest, struct dli_vcpu_group *group,
				   uint32_t n)
{
	uint64_t busy = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct dli_ring *ring;

		if (!harvest->last && ring_is_quiet(&group->heads[i]))
			continue;
		ring = group->vcpus[i]->ring;
		if (dli_ring_trylock(ring))
			collect_ring(harvest, ring);
		else
			busy |= UINT64_C(1) << i;
	}
	return busy;
}

static void collect_busy_rings(struct harvest *harvest, struct dli_vcpu_group *group, uint64_t busy)
{
	for (; busy; busy &= busy - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(busy);
		struct dli_ring *ring = group->vcpus[i]->ring;

		/* The holder may have emptied it meanwhile. */
		if (!harvest->last && ring_is_quiet(&group->heads[i]))
			continue;
		/* Block on a ring lock only while holding no other. */
		if (!dli_ring_trylock(ring)) {
			flush_rings(harvest);
			dli_ring_lock(ring);
		}
		collect_ring(harvest, ring);
	}
}

int dli_drain_all(struct dli_vcpu_list *vcpus, struct dli_reset *reset, bool last,
		  struct dli_slots *slots)
{
	struct harvest harvest = { .vcpus = vcpus, .reset = reset, .slots = slots, .last = last };
	uint64_t full_drains = atomic_load_explicit(&reset->full_drains, memory_order_relaxed);

	harvest.full_drains = atomic_exchange_explicit(&reset->full_drains_seen, full_drains,
						       memory_order_relaxed);
	for (struct dli_vcpu_group *group = &vcpus->first; group;
	     group = dli_vcpu_group_next(group)) {
		uint64_t busy = collect_free_rings(&harvest, group, dli_vcpu_group_count(group));

		collect_busy_rings(&harvest, group, busy);
	}
	flush_rings(&harvest);
	return harvest.result;
}
