/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_H
#define DLI_RING_H

#include "pages/words.h"
#include "ring/cells.h"
#include "ring/reset.h"

/*
 * One vCPU's ring. A drain calls these steps in order:
 *   dli_ring_lock(), dli_ring_copy()
 *   dli_ring_recover(), dli_ring_release()    inside the reset section
 *   dli_reset_rings()
 *   dli_ring_verify(); if cells are left, one more reset and verify
 *   dli_ring_publish(), dli_ring_unlock()
 * drain.c calls them for one ring or for many together.
 */
struct dli_ring;
struct dli_slots;

struct dli_ring_stats {
	_Atomic uint64_t entries, new_pages, stale, resets, short_resets, overflows, full_exits;
	_Atomic uint64_t high_water_entries;
};

/* Maps vcpu_fd's ring and its kvm_run. A ring with released cells is reset first. */
int dli_ring_new(const struct dl_os *os, int vcpu_fd, uint32_t entries, struct dli_reset *reset,
		 struct dli_ring **ring);
void dli_ring_free(struct dli_ring *ring);

/* The vCPU's cookie, for traces. */
void dli_ring_set_cookie(struct dli_ring *ring, uint64_t cookie);
uint64_t dli_ring_cookie(const struct dli_ring *ring);

/* True if two mappings show the same vCPU's ring. */
bool dli_ring_same(struct dli_ring *a, struct dli_ring *b);

/* Publishes the head there from the next unlock on. */
void dli_ring_publish_head(struct dli_ring *ring, dli_ring_head *head);

void dli_ring_lock(struct dli_ring *ring);
bool dli_ring_trylock(struct dli_ring *ring);
void dli_ring_unlock(struct dli_ring *ring);

/* The functions below, down to dli_ring_stats(), are called with the ring's lock held. */

/* Links the rings of one request. */
struct dli_ring *dli_ring_next(const struct dli_ring *ring);
void dli_ring_set_next(struct dli_ring *ring, struct dli_ring *next);

/* Reads the dirty cells, in order. Returns how many. */
uint32_t dli_ring_copy(struct dli_ring *ring);

/*
 * Resynchronises a ring that is out of sync, if possible, and copies its cells. It resets, so it
 * comes before any ring is released: a reset that is cut short drops entries of all rings. An error
 * is a reset's: the entries stay for the next drain.
 */
int dli_ring_recover(struct dli_ring *ring, struct dli_reset *reset);

/* Releases the copied cells. True if this ring needs a reset. */
bool dli_ring_release(struct dli_ring *ring, struct dli_reset *reset);

/* True between a release and the reset that takes the cells back. */
bool dli_ring_reset_pending(const struct dli_ring *ring);

/* Released, and not published yet. */
uint32_t dli_ring_released(const struct dli_ring *ring);

/*
 * After a reset. False if the kernel left released cells behind, the first time; the second time
 * (retried) the ring counts as out of sync.
 */
bool dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool retried);

/*
 * After a reset that failed. The cells stay released, so another thread's reset may be cut short
 * among them, and that thread does not verify this ring: a repair is requested. False if nothing
 * was released.
 */
bool dli_ring_reset_failed(struct dli_ring *ring);

/*
 * After the last drain, with no vCPU running: a cell that is still dirty, or garbage, was missed.
 */
void dli_ring_check_empty(struct dli_ring *ring, struct dli_reset *reset);

/* Makes the entries that a reset has covered pending. */
void dli_ring_publish(struct dli_ring *ring, struct dli_slots *slots);

/* True if the vCPU's last KVM_RUN ended with KVM_EXIT_DIRTY_RING_FULL. */
bool dli_ring_exited_full(struct dli_ring *ring);

/* True if the copied cells are too few for a full ring: the kernel's reset index is elsewhere. */
bool dli_ring_found_little(const struct dli_ring *ring);

/*
 * A full exit that found little arms; only the next one nudges, if it is armed. Everything that
 * releases a cell disarms.
 */
void dli_ring_arm_nudge(struct dli_ring *ring);
void dli_ring_disarm_nudge(struct dli_ring *ring);
bool dli_ring_nudge_armed(const struct dli_ring *ring);

/*
 * Inside the reset section, in the vCPU's own second full exit in a row that finds little, if no
 * cell was released since the first: moves the kernel's reset index on, by less than would overtake
 * its dirty index.
 */
int dli_ring_nudge(struct dli_ring *ring, struct dli_reset *reset);

struct dli_ring_stats *dli_ring_stats(struct dli_ring *ring);

static inline void ring_count(_Atomic uint64_t *counter, uint64_t n)
{
	if (n)
		atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* Entries released since this was last called. */
uint64_t dli_ring_take_recent(struct dli_ring *ring);

/* For advice, without the lock: the values may be a moment old. */
struct dli_ring_pace {
	uint64_t since;	 /* entries since dli_ring_take_recent(), with those in the ring */
	uint64_t total;	 /* entries since the ring was mapped, with those in it */
	uint32_t filled; /* entries in the ring; 0 if unknown */
	uint32_t room;	 /* entries at which its vCPU exits, on every kernel */
};

struct dli_ring_pace dli_ring_pace(struct dli_ring *ring);

#endif
