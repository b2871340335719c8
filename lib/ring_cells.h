/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_CELLS_H
#define DLI_RING_CELLS_H

/*
 * A ring as ring.c and ring_recovery.c know it, and the only acquire and release of its cells. The
 * partner is virt/kvm/dirty_ring.c, named at each.
 */

#include "ring.h"

#include <pthread.h>
#include <stdatomic.h>

enum ring_state {
	RING_IN_STEP, /* head is the cell that the kernel fills next, or the oldest it filled */
	RING_SEEKING, /* used by someone before: head is the first dirty cell behind one that is not
		       */
	RING_SUSPECT, /* kernel and head disagree: hands off until the vCPU's own full exit */
	RING_REJOINING, /* the kernel's reset index is known, its dirty index is not */
};

struct dli_ring {
	pthread_mutex_t lock;
	const struct dl_os *os;
	struct kvm_dirty_gfn *cells;
	size_t cells_bytes;
	struct kvm_run *run;
	size_t run_bytes;
	uint32_t entries;
	enum ring_state state;
	uint32_t head;	      /* free running, as the kernel's own indices */
	uint32_t reset_index; /* RING_REJOINING: modulo entries */
	bool proven;	      /* head was seen dirty once: it is not a guess */
	bool owed;	      /* released and not known to be taken back */
	bool held;	      /* nobody released a cell since this vCPU's own last drain */
	uint32_t idle_exits;  /* full exits in a row in which nothing was found */
	uint32_t batch_entries;
	uint32_t batch_capacity;
	struct kvm_dirty_gfn *batch;
	_Atomic uint64_t troubles;
	uint64_t troubles_seen, troubles_repaired; /* the harvester's */
	uint64_t entries_seen;			   /* the harvester's */
	_Atomic bool out_of_step;
	struct dli_ring_stats stats;
};

static inline _Atomic uint32_t *cell_flags(struct dli_ring *ring, uint32_t index)
{
	return (_Atomic uint32_t *)&ring->cells[index & (ring->entries - 1)].flags;
}

/* Pairs with the smp_wmb() and flag store of kvm_dirty_ring_push(): slot and offset are there. */
static inline uint32_t cell_load(struct dli_ring *ring, uint32_t index)
{
	return atomic_load_explicit(cell_flags(ring, index), memory_order_acquire);
}

/*
 * Pairs with smp_load_acquire() in kvm_dirty_gfn_harvested(): slot and offset were read before, so
 * the kernel may fill the cell anew.
 */
static inline void cell_release(struct dli_ring *ring, uint32_t index)
{
	atomic_store_explicit(cell_flags(ring, index), CELL_RESET, memory_order_release);
}

static inline void cell_clear(struct dli_ring *ring, uint32_t index)
{
	atomic_store_explicit(cell_flags(ring, index), CELL_CLEAN, memory_order_release);
}

/* False where the cell was not as expected any more. */
static inline bool cell_change(struct dli_ring *ring, uint32_t index, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong_explicit(cell_flags(ring, index), &from, to,
						       memory_order_acq_rel, memory_order_relaxed);
}

static inline void ring_set_state(struct dli_ring *ring, enum ring_state state)
{
	ring->state = state;
	atomic_store_explicit(&ring->out_of_step, state == RING_SUSPECT || state == RING_REJOINING,
			      memory_order_release);
}

static inline void ring_note_trouble(struct dli_ring *ring)
{
	atomic_fetch_add_explicit(&ring->troubles, 1, memory_order_acq_rel);
}

/* The two sides are out of step; entries may have been overwritten. */
void ring_suspect(struct dli_ring *ring);

/*
 * RING_REJOINING: where the kernel goes on is known once it has filled a cell. Releases the stale
 * cells before it. False: nothing filled yet.
 */
bool ring_rejoin(struct dli_ring *ring);

/* RING_SEEKING: false where no cell is dirty. */
bool ring_seek(struct dli_ring *ring);

/*
 * The vCPU is out with a full ring that its drain did not mend (taken: entries that the drain
 * found; was_held: ring->held when it began). Ring lock held.
 */
int ring_answer_full(struct dli_ring *ring, struct dli_reset *reset, enum ring_state was,
		     uint32_t taken, bool was_held);

#endif
