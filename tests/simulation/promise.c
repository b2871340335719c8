/* SPDX-License-Identifier: MIT */
/*
 * The promise of a harvest: every entry that was in a ring when it began is published when it
 * returns, by any thread. This is checked only for rings that stay in sync, for guests that do not
 * overflow them, and for resets without faults: otherwise a repair covers the entries, and the
 * oracle checks the result at the end of the run.
 */
#include "world.h"

void promise_note(struct promise *promise)
{
	promise->epoch = world.epoch;
	promise->n = 0;
	for (uint32_t i = 0; i < PLAN_VCPUS && any_consumer() && !world.plan->overflows; i++) {
		struct promised *promised = &promise->all[promise->n];
		struct insight_ring ring;

		promised->vcpu = world.vcpus[i].handle;
		if (!promised->vcpu || !insight_ring(promised->vcpu, &ring))
			continue;
		promised->filled_to = ring.head + ring.filled;
		promised->overflows = ring.overflows;
		promise->n++;
	}
}

void promise_check(const struct promise *promise)
{
	for (uint32_t i = 0;
	     i < promise->n && promise->epoch == world.epoch && !world.faults.reset_faulty; i++) {
		const struct promised *promised = &promise->all[i];
		struct insight_ring ring;

		if (!insight_ring(promised->vcpu, &ring) || ring.overflows != promised->overflows)
			continue;
		if ((int32_t)(ring.published - promised->filled_to) < 0)
			sim_fail(SIM_PROMISE,
				 "%u entries of a ring are not published after a harvest",
				 promised->filled_to - ring.published);
	}
}
