/* SPDX-License-Identifier: MIT */
#ifndef DLI_RING_CELLS_H
#define DLI_RING_CELLS_H

/*
 * A ring as ring.c and ring_recovery.c know it, and the only acquire and release of its cells. The
 * partner is virt/kvm/dirty_ring.c, named at each.
 */

#include "ring.h"
#include "tsan.h"

#include <stdatomic.h>

enum ring_state {
	RING_IN_SYNC,  /* head is the oldest cell that is not released */
	RING_DESYNCED, /* the kernel's indices are unknown; what is dirty was filled since */
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
	uint32_t copied;		   /* cells from head on that are copied and not released */
	struct kvm_dirty_gfn first_copied; /* what stood at head when they were copied */
	uint32_t first_released;	   /* of the last release */
	uint32_t before_released;	   /* the cell before that */
	uint32_t reset_index_hint;	   /* RING_DESYNCED: where the reset index may be */
	bool reset_pending;		   /* released, and no reset has taken it back yet */
	bool nudge_armed; /* the last full exit found little, and nobody released a cell since */
	/*
	 * What the cells named, word by word, as neighbours mostly come one after the other. Room for a
	 * word a cell: first those of released cells, then those of copied ones.
	 */
	struct dli_dirty_word *words;
	uint32_t released_entries, released_words, copied_words;
	_Atomic uint64_t entries_seen; /* written under the lock */
	_Atomic uint64_t oldest;       /* head for who has no lock; UINT64_MAX: not known */
	dli_ring_head *published_head; /* NULL: nobody looks */
	struct dli_ring *next_of_party;
	struct dli_ring_stats stats;
};

static inline struct kvm_dirty_gfn *cell_at(const struct dli_ring *ring, uint32_t index)
{
	return &ring->cells[index & (ring->entries - 1)];
}

static inline _Atomic uint32_t *cell_flags(struct kvm_dirty_gfn *cell)
{
	return (_Atomic uint32_t *)&cell->flags;
}

/* Pairs with the smp_wmb() and flag store of kvm_dirty_ring_push(): slot and offset are there. */
static inline uint32_t cell_load(struct kvm_dirty_gfn *cell)
{
	return atomic_load_explicit(cell_flags(cell), memory_order_acquire);
}

/*
 * What a dirty cell says. Atomic, though nobody writes a cell between its flag and its release: a
 * kernel that overflows does, and then what is read here is thrown away.
 */
static inline struct kvm_dirty_gfn cell_read(struct kvm_dirty_gfn *cell)
{
	return (struct kvm_dirty_gfn){
		.slot = atomic_load_explicit((_Atomic uint32_t *)&cell->slot, memory_order_relaxed),
		.offset = atomic_load_explicit((_Atomic uint64_t *)&cell->offset,
					       memory_order_relaxed),
	};
}

/*
 * Pairs with smp_load_acquire() in kvm_dirty_gfn_harvested(): slot and offset were read before, so
 * the kernel may fill the cell anew.
 */
static inline void cell_release(struct kvm_dirty_gfn *cell)
{
	atomic_store_explicit(cell_flags(cell), CELL_RESET, memory_order_release);
}

/* As cell_release(), but the kernel may fill the cell anew at once: kvm_dirty_ring_push(). */
static inline void cell_clear(struct kvm_dirty_gfn *cell)
{
	atomic_store_explicit(cell_flags(cell), CELL_CLEAN, memory_order_release);
}

/*
 * False where the cell was not as expected any more. To CELL_RESET it pairs as cell_release() does;
 * back from there with smp_store_release() in kvm_dirty_gfn_set_invalid(), should the kernel be at
 * this cell: who has it is through with slot and offset.
 */
static inline bool cell_change(struct kvm_dirty_gfn *cell, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong_explicit(cell_flags(cell), &from, to,
						       memory_order_acq_rel, memory_order_relaxed);
}

/*
 * Orders what was stored into cells before what is looked at in them next. The partner is smp_wmb()
 * in kvm_dirty_ring_push(). Two stores in order there and a barrier here are enough where all
 * processors see stores in one order, as they do on every architecture that has rings; neither C11
 * nor the kernel's own memory model promises that.
 *
 * ThreadSanitizer knows no fences. It needs none here, as nothing but atomics is looked at; an RMW
 * of a variable that orders nobody else is as good a barrier on x86.
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

static inline void ring_count(_Atomic uint64_t *counter, uint64_t n)
{
	if (n)
		atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/*
 * Fewer entries than this in a full exit are no full ring. At most what a ring holds when it is
 * full on every known kernel: entries - 64 with 256 or more, entries - 576 with 1024 or more.
 */
static inline uint32_t ring_nudge_entries(const struct dli_ring *ring)
{
	return ring->entries / 4;
}

static inline void ring_request_repair(struct dli_ring *ring)
{
	dli_reset_request_repair(ring->reset);
}

/*
 * Whether there is nothing in a ring, and nothing of it on its way, for who does not hold its lock.
 * Pairs with dli_ring_unlock(): what had been in it is published. A drain that began meanwhile has
 * hidden the head before its reset made the cell clean.
 */
static inline bool ring_is_quiet(const dli_ring_head *head)
{
	struct kvm_dirty_gfn *cell = atomic_load_explicit(head, memory_order_acquire);

	return cell && cell_load(cell) == CELL_CLEAN &&
	       atomic_load_explicit(head, memory_order_relaxed) == cell;
}

/* For all that follow: ring lock held, inside the reset section. */

/* The two sides are out of step: wipes the ring and owes a repair. */
void dli_ring_desync(struct dli_ring *ring, struct dli_reset *reset);

/* RING_DESYNCED: gets into step, where the kernel has filled a cell since. */
int dli_ring_resync(struct dli_ring *ring, struct dli_reset *reset);

/*
 * In the vCPU's own second full exit in a row that finds little, nobody having released a cell
 * since the first: moves the kernel's reset index on, by less than would be too far.
 */
int dli_ring_nudge(struct dli_ring *ring, struct dli_reset *reset);

#endif
