/* SPDX-License-Identifier: MIT */
/*
 * Full exits, and bringing a ring back in sync after an overflow.
 *
 * The kernel does not export its two indices: dirty (the next cell it fills) and reset (the next
 * cell it takes back). It lets the vCPU into the guest while dirty - reset is below a limit, which
 * it does not export either. After an overflow the cells no longer tell where the indices are, so
 * all of them are wiped (dli_ring_desync). From then on:
 *   - A dirty cell was filled since the wipe, and the first one of its run is where the kernel
 *     continued, unless it lapped the ring during the wipe: see copy_overwritten(). A reset stops
 *     at a dirty cell: with every other cell released, it moves the reset index there and no
 *     further, and both sides are in sync (dli_ring_resync). Any drain can do this.
 *   - A vCPU that is kept outside by a full ring fills nothing. In its own full exit dirty is ahead
 *     of reset by at least the limit, provided that nothing could be taken back since. So a block
 *     of released cells smaller than the limit cannot make reset overtake dirty, which would keep
 *     the vCPU outside for ever. Every cell outside the block is clean or dirty, so a reset stops
 *     at the block's end at the latest. Offering block after block finds the one that the reset
 *     index is in, and moves the index to that block's end: once a full exit, until the kernel lets
 *     the vCPU in (dli_ring_nudge). Any release of a cell in between disarms the nudge: the next
 *     full exit then proves nothing.
 * The wiped entries are lost, and the pages of overwritten entries were never protected again: the
 * next harvest repairs the whole VM for that (ring_request_repair).
 *
 * A wrong guess, from a reset that was cut short for example, only leads to another round.
 */

#include "kvm/trace.h"
#include "ring/ring_private.h"

/*
 * KVM writes kvm_run before KVM_RUN returns on the vCPU's thread, so that thread needs no ordering
 * here. Another thread may drain the ring too, and then reads a stale value at worst.
 */
static _Atomic uint32_t *exit_reason(struct dli_ring *ring)
{
	return (_Atomic uint32_t *)&ring->run->exit_reason;
}

bool dli_ring_exited_full(struct dli_ring *ring)
{
	return atomic_load_explicit(exit_reason(ring), memory_order_relaxed) ==
	       KVM_EXIT_DIRTY_RING_FULL;
}

bool dli_ring_found_little(const struct dli_ring *ring)
{
	return ring->copied < ring_nudge_entries(ring);
}

/*
 * The exit reason survives a KVM_RUN that does not reach the guest, so the next drain could take
 * this exit for another one. So it is overwritten after an exit that found little, which to the VMM
 * then looks interrupted.
 */
void dli_ring_arm_nudge(struct dli_ring *ring)
{
	uint32_t full = KVM_EXIT_DIRTY_RING_FULL;

	/* Compare first: if the caller is not the vCPU's thread, another exit may have happened. */
	ring->nudge_armed =
		atomic_compare_exchange_strong_explicit(exit_reason(ring), &full, KVM_EXIT_INTR,
							memory_order_relaxed, memory_order_relaxed);
}

void dli_ring_disarm_nudge(struct dli_ring *ring)
{
	ring->nudge_armed = false;
}

bool dli_ring_nudge_armed(const struct dli_ring *ring)
{
	return ring->nudge_armed;
}

void dli_ring_desync(struct dli_ring *ring, struct dli_reset *reset)
{
	for (uint32_t i = 0; i < ring->entries; i++)
		cell_clear(cell_at(ring, i));
	ring->state = RING_DESYNCED;
	ring->copied = ring->released_entries = ring->released_words = 0;
	ring->reset_pending = ring->reset_has_failed = ring->nudge_armed = false;
	ring->reset_index_hint = 0;
	/* After the wipe: a repair in between would not cover the dropped entries. */
	ring_request_repair(ring);
	atomic_store_explicit(&reset->overflowed, true, memory_order_relaxed);
	ring_count(&ring->stats.overflows, 1);
	DLI_TRACE_RING_OVERFLOW(atomic_load_explicit(&ring->cookie, memory_order_relaxed), ring);
}

/*
 * Finds the first cell of a run of dirty ones; the kernel may have begun it after the search
 * passed. False if none is dirty; *first is entries if all are.
 */
static bool find_run(struct dli_ring *ring, uint32_t *first)
{
	uint32_t i = 0, back = 0;

	while (i < ring->entries && cell_load(cell_at(ring, i)) != CELL_DIRTY)
		i++;
	if (i == ring->entries)
		return false;
	while (back < ring->entries && cell_load(cell_at(ring, i - back - 1)) == CELL_DIRTY)
		back++;
	*first = back == ring->entries ? ring->entries : (i - back) & (ring->entries - 1);
	return true;
}

static void offer(struct dli_ring *ring, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		cell_change(cell_at(ring, first + i), CELL_CLEAN, CELL_RESET);
}

/*
 * Un-releases the cells that the reset did not consume. True if it consumed some; then *next is
 * past the last of them. If the kernel has filled the cell in front of a consumed one meanwhile, it
 * has lapped the ring, and may have filled and lost the consumed one too.
 */
static bool withdraw(struct dli_ring *ring, uint32_t first, uint32_t count, uint32_t *next,
		     bool *lapped)
{
	bool consumed = false;

	*lapped = false;
	for (uint32_t i = 0; i < count; i++) {
		if (cell_change(cell_at(ring, first + i), CELL_RESET, CELL_CLEAN) ||
		    cell_load(cell_at(ring, first + i)) == CELL_DIRTY)
			continue;
		*lapped |= cell_load(cell_at(ring, first + i - 1)) == CELL_DIRTY;
		*next = first + i + 1;
		consumed = true;
	}
	if (*lapped)
		ring_request_repair(ring);
	return consumed;
}

int dli_ring_resync(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t first, next;
	bool lapped;
	int r;

	if (!find_run(ring, &first))
		return 0;
	if (first == ring->entries) {
		dli_ring_desync(ring, reset);
		return 0;
	}
	offer(ring, first + 1, ring->entries - 1);
	r = dli_reset_rings(reset);
	(void)withdraw(ring, first + 1, ring->entries - 1, &next, &lapped);
	if (r < 0)
		return r;
	/* As in dli_ring_verify(): a cell that was cleaned could hide what follows. */
	if (lapped && atomic_load_explicit(&reset->overflowed, memory_order_relaxed)) {
		dli_ring_desync(ring, reset);
		return 0;
	}
	ring->head = first;
	ring->doubtful_entries = ring->entries;
	ring->state = RING_IN_SYNC;
	ring->nudge_armed = false;
	return 0;
}

int dli_ring_nudge(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t block = ring_nudge_entries(ring), first;
	bool lapped;
	int r = 0;

	if (ring->state != RING_DESYNCED)
		dli_ring_desync(ring, reset);
	/* From where the last nudge ended. One block more than fit, as it need not be aligned. */
	first = ring->reset_index_hint;
	for (uint32_t offered = 0; offered <= ring->entries && r >= 0; offered += block) {
		offer(ring, first + offered, block);
		/* A reset that fails may have consumed some cells before: withdraw() finds them. */
		r = dli_reset_rings(reset);
		if (withdraw(ring, first + offered, block, &ring->reset_index_hint, &lapped))
			break;
	}
	return r < 0 ? r : 0;
}
