/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_PRIVATE_H
#define DLI_RING_PRIVATE_H

/* The ring's struct, for ring.c, ring_pace.c and recovery.c only. */

#include "pages/tsan.h"
#include "ring/cells.h"
#include "ring/ring.h"

enum ring_state {
	RING_IN_SYNC,  /* head is the oldest cell that is not released */
	RING_DESYNCED, /* the kernel's indices are unknown; dirty cells were filled since */
};

struct dli_ring {
	pthread_mutex_t lock;
	const struct dl_os *os;
	struct dli_reset *reset;
	struct kvm_dirty_gfn *cells;
	size_t cells_bytes;
	struct kvm_run *run;
	size_t run_bytes;
	uint32_t entries;
	enum ring_state state;
	uint32_t head;			   /* free running, as the kernel's own indices */
	uint32_t copied;		   /* cells from head on, copied and not released */
	struct kvm_dirty_gfn first_copied; /* the entry at head when they were copied */
	uint32_t first_released;	   /* of the last release */
	uint32_t before_released;	   /* the cell before that */
	uint32_t doubtful_entries; /* from head on: they may be of two laps, after a resync */
	uint32_t reset_index_hint; /* RING_DESYNCED: where the kernel's reset index may be */
	bool reset_pending;	   /* released, and no reset has taken the cells back yet */
	bool reset_has_failed;	   /* and was pending since */
	bool nudge_armed;	   /* the last full exit found little; no release since */
	/*
	 * The copied entries, merged into words since neighbours mostly follow each other. Sized
	 * for one word a cell: first the words of released cells, then those of copied ones.
	 */
	struct dli_dirty_word *words;
	uint32_t released_entries, released_words, copied_words;
	_Atomic uint64_t entries_seen; /* by the last harvest; written under lock */
	_Atomic uint64_t oldest;       /* head for lockless readers; UINT64_MAX: unknown */
	dli_ring_head *published_head; /* NULL: the ring is in no list */
	_Atomic uint64_t cookie;       /* the caller's, of the vCPU: for traces */
	struct dli_ring *next;	       /* in the request that holds the lock */
	struct dli_ring_stats stats;
};

static inline struct kvm_dirty_gfn *cell_at(const struct dli_ring *ring, uint32_t index)
{
	return &ring->cells[index & (ring->entries - 1)];
}

/*
 * Orders stores into cells before the loads from cells that follow. The partner is smp_wmb() in
 * kvm_dirty_ring_push(). Two ordered stores there and a barrier here suffice on multi-copy atomic
 * machines, and every architecture with rings is one; neither C11 nor the kernel's own memory model
 * promises it.
 *
 * ThreadSanitizer does not know fences. It needs none here, since all accesses are atomic; an RMW
 * of a variable that orders nothing else is as good a barrier on x86.
 */
static inline void ring_barrier(struct dli_ring *ring)
{
#ifdef DLI_TSAN
	atomic_fetch_add_explicit(&ring->stats.overflows, 0, memory_order_seq_cst);
#else
	(void)ring;
	atomic_thread_fence(memory_order_seq_cst);
#endif
}

/*
 * A full exit that finds fewer entries than this found no full ring. At most what a full ring holds
 * on every known kernel: entries - 64 with 256 or more, entries - 576 with 1024 or more.
 */
static inline uint32_t ring_nudge_entries(const struct dli_ring *ring)
{
	return ring->entries / 4;
}

static inline void ring_request_repair(struct dli_ring *ring)
{
	dli_reset_request_repair(ring->reset);
}

/* recovery.c. Called with the ring's lock held, inside the reset section. */

/* Gives up on the kernel's indices: wipes the ring and requests a repair. */
void dli_ring_desync(struct dli_ring *ring, struct dli_reset *reset);

/* RING_DESYNCED: back in sync, if the kernel has filled a cell since. */
int dli_ring_resync(struct dli_ring *ring, struct dli_reset *reset);

#endif
