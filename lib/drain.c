/* SPDX-License-Identifier: MIT */
/* Emptying one ring, or all. */

#include "drain.h"

#include "ring_cells.h"

#include <errno.h>

/*
 * A harvest has so many entries handed back together, not all: a vCPU whose ring fills meanwhile waits
 * no longer than that takes. Fewer are not worth a flush, which interrupts every vCPU; but half as many
 * are where vCPUs did come out full since the harvest before.
 */
#ifndef RESET_ENTRIES /* tests have small rings */
#define RESET_ENTRIES 8192u
#endif

/* The kernel writes kvm_run before it returns to this vCPU's thread. */
static _Atomic uint32_t *exit_reason(struct dli_ring *ring)
{
	return (_Atomic uint32_t *)&ring->run->exit_reason;
}

static bool came_out_full(struct dli_ring *ring)
{
	return atomic_load_explicit(exit_reason(ring), memory_order_relaxed) ==
	       KVM_EXIT_DIRTY_RING_FULL;
}

/*
 * The exit reason outlives a KVM_RUN that does not get as far as the guest, so the next look could
 * take this exit for another one. Only an exit with little in the ring needs telling apart; to the
 * VMM it then looks like one that was interrupted.
 */
static void arm_nudge(struct dli_ring *ring)
{
	uint32_t full = KVM_EXIT_DIRTY_RING_FULL;

	/* Only that: where the caller is not the vCPU's thread, another exit may have come. */
	ring->nudge_armed =
		atomic_compare_exchange_strong_explicit(exit_reason(ring), &full, KVM_EXIT_INTR,
							memory_order_relaxed, memory_order_relaxed);
}

/* What makes resets of its own, before any ring is released: see dli_ring_recover(). */
static void prepare(struct dli_reset *reset, struct dli_party *party)
{
	struct dli_ring *ring = party->first;

	party->result = 0;
	for (; ring; ring = ring->next_of_party) {
		int r = dli_ring_recover(ring, reset);

		party->result = party->result ? party->result : r;
	}
	ring = party->first;
	if (!party->is_drain || party->result)
		return;
	party->idle = party->full && ring->copied < ring_nudge_entries(ring);
	party->stepped = party->idle && ring->nudge_armed;
	if (party->stepped)
		party->result = dli_ring_nudge(ring, reset);
}

static bool release(struct dli_reset *reset, struct dli_party *party)
{
	bool needed = false;

	if (party->stepped)
		return false;
	for (struct dli_ring *ring = party->first; ring; ring = ring->next_of_party)
		needed |= dli_ring_release(ring, reset);
	return needed;
}

/* Of the parties that have something released. */
static void fail(struct dli_party *party, int error)
{
	for (struct dli_ring *ring = party->first; ring; ring = ring->next_of_party) {
		if (!ring->reset_pending)
			continue;
		dli_ring_reset_failed(ring);
		party->result = error;
	}
}

static bool verify(struct dli_reset *reset, struct dli_party *party, bool again)
{
	bool behind = false;

	for (struct dli_ring *ring = party->first; ring; ring = ring->next_of_party) {
		if (party->is_drain && ring->reset_pending)
			ring_count(&ring->stats.resets, 1);
		behind |= !dli_ring_verify(ring, reset, again);
	}
	return behind;
}

static void serve(struct dli_reset *reset, struct dli_party *parties)
{
	bool needed = false, again = false;
	struct dli_party *party;

	for (party = parties; party; party = party->next)
		prepare(reset, party);
	for (party = parties; party; party = party->next)
		needed |= release(reset, party);
	while (needed) {
		int r = dli_reset_rings(reset);

		for (party = parties; party && r < 0; party = party->next)
			fail(party, r);
		if (r < 0)
			return;
		needed = false;
		for (party = parties; party; party = party->next)
			needed |= verify(reset, party, again);
		again = true;
	}
}

