/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_H
#define DLI_RING_H

#include "reset.h"
#include "uapi.h"

/*
 * One vCPU's ring. A harvest collects all rings, resets once and settles all; a vCPU's own drain
 * does the three for its ring alone. Entries reach the sink only when settled: after a reset that
 * began after their release has returned, so that their pages are protected again.
 */
struct dli_ring;

struct dli_sunk {
	uint32_t new_pages,
		stale; /* of the entries given to a sink; the rest were pending already */
};

/* Takes entries to where pages are kept. Called with the ring's lock held. */
typedef struct dli_sunk dli_ring_sink(void *opaque, const struct kvm_dirty_gfn *entries,
				      uint32_t n);

struct dli_ring_stats {
	_Atomic uint64_t entries, new_pages, stale, resets, short_resets, overflows, full_exits;
	_Atomic uint64_t high_water_entries;
};

/* Maps vcpu_fd's ring and its kvm_run. The reset is for a ring that someone used before. */
int dli_ring_new(const struct dl_os *os, int vcpu_fd, uint32_t entries, struct dli_reset *reset,
		 struct dli_ring **ring);
void dli_ring_free(struct dli_ring *ring);

/* Whether two mappings are of the same vCPU's ring. */
bool dli_ring_same(struct dli_ring *a, struct dli_ring *b);

/*
 * Reads the dirty cells and releases them. last: nothing will be harvested after this, so a ring
 * that was never seen in use is searched whole.
 */
void dli_ring_collect(struct dli_ring *ring, bool last);

/*
 * After a reset: gives what was collected to the sink. False where the kernel has not taken all
 * released cells back: reset and settle again.
 */
bool dli_ring_settle(struct dli_ring *ring, dli_ring_sink *sink, void *opaque);

/* After resets that take nothing back any more: gives to the sink all the same, and suspects. */
void dli_ring_give_up(struct dli_ring *ring, dli_ring_sink *sink, void *opaque);

/* A vCPU's own drain, in its full exit or elsewhere. */
int dli_ring_drain(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink,
		   void *opaque);

/*
 * Whether entries of this ring may have been lost, or taken back unprotected, since the last
 * dli_ring_repaired(); what is seen here is what that call will mark as repaired. One thread.
 */
bool dli_ring_wants_repair(struct dli_ring *ring);
void dli_ring_repaired(struct dli_ring *ring);

struct dli_ring_stats *dli_ring_stats(struct dli_ring *ring);

/* Entries collected since the last call of this. One thread. */
uint64_t dli_ring_take_recent(struct dli_ring *ring);

#endif
