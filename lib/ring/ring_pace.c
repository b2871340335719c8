/* SPDX-License-Identifier: MIT */
/* How full a ring is, and how fast it fills, for readers without its lock. */

#include "ring/ring_private.h"

/* Cells are filled in order, so the first one that is not dirty is found by bisection. */
static uint32_t count_filled(struct dli_ring *ring)
{
	uint64_t oldest = atomic_load_explicit(&ring->oldest, memory_order_relaxed);
	uint32_t head = (uint32_t)oldest, low = 1, high = ring->entries;

	/* Most rings are empty, and then the first cell is all that is read. */
	if (oldest == UINT64_MAX || cell_load(cell_at(ring, head)) != CELL_DIRTY)
		return 0;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (cell_load(cell_at(ring, head + middle)) == CELL_DIRTY)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* A kernel reserves 64 entries, and 512 more with PML; then it accepts no ring below 1024. */
static uint32_t usable_entries(const struct dli_ring *ring)
{
	uint32_t kept = ring->entries < 1024 ? 64 : 576;

	return ring->entries > kept ? ring->entries - kept : ring->entries / 4;
}

struct dli_ring_pace dli_ring_pace(struct dli_ring *ring)
{
	struct dli_ring_pace pace = { .filled = count_filled(ring), .room = usable_entries(ring) };
	uint64_t seen = atomic_load_explicit(&ring->entries_seen, memory_order_relaxed);
	uint64_t entries = atomic_load_explicit(&ring->stats.entries, memory_order_relaxed);

	pace.total = entries + pace.filled;
	pace.since = (entries > seen ? entries - seen : 0) + pace.filled;
	return pace;
}
