/* SPDX-License-Identifier: MIT */
#include "throttle.h"

/*
 * --throttle auto-converge: what QEMU's migration capability of that name does by default. Every
 * vCPU, whatever it does, runs for 10 ms and then sleeps, for a share of its time that begins with
 * 20% and grows in steps of 10% to 99%.
 */

enum { INITIAL_PERCENT = 20, INCREMENT_PERCENT = 10, MOST_PERCENT = 99 };

static void harder(struct throttle *throttle)
{
	unsigned int percent = throttle->duty.percent;

	percent = percent ? percent + INCREMENT_PERCENT : INITIAL_PERCENT;
	throttle->duty.percent = percent < MOST_PERCENT ? percent : MOST_PERCENT;
}

static uint64_t step(struct throttle *throttle)
{
	return duty_step(&throttle->duty, throttle->machine);
}

static uint64_t pause_due(void *opaque, struct vcpu *vcpu)
{
	struct throttle *throttle = opaque;

	return duty_pause(&throttle->duty, vcpu);
}

static uint32_t limited(const struct throttle *throttle)
{
	return duty_limited(&throttle->duty, throttle->machine);
}

const struct throttle_kind throttle_auto_converge = {
	.step = step,
	.harder = harder,
	.pause_due = pause_due,
	.limited = limited,
};
