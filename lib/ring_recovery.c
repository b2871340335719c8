/* SPDX-License-Identifier: MIT */
/*
 * Bringing a ring and its reader together again.
 *
 * The kernel keeps two indices to itself: where it fills next (dirty) and what it takes back next
 * (reset). It lets the vCPU in while dirty - reset is below a limit that it does not tell either.
 * After an overflow neither can be read off the cells. What can be had:
 *   - In the vCPU's own full exit dirty stands still, and is ahead of reset by the limit at least,
 *     as long as no cell of this ring can be taken back. So all are wiped, and the exit that
 *     counts is the next one.
 *   - Released cells are taken back from the reset index on, and no others. Offering block after
 *     block finds that index and moves it to the block's end. A block is smaller than the limit,
 *     so reset never overtakes dirty, which would leave the vCPU outside for ever.
 *   - Another block a full exit moves it on until the kernel lets the vCPU in.
 *   - All cells were wiped, so the first one that is dirty then is where the kernel had gone on.
 * What was in the wiped cells is lost, and what the overwritten ones named was never protected
 * again: the next harvest repairs the whole VM for that (ring_owe).
 */

#include "ring_cells.h"

static void wipe(struct dli_ring *ring)
{
	for (uint32_t i = 0; i < ring->entries; i++)
		cell_clear(ring, i);
	ring->stale = ring->fresh = ring->released_entries = 0;
	ring->unsettled = false;
	/* After the wipe: a repair between the two would not cover what is dropped. */
	ring_owe(ring);
}

void ring_lose(struct dli_ring *ring, struct dli_reset *reset)
{
	wipe(ring);
	ring->state = RING_SUSPECT;
	ring->armed = false;
	atomic_store_explicit(&reset->overflowed, true, memory_order_relaxed);
	ring_count(&ring->stats.overflows, 1);
}

void ring_drop_dirty(struct dli_ring *ring)
{
	bool dropped = false;

	for (uint32_t i = 0; i < ring->entries; i++)
		if (cell_load(ring, i) == CELL_DIRTY) {
			cell_clear(ring, i);
			dropped = true;
		}
	if (dropped)
		ring_owe(ring);
}

bool ring_find_stale(struct dli_ring *ring)
{
	uint32_t stale = 0;

	while (stale < ring->entries && cell_load(ring, ring->head + stale) != CELL_DIRTY)
		stale++;
	if (stale == ring->entries)
		return false;
	/* The vCPU may have filled cells behind the one that was looked at. */
	while (stale && cell_load(ring, ring->head + stale - 1) == CELL_DIRTY)
		stale--;
	ring->stale = stale;
	return true;
}

/*
 * Offers cells and withdraws those that are not taken. 1: *next is behind the last that was; 0:
 * none was, or the kernel fills them, which it cannot while the vCPU is out.
 */
static int offer(struct dli_ring *ring, struct dli_reset *reset, uint32_t first, uint32_t *next)
{
	uint32_t count = ring_block(ring);
	int r, taken = 0;

	for (uint32_t i = 0; i < count; i++)
		cell_release(ring, first + i);
	r = dli_reset_rings(reset);
	for (uint32_t i = 0; i < count; i++) {
		if (cell_change(ring, first + i, CELL_RESET, CELL_CLEAN))
			continue;
		*next = first + i + 1;
		taken = 1;
	}
	if (!taken && r < 0)
		return r;
	return taken && cell_load(ring, *next - 1) == CELL_CLEAN;
}

static int find_reset_index(struct dli_ring *ring, struct dli_reset *reset)
{
	for (uint32_t first = 0; first < ring->entries; first += ring_block(ring)) {
		int r = offer(ring, reset, first, &ring->head);

		if (r < 0)
			return r;
		if (r) {
			ring->state = RING_LOOSE;
			return 0;
		}
	}
	return 0;
}

int ring_recover(struct dli_ring *ring, struct dli_reset *reset)
{
	int r;

	if (ring->state == RING_LOOSE) {
		wipe(ring);
		r = offer(ring, reset, ring->head, &ring->head);
		if (r)
			return r < 0 ? r : 0;
	}
	ring_lose(ring, reset);
	return find_reset_index(ring, reset);
}
