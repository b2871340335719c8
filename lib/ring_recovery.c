/* SPDX-License-Identifier: MIT */
/*
 * Bringing a ring and its reader together again.
 *
 * The kernel keeps two indices to itself: where it fills next (dirty) and what it takes back next
 * (reset). It lets the vCPU in while dirty - reset is below a limit that it does not tell either.
 * After an overflow neither can be read off the cells, so all are wiped (ring_lose). From then on:
 *   - A cell that is dirty was filled since, and the first of its run is where the kernel went on. A
 *     reset does not pass a dirty cell: with all others released it moves the reset index there and
 *     no further, and both sides are in step (ring_rejoin). Any drain can do this.
 *   - The vCPU may be outside with a full ring and fill nothing. In its own full exit dirty is ahead
 *     of reset by the limit at least, as long as nothing can be taken back. A block of released
 *     cells smaller than that limit cannot make reset overtake dirty, which would leave the vCPU
 *     outside for ever. Offering block after block finds the one that the reset index is in, and
 *     moves it to its end; one a full exit, until the kernel lets the vCPU in (ring_step).
 * What was in the wiped cells is lost, and what the overwritten ones named was never protected
 * again: the next harvest repairs the whole VM for that (ring_owe).
 *
 * A wrong guess (a reset that is cut short, say) only leads to another round.
 */

#include "ring_cells.h"

void ring_lose(struct dli_ring *ring, struct dli_reset *reset)
{
	for (uint32_t i = 0; i < ring->entries; i++)
		cell_clear(ring, i);
	ring->state = RING_SUSPECT;
	ring->fresh = ring->released_entries = 0;
	ring->unsettled = ring->armed = false;
	ring->hint = 0;
	/* After the wipe: a repair between the two would not cover what is dropped. */
	ring_owe(ring);
	atomic_store_explicit(&reset->overflowed, true, memory_order_relaxed);
	ring_count(&ring->stats.overflows, 1);
}

/*
 * The first cell of a run of dirty ones. The kernel fills in order, so once a cell is seen dirty the
 * one before it, if it is of the same run, is seen dirty too: first this, then that. False where none
 * is dirty; entries in *first where all are.
 */
static bool find_run(struct dli_ring *ring, uint32_t *first)
{
	bool any = false;

	for (uint32_t i = 0; i < ring->entries; i++) {
		if (cell_load(ring, i) != CELL_DIRTY)
			continue;
		any = true;
		*first = i;
		if (cell_load(ring, i - 1) != CELL_DIRTY)
			return true;
	}
	*first = ring->entries;
	return any;
}

void ring_rejoin(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t first;
	int r;

	if (!find_run(ring, &first))
		return;
	if (first == ring->entries) {
		ring_lose(ring, reset);
		return;
	}
	for (uint32_t i = 1; i < ring->entries; i++)
		cell_change(ring, first + i, CELL_CLEAN, CELL_RESET);
	r = dli_reset_rings(reset);
	for (uint32_t i = 1; i < ring->entries; i++)
		cell_change(ring, first + i, CELL_RESET, CELL_CLEAN);
	if (r < 0)
		return;
	ring->head = first;
	ring->state = RING_IN_STEP;
	ring->armed = false;
}

/* Offers a block and withdraws what is not taken. Whether some was; then *next is behind it. */
static bool offer(struct dli_ring *ring, struct dli_reset *reset, uint32_t first, uint32_t *next)
{
	uint32_t count = ring_block(ring);
	bool taken = false;

	for (uint32_t i = 0; i < count; i++)
		cell_change(ring, first + i, CELL_CLEAN, CELL_RESET);
	/* An error may come after some were taken: the cells tell. */
	(void)dli_reset_rings(reset);
	for (uint32_t i = 0; i < count; i++) {
		if (cell_change(ring, first + i, CELL_RESET, CELL_CLEAN) ||
		    cell_load(ring, first + i) == CELL_DIRTY)
			continue;
		*next = first + i + 1;
		taken = true;
	}
	return taken;
}

void ring_step(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t block = ring_block(ring), first;

	if (ring->state != RING_SUSPECT)
		ring_lose(ring, reset);
	/* Where the last one ended; one more block than there are, as it need not begin on one. */
	first = ring->hint;
	for (uint32_t offered = 0; offered <= ring->entries; offered += block)
		if (offer(ring, reset, first + offered, &ring->hint))
			return;
}
