/* SPDX-License-Identifier: MIT */
/* Reads the library's internal state; compiled like the library. */
#include "log.h"
#include "ring/ring_private.h"
#include "insight.h"

bool insight_overflow_known(const struct dl_log *log)
{
	return log && log->reset.overflowed;
}

uint64_t insight_repairs(const struct dl_log *log)
{
	return log ? log->repairs : 0;
}

uint64_t insight_saving_repair(const struct dl_log *log)
{
	bool in_progress =
		log && log->reset.repair_requests_seen != log->reset.repair_requests_served;

	return insight_repairs(log) + 1 + in_progress;
}

static uint32_t count_filled(const struct dli_ring *ring)
{
	uint32_t n = 0;

	while (n < ring->entries && cell_at(ring, ring->head + n)->flags == CELL_DIRTY)
		n++;
	return n;
}

/* No points in here, so that the result is a snapshot. */
bool insight_ring(const struct dl_vcpu *vcpu, struct insight_ring *out)
{
	const struct dli_ring *ring = vcpu->ring;

	if (!ring || ring->state != RING_IN_SYNC)
		return false;
	*out = (struct insight_ring){
		.head = ring->head,
		.published = ring->head - ring->released_entries,
		.filled = count_filled(ring),
		.overflows = ring->stats.overflows,
	};
	return true;
}
