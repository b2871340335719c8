/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_H
#define DLI_RING_H

#include "reset.h"
#include "uapi.h"
#include "words.h"

/*
 * One vCPU's ring. The steps of a drain, in this order:
 *   lock, copy
 *     get into step, release    inside the reset section
 *     dli_reset_rings()
 *     verify; where cells are left, reset and verify once more
 *   publish, unlock
 * drain.c makes them, for one ring or for many together.
 */
struct dli_ring;

/* Takes what the entries named to where pages are kept. */
typedef struct dli_sunk dli_ring_sink(void *opaque, const struct dli_dirty_word *words, uint32_t n);

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

/* Where a ring goes on, for who does not hold its lock; NULL where that has to be taken to know. */
typedef _Atomic(struct kvm_dirty_gfn *) dli_ring_head;

/* Has it shown there, from the next unlocking on. */
void dli_ring_publish_head(struct dli_ring *ring, dli_ring_head *head);

void dli_ring_lock(struct dli_ring *ring);
bool dli_ring_trylock(struct dli_ring *ring);
void dli_ring_unlock(struct dli_ring *ring);

/* Reads the dirty cells, in order. */
void dli_ring_copy(struct dli_ring *ring);

/*
 * Brings a ring that is out of step into step, if that is possible, and copies then. It makes resets,
 * so it comes before any ring is released: one that is cut short drops entries of all rings. An error is
 * a reset's: what the ring holds is for the next time.
 */
int dli_ring_recover(struct dli_ring *ring, struct dli_reset *reset);

/* Releases what was copied. Whether a reset is needed for this ring. */
bool dli_ring_release(struct dli_ring *ring, struct dli_reset *reset);

/*
 * After a reset. False where the kernel left released cells behind, the first time; the second time
 * (again) the ring counts as out of step.
 */
bool dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool again);

/*
 * After a reset that failed. Cells of this ring stay released, so a reset of another thread's can be
 * the one that is cut short among them, and that thread does not look here.
 */
void dli_ring_reset_failed(struct dli_ring *ring);

/* No vCPU runs, and this ring was drained: what is still dirty in it, or garbage, was missed. */
void dli_ring_check_empty(struct dli_ring *ring);

void dli_ring_publish(struct dli_ring *ring, dli_ring_sink *sink, void *opaque);

struct dli_ring_stats *dli_ring_stats(struct dli_ring *ring);

/* Entries released since the last call of this. Under the lock. */
uint64_t dli_ring_take_recent(struct dli_ring *ring);

/* For advice, without the lock: what is seen may be of a moment ago. */
struct dli_ring_pace {
	uint64_t since;	 /* entries since dli_ring_take_recent(), those in the ring included */
	uint32_t filled; /* in the ring; 0 where that is not known */
	uint32_t room;	 /* what it holds when its vCPU has to come out, on every kernel */
};

struct dli_ring_pace dli_ring_pace(struct dli_ring *ring);

#endif
