/* SPDX-License-Identifier: MIT */
/*
 * Bringing a ring and its reader together again.
 *
 * The kernel keeps two indices to itself: where it fills next (dirty) and what it takes back next
 * (reset). It lets the vCPU in while dirty - reset is below a limit that it does not tell either.
 * After an overflow neither can be read off the cells, so all are wiped (dli_ring_desync). From then on:
 *   - A cell that is dirty was filled since, and the first of its run is where the kernel went on. A
 *     reset does not pass a dirty cell: with all others released it moves the reset index there and
 *     no further, and both sides are in step (dli_ring_resync). Any drain can do this.
 *   - The vCPU may be outside with a full ring and fill nothing. In its own full exit dirty is ahead
 *     of reset by the limit at least, as long as nothing can be taken back. A block of released
 *     cells smaller than that limit cannot make reset overtake dirty, which would leave the vCPU
 *     outside for ever. Offering block after block finds the one that the reset index is in, and
 *     moves it to its end; one a full exit, until the kernel lets the vCPU in (dli_ring_nudge).
 * What was in the wiped cells is lost, and what the overwritten ones named was never protected
 * again: the next harvest repairs the whole VM for that (ring_request_repair).
 *
 * A wrong guess (a reset that is cut short, say) only leads to another round.
 */

#include "ring/ring_private.h"

void dli_ring_desync(struct dli_ring *ring, struct dli_reset *reset)
{
	for (uint32_t i = 0; i < ring->entries; i++)
		cell_clear(cell_at(ring, i));
	ring->state = RING_DESYNCED;
	ring->copied = ring->released_entries = ring->released_words = 0;
	ring->reset_pending = ring->nudge_armed = false;
	ring->reset_index_hint = 0;
	/* After the wipe: a repair between the two would not cover what is dropped. */
	ring_request_repair(ring);
	atomic_store_explicit(&reset->overflowed, true, memory_order_relaxed);
	ring_count(&ring->stats.overflows, 1);
}

/*
 * The first cell of a run of dirty ones, which may have begun behind the look. False where none is
 * dirty; entries in *first where all are.
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
 * Takes back from the kernel's sight what it has not taken. Whether it took some; then *next is
 * behind the last. A cell that it took behind one that it has filled meanwhile: it came round, and
 * may have filled that one too.
 */
static bool withdraw(struct dli_ring *ring, uint32_t first, uint32_t count, uint32_t *next)
{
	bool taken = false, kernel_lapped = false;

	for (uint32_t i = 0; i < count; i++) {
		if (cell_change(cell_at(ring, first + i), CELL_RESET, CELL_CLEAN) ||
		    cell_load(cell_at(ring, first + i)) == CELL_DIRTY)
			continue;
		kernel_lapped |= cell_load(cell_at(ring, first + i - 1)) == CELL_DIRTY;
		*next = first + i + 1;
		taken = true;
	}
	if (kernel_lapped)
		ring_request_repair(ring);
	return taken;
}

int dli_ring_resync(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t first, next;
	int r;

	if (!find_run(ring, &first))
		return 0;
	if (first == ring->entries) {
		dli_ring_desync(ring, reset);
		return 0;
	}
	offer(ring, first + 1, ring->entries - 1);
	r = dli_reset_rings(reset);
	(void)withdraw(ring, first + 1, ring->entries - 1, &next);
	if (r < 0)
		return r;
	ring->head = first;
	ring->state = RING_IN_SYNC;
	ring->nudge_armed = false;
	return 0;
}

int dli_ring_nudge(struct dli_ring *ring, struct dli_reset *reset)
{
	uint32_t block = ring_nudge_entries(ring), first;
	int r = 0;

	if (ring->state != RING_DESYNCED)
		dli_ring_desync(ring, reset);
	/* Where the last one ended; one more block than there are, as it need not begin on one. */
	first = ring->reset_index_hint;
	for (uint32_t offered = 0; offered <= ring->entries && r >= 0; offered += block) {
		offer(ring, first + offered, block);
		/* An error may come after some were taken: the cells tell. */
		r = dli_reset_rings(reset);
		if (withdraw(ring, first + offered, block, &ring->reset_index_hint))
			break;
	}
	return r < 0 ? r : 0;
}