int dli_drain_ring(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink,
		   void *opaque)
{
	struct dli_party party = { .first = ring, .is_drain = true };
	int r;

	dli_ring_lock(ring);
	party.full = came_out_full(ring);
	if (party.full)
		atomic_fetch_add_explicit(&reset->full_drains, 1, memory_order_relaxed);
	dli_ring_copy(ring);
	ring->next_of_party = NULL;
	r = dli_reset_join(reset, &party, serve);
	if (r != -ECANCELED) {
		ring_count(&ring->stats.full_exits, party.full);
		if (r < 0)
			ring->nudge_armed = false;
		else if (party.idle)
			arm_nudge(ring);
	}
	dli_ring_publish(ring, sink, opaque);
	dli_ring_unlock(ring);
	return r;
}

/* Of dli_drain_all(). */
struct drain {
	struct dli_vcpus *vcpus;
	struct dli_reset *reset;
	dli_ring_sink *sink;
	void *opaque;
	bool last;
	int result;
	struct dli_party party;
	uint32_t entries;     /* that the party's rings hold */
	uint64_t full_drains; /* when the harvest before this one began */
};

/* Entries that are handed back together. */
static uint32_t enough(const struct drain *drain)
{
	uint64_t full_drains =
		atomic_load_explicit(&drain->reset->full_drains, memory_order_relaxed);

	return full_drains == drain->full_drains ? RESET_ENTRIES : RESET_ENTRIES / 2;
}

/* Has what was gathered handed back and published. Holds no lock then. */
static void hand_back(struct drain *drain)
{
	struct dli_ring *ring = drain->party.first, *next;
	int r;

	if (!ring)
		return;
	r = dli_reset_join(drain->reset, &drain->party, serve);
	drain->result = drain->result ? drain->result : r;
	for (; ring; ring = next) {
		next = ring->next_of_party;
		if (drain->last)
			dli_ring_check_empty(ring);
		dli_ring_publish(ring, drain->sink, drain->opaque);
		dli_vcpus_note_recent(drain->vcpus, dli_ring_take_recent(ring));
		dli_ring_unlock(ring);
	}
	drain->party = (struct dli_party){ 0 };
	drain->entries = 0;
}

/* A ring whose lock is held. */
static void gather(struct drain *drain, struct dli_ring *ring)
{
	dli_ring_copy(ring);
	ring->next_of_party = drain->party.first;
	drain->party.first = ring;
	drain->entries += ring->copied;
	if (drain->entries >= enough(drain))
		hand_back(drain);
}

/* Those of a group that nobody else is at. Returns the others, a bit each. */
static uint64_t gather_free(struct drain *drain, struct dli_vcpu_group *group, uint32_t n)
{
	uint64_t busy = 0;

	for (uint32_t i = 0; i < n; i++) {
		struct dli_ring *ring;

		if (!drain->last && ring_is_quiet(&group->heads[i]))
			continue;
		ring = group->vcpus[i]->ring;
		if (dli_ring_trylock(ring))
			gather(drain, ring);
		else
			busy |= UINT64_C(1) << i;
	}
	return busy;
}

static void gather_busy(struct drain *drain, struct dli_vcpu_group *group, uint64_t busy)
{
	for (; busy; busy &= busy - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(busy);
		struct dli_ring *ring = group->vcpus[i]->ring;

		/* Whoever was at it may have done all. */
		if (!drain->last && ring_is_quiet(&group->heads[i]))
			continue;
		if (!dli_ring_trylock(ring)) {
			hand_back(drain);
			dli_ring_lock(ring);
		}
		gather(drain, ring);
	}
}

int dli_drain_all(struct dli_vcpus *vcpus, struct dli_reset *reset, bool last, dli_ring_sink *sink,
		  void *opaque)
{
	struct drain drain = {
		.vcpus = vcpus, .reset = reset, .sink = sink, .opaque = opaque, .last = last
	};
	uint64_t full_drains = atomic_load_explicit(&reset->full_drains, memory_order_relaxed);

	drain.full_drains = atomic_exchange_explicit(&reset->full_drains_seen, full_drains,
						     memory_order_relaxed);

	for (struct dli_vcpu_group *group = &vcpus->first; group;
	     group = dli_vcpu_group_next(group)) {
		uint64_t busy = gather_free(&drain, group, dli_vcpu_group_count(group));

		gather_busy(&drain, group, busy);
	}
	hand_back(&drain);
	return drain.result;
}
