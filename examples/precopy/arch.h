/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_ARCH_H
#define PRECOPY_ARCH_H

#include "machine.h"

/*
 * What differs between x86-64 and arm64 under KVM. All return 0 or a negative errno value, and fill
 * the machine's or the vCPU's why then.
 */

void arch_open(struct machine *machine);
int arch_add_vcpu(struct vcpu *vcpu);
void arch_page_tables(struct machine *machine); /* writes the guest's into its memory */
int arch_boot_vcpu(struct vcpu *vcpu);
int arch_save(struct vcpu *vcpu, struct vcpu_state *state);
int arch_load(struct vcpu *vcpu, const struct vcpu_state *state);

/* What the guest says by the exit that is in vcpu->run: GUEST_SAYS_*. */
int arch_doorbell(struct vcpu *vcpu);

#endif
