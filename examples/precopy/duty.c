/* SPDX-License-Identifier: MIT */
#include "duty.h"
#include "../clock.h"

#define SLICE_NS (10 * NS_PER_MS)

static uint64_t sleep_ns(const struct duty *duty, unsigned int percent)
{
	uint64_t ns = SLICE_NS * percent / (100 - percent);

	return duty->longest_ns && ns > duty->longest_ns ? duty->longest_ns : ns;
}

uint64_t duty_step(struct duty *duty, struct machine *machine)
{
	unsigned int percent = duty->percent;

	if (!percent)
		return SLICE_NS;
	for (uint32_t id = 0; id < machine->layout.vcpus; id++)
		if (!atomic_exchange(&duty->due[id], true))
			machine_kick(machine, id);
	return sleep_ns(duty, percent) * 100 / percent;
}

uint64_t duty_pause(struct duty *duty, const struct vcpu *vcpu)
{
	unsigned int percent = duty->percent;

	if (!percent || !atomic_exchange(&duty->due[vcpu->id], false))
		return 0;
	return sleep_ns(duty, percent);
}

uint32_t duty_limited(const struct duty *duty, const struct machine *machine)
{
	return duty->percent ? (1u << machine->layout.vcpus) - 1 : 0;
}
