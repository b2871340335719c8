/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DUTY_H
#define PRECOPY_DUTY_H

#include "machine.h"

/* Every vCPU alike sleeps for a share of its time: it runs for a slice and then sleeps. */
struct duty {
	atomic_uint percent; /* of its time that a vCPU sleeps, 0 to 99 */
	uint64_t longest_ns; /* of one sleep; 0: whatever follows from a slice of 10 ms */
	atomic_bool due[LAYOUT_MAX_VCPUS]; /* to sleep once */
};

/* Sends every vCPU to sleep, if it is time to. Returns when to call it again. */
uint64_t duty_step(struct duty *duty, struct machine *machine);

/* For machine_set_pauses(). */
uint64_t duty_pause(struct duty *duty, const struct vcpu *vcpu);

/* All vCPUs or none: a bit each. */
uint32_t duty_limited(const struct duty *duty, const struct machine *machine);

#endif
