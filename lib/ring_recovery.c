/* SPDX-License-Identifier: MIT */
/*
 * Bringing a ring and its reader together again.
 *
 * The kernel keeps two indices to itself: where it fills next (dirty) and what it takes back next
 * (reset). It lets the vCPU in while dirty - reset is below a limit that it does not tell either.
 * After an overflow neither can be read off the cells. What can be had:
 *   - In the vCPU's own full exit dirty stands still and is ahead of reset by the limit at least,
 *     as long as nobody releases a cell of this ring.
 *   - A released cell is taken back if, and only if, it is at the reset index. Offering one cell
 *     after the other finds that index, and moves it by one.
 *   - One cell a full exit moves it on until the kernel lets the vCPU in: never too far, which
 * would leave the difference below zero and the vCPU outside for ever.
 *   - All cells were wiped, so the first one that is dirty then is where the kernel had gone on.
 * What was in the wiped cells is lost, and what the overwritten ones named was never protected
 * again: the next harvest repairs the whole VM for that (wants_repair).
 */

#include "ring_cells.h"

/*
 * Full exits with nothing to read in a row before they are believed. One would do if every caller
 * drained exactly once an exit; who drains twice must not set off a recovery of a healthy ring.
 */
#define IDLE_EXITS 8

void ring_suspect(struct dli_ring *ring)
{
	ring_set_state(ring, RING_SUSPECT);
	ring_note_trouble(ring);
	atomic_fetch_add_explicit(&ring->stats.overflows, 1, memory_order_relaxed);
}

/*
 * Drops what the cells say. Noted as trouble afterwards, not before: a repair in between would not
 * cover what is dropped after it.
 */
static void wipe(struct dli_ring *ring)
{
	for (uint32_t i = 0; i < ring->entries; i++)
		cell_clear(ring, i);
	ring_note_trouble(ring);
}

/* Offers one cell. 1: the kernel took it back; 0: it did not, and the offer is withdrawn. */
static int offer(struct dli_ring *ring, struct dli_reset *reset, uint32_t index)
{
	int r;

	cell_release(ring, index);
	r = dli_reset_rings(reset);
	/* Another vCPU's reset may still take it back between the look and the withdrawal. */
	if (!cell_change(ring, index, CELL_RESET, CELL_CLEAN))
		return 1;
	return r < 0 ? r : 0;
}

static int find_reset_index(struct dli_ring *ring, struct dli_reset *reset)
{
	wipe(ring);
	for (uint32_t i = 0; i < ring->entries; i++) {
		int r = offer(ring, reset, i);

		if (r < 0)
			return r;
		if (r) {
			ring->reset_index = i + 1;
			ring_set_state(ring, RING_REJOINING);
			return 0;
		}
	}
	return 0;
}

static int advance_reset_index(struct dli_ring *ring, struct dli_reset *reset)
{
	int r = offer(ring, reset, ring->reset_index);

	if (r < 0)
		return r;
	if (r)
		ring->reset_index++;
	else
		ring_suspect(ring);
	return 0;
}

/* Nothing that any reset could take back is left, so the next full exit speaks for itself. */
static int hold_still(struct dli_ring *ring, struct dli_reset *reset)
{
	int r;

	if (ring->state == RING_SUSPECT)
		wipe(ring);
	/* One that began before the wipe is over when this returns. */
	r = dli_reset_rings(reset);
	if (r < 0)
		return r;
	ring->held = true;
	return 0;
}

bool ring_rejoin(struct dli_ring *ring)
{
	for (uint32_t stale = 0; stale < ring->entries; stale++) {
		if (cell_load(ring, ring->reset_index + stale) != CELL_DIRTY)
			continue;
		for (uint32_t i = 0; i < stale; i++)
			cell_release(ring, ring->reset_index + i);
		ring->head = ring->reset_index + stale;
		ring->held = false;
		ring_set_state(ring, RING_IN_STEP);
		return true;
	}
	return false;
}

int ring_answer_full(struct dli_ring *ring, struct dli_reset *reset, enum ring_state was,
		     uint32_t taken, bool was_held)
{
	if (ring->state == RING_IN_STEP && taken) {
		ring->held = true;
		ring->idle_exits = 0;
		return 0;
	}
	/*
	 * What became suspect in this very exit waits for the next one: its own reset has moved the
	 * kernel's index, so that this exit proves nothing any more.
	 */
	if (!was_held || (ring->state == RING_SUSPECT && was != RING_SUSPECT)) {
		ring->idle_exits = 0;
		return hold_still(ring, reset);
	}
	if (ring->state == RING_REJOINING)
		return advance_reset_index(ring, reset);
	if (ring->state != RING_SUSPECT) {
		/* Full, and nothing in it, and nobody but this thread has emptied it. */
		if (++ring->idle_exits < IDLE_EXITS)
			return 0;
		ring_suspect(ring);
	}
	return find_reset_index(ring, reset);
}
