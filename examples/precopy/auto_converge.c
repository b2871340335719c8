/* SPDX-License-Identifier: MIT */
#include "throttle.h"
#include "../clock.h"

/*
 * --throttle auto-converge: what QEMU's migration capability of that name does by default. Every
 * vCPU, whatever it does, runs for 10 ms and then sleeps, for a share of its time that begins with
 * 20% and grows in steps of 10% to 99%.
 */

#define SLICE_NS (10 * NS_PER_MS)

enum { INITIAL_PERCENT = 20, INCREMENT_PERCENT = 10, MOST_PERCENT = 99, IDLE_STEP_MS = 10 };

static void harder(struct throttle *throttle)
{
	unsigned int percent = throttle->percent;

	percent = percent ? percent + INCREMENT_PERCENT : INITIAL_PERCENT;
	throttle->percent = percent < MOST_PERCENT ? percent : MOST_PERCENT;
}

/* The timer: sends every vCPU to sleep once in a period. */
static uint64_t step(struct throttle *throttle)
{
	unsigned int percent = throttle->percent;

	if (!percent)
		return IDLE_STEP_MS * NS_PER_MS;
	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++)
		if (!atomic_exchange(&throttle->scheduled[id], true))
			machine_kick(throttle->machine, id);
	return SLICE_NS * 100 / (100 - percent);
}

static uint64_t pause_due(void *opaque, struct vcpu *vcpu)
{
	struct throttle *throttle = opaque;
	unsigned int percent = throttle->percent;

	if (!percent || !atomic_exchange(&throttle->scheduled[vcpu->id], false))
		return 0;
	return SLICE_NS * percent / (100 - percent);
}

static uint32_t limited(const struct throttle *throttle)
{
	return throttle->percent ? (1u << throttle->machine->layout.vcpus) - 1 : 0;
}

const struct throttle_kind throttle_auto_converge = {
	.step = step,
	.harder = harder,
	.pause_due = pause_due,
	.limited = limited,
};
