/* SPDX-License-Identifier: MIT */
/* Estimates when the next harvest is due. */

#include "pace.h"

/*
 * A harvest is due when a ring is filled to one part in DUE_SHARE of what it holds. The rest is for
 * the entries that come during the harvest, and for a thread that is late.
 */
#define DUE_SHARE 2u

void dli_pace_note(struct dli_pace *pace, struct dli_vcpu_list *vcpus, uint64_t began_ns,
		   bool first)
{
	uint64_t before_ns =
		atomic_exchange_explicit(&pace->drained_at_ns, began_ns, memory_order_relaxed);
	double entries = (double)dli_vcpu_list_take_fastest(vcpus), per_ns = 0;

	if (!first) {
		/* Another thread that began later was faster: it has noted a rate. */
		if (began_ns <= before_ns)
			return;
		per_ns = entries / (double)(began_ns - before_ns);
	}
	atomic_store_explicit(&pace->entries_per_ns, per_ns, memory_order_relaxed);
}

/*
 * Assumes the rate of the fastest vCPU before the last drain, or this vCPU's own since then if that
 * is greater: so a vCPU that has just begun to write counts, and one that pauses still does.
 */
static uint64_t until_due(struct dli_ring_pace pace, double before_per_ns, uint64_t since_ns)
{
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

struct dli_look dli_pace_look(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus)
{
	struct dli_look look = { .until_due_ns = UINT64_MAX };
	double before_per_ns = atomic_load_explicit(&pace->entries_per_ns, memory_order_relaxed);
	/* Load the drain's time before the clock: the difference must not be negative. */
	uint64_t drained_ns = atomic_load_explicit(&pace->drained_at_ns, memory_order_relaxed);
	uint64_t since_ns = dli_os_now_ns(pace->os) - drained_ns;

	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));) {
		struct dli_ring_pace ring;
		uint64_t until_ns;

		if (!vcpu->ring)
			continue;
		ring = dli_ring_pace(vcpu->ring);
		until_ns = until_due(ring, before_per_ns, since_ns);
		if (until_ns < look.until_due_ns)
			look.until_due_ns = until_ns;
		look.entries += ring.total;
	}
	return look;
}

uint64_t dli_pace_until_due(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus)
{
	return dli_pace_look(pace, vcpus).until_due_ns;
}
