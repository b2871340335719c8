/* SPDX-License-Identifier: MIT */
#ifndef GUEST_ARCH_H
#define GUEST_ARCH_H

#include "machine.h"

/*
 * The parts of the KVM machine that differ between x86-64 and arm64. All functions return 0, or a
 * negative errno value with the reason in the machine's or the vCPU's why.
 */

void arch_open(struct machine *machine);
int arch_add_vcpu(struct vcpu *vcpu);
void arch_page_tables(struct machine *machine); /* builds them in guest memory */
int arch_boot_vcpu(struct vcpu *vcpu);
int arch_save(struct vcpu *vcpu, struct vcpu_state *state);
int arch_load(struct vcpu *vcpu, const struct vcpu_state *state);

/* The GUEST_EVENT_* of the exit in vcpu->run; any other exit is an error. */
int arch_doorbell(struct vcpu *vcpu);

#endif
