/* SPDX-License-Identifier: MIT */
/* Estimates when the next harvest is due. */

#include "pace.h"

/*
 * A harvest is due when a ring is filled to one part in DUE_SHARE of what it holds. The rest is for
 * the entries that come during the harvest, and for a thread that is late.
 */
#define DUE_SHARE 2u

static uint64_t get(const _Atomic uint64_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

void dli_pace_note(struct dli_pace *pace, struct dli_vcpu_list *vcpus, bool first)
{
	uint64_t now_ns = dli_os_now_ns(pace->os);
	uint64_t span_ns = first ? 0 : now_ns - get(&pace->harvested_at_ns);

	atomic_store_explicit(&pace->span_entries, dli_vcpu_list_take_fastest(vcpus),
			      memory_order_relaxed);
	atomic_store_explicit(&pace->span_ns, span_ns, memory_order_relaxed);
	atomic_store_explicit(&pace->harvested_at_ns, now_ns, memory_order_relaxed);
}

/*
 * Assumes the rate of the fastest vCPU before the last harvest, or this vCPU's own since then if
 * that is
 * greater: so a vCPU that has just begun to write counts, and one that pauses still does.
 */
static uint64_t until_due(struct dli_ring *ring, double before_per_ns, uint64_t since_ns)
{
	const struct dli_ring_pace pace = dli_ring_pace(ring);
	uint32_t may_fill = pace.room / DUE_SHARE;
	double per_ns = before_per_ns, until_ns;

	if (pace.filled >= may_fill)
		return 0;
	if (since_ns && (double)pace.since > per_ns * (double)since_ns)
		per_ns = (double)pace.since / (double)since_ns;
	if (!(per_ns > 0))
		return UINT64_MAX;
	until_ns = (may_fill - pace.filled) / per_ns;
	/* Clamp centuries to never; a larger double would overflow the conversion. */
	return until_ns < (double)(UINT64_MAX / 2) ? (uint64_t)until_ns : UINT64_MAX;
}

uint64_t dli_pace_until_due(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus)
{
	uint64_t due_ns = UINT64_MAX, harvested_ns, since_ns, span_ns;
	double before_per_ns = 0;

	/* Load the harvest's time before the clock: the difference must not be negative. */
	harvested_ns = get(&pace->harvested_at_ns);
	since_ns = dli_os_now_ns(pace->os) - harvested_ns;
	span_ns = get(&pace->span_ns);
	if (span_ns)
		before_per_ns = (double)get(&pace->span_entries) / (double)span_ns;
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));) {
		uint64_t until_ns =
			vcpu->ring ? until_due(vcpu->ring, before_per_ns, since_ns) : UINT64_MAX;

		if (until_ns < due_ns)
			due_ns = until_ns;
	}
	return due_ns;
}
