/* SPDX-License-Identifier: MIT */
#ifndef DLI_CELLS_H
#define DLI_CELLS_H

/*
 * A cell is one of the fixed places of a ring (a struct kvm_dirty_gfn); an entry is what the kernel
 * has put into it. Here are the only acquire and release of a cell's flags. Their partners are in
 * virt/kvm/dirty_ring.c, named at each.
 */

#include "kvm/uapi.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

static inline _Atomic uint32_t *cell_flags(struct kvm_dirty_gfn *cell)
{
	return (_Atomic uint32_t *)&cell->flags;
}

/* Pairs with smp_wmb() and the flag store of kvm_dirty_ring_push(): slot and offset are there. */
static inline uint32_t cell_load(struct kvm_dirty_gfn *cell)
{
	return atomic_load_explicit(cell_flags(cell), memory_order_acquire);
}

/*
 * Reads slot and offset of a dirty cell. Atomic although the kernel leaves a cell alone between its
 * flag and its release: a kernel that overflows does not, and then what is read here is dropped.
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
 * Pairs with smp_load_acquire() in kvm_dirty_gfn_harvested(): slot and offset have been read, so
 * the kernel may refill the cell.
 */
static inline void cell_release(struct kvm_dirty_gfn *cell)
{
	atomic_store_explicit(cell_flags(cell), CELL_RESET, memory_order_release);
}

/* Like cell_release(), but the kernel may refill the cell at once: kvm_dirty_ring_push(). */
static inline void cell_clear(struct kvm_dirty_gfn *cell)
{
	atomic_store_explicit(cell_flags(cell), CELL_CLEAN, memory_order_release);
}

/*
 * Changes flags that are still as expected; false if they are not. A change to CELL_RESET pairs as
 * cell_release() does. A change back pairs with smp_store_release() in kvm_dirty_gfn_set_invalid():
 * if the kernel is at this cell, it has finished with slot and offset.
 */
static inline bool cell_change(struct kvm_dirty_gfn *cell, uint32_t from, uint32_t to)
{
	return atomic_compare_exchange_strong_explicit(cell_flags(cell), &from, to,
						       memory_order_acq_rel, memory_order_relaxed);
}

/* Next cell to read of a ring, for lockless readers; NULL while only its lock can tell. */
typedef _Atomic(struct kvm_dirty_gfn *) dli_ring_head;

/*
 * True if a ring is empty and nothing of it is in transit, without its lock. Pairs with
 * dli_ring_unlock(): what was in the ring before is published. A drain that began since then hid
 * the head before its reset cleaned the cell.
 */
static inline bool ring_is_quiet(const dli_ring_head *head)
{
	struct kvm_dirty_gfn *cell = atomic_load_explicit(head, memory_order_acquire);

	return cell && cell_load(cell) == CELL_CLEAN &&
	       atomic_load_explicit(head, memory_order_relaxed) == cell;
}

#endif
