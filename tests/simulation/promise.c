/* SPDX-License-Identifier: MIT */
/*
 * What a harvest promises: what was in a ring when it began is published when it returns, whoever
 * published it. Only of rings that are in step all the while, of guests that do not run over them, and
 * of resets without faults: otherwise a repair stands for it, and the end of a run tells.
 */
#include "world.h"

void promise_note(struct promise *promise)
{
	promise->epoch = world.epoch;
	promise->n = 0;
	for (uint32_t i = 0; i < PLAN_VCPUS && world.is_on && !world.plan->overflows; i++) {
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
				 "of a ring %u entries are not published after a harvest",
				 promised->filled_to - ring.published);
	}
}
