/* SPDX-License-Identifier: MIT */
#include "arch.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

/*
 * The vCPU runs at EL0 (user) or EL1 (kernel) with the MMU on: with the MMU off, its stores would
 * bypass the caches that the host reads through. One table of 1 GiB blocks maps guest physical
 * addresses to themselves. There are no exception handlers; no exception is expected.
 */

#define CORE(field)                                            \
	(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | \
	 (offsetof(struct kvm_regs, field) / sizeof(uint32_t)))
#define X(n) (CORE(regs.regs[0]) + 2 * (n))

#define SYS_MAIR_EL1  ARM64_SYS_REG(3, 0, 10, 2, 0)
#define SYS_TTBR0_EL1 ARM64_SYS_REG(3, 0, 2, 0, 0)
#define SYS_TCR_EL1   ARM64_SYS_REG(3, 0, 2, 0, 2)
#define SYS_SCTLR_EL1 ARM64_SYS_REG(3, 0, 1, 0, 0)

/* Attribute 0: normal memory, write-back. Attribute 1: device memory. */
#define MAIR (0xffull | 0x00ull << 8)
/*
 * TTBR0 only: 39-bit addresses, 4 KiB granule, cached and inner shareable walks, 40-bit physical
 * addresses.
 */
#define TCR (25ull | 1ull << 8 | 1ull << 10 | 3ull << 12 | 25ull << 16 | 1ull << 23 | 2ull << 32)
/* The RES1 bits, MMU, data cache and instruction cache. */
#define SCTLR (0x30d00800ull | 1ull << 0 | 1ull << 2 | 1ull << 12)

#define BLOCK_VALID	   (1ull << 0)
#define BLOCK_DEVICE	   (1ull << 2) /* attribute 1 */
#define BLOCK_EL0	   (1ull << 6) /* implies no execution at EL1 */
#define BLOCK_INNER_SHARED (3ull << 8)
#define BLOCK_ACCESSED	   (1ull << 10)
#define BLOCK_NO_EXEC	   (3ull << 53)

/* All interrupts are masked. */
#define PSTATE_EL0 0x3c0ull
#define PSTATE_EL1 0x3c5ull

/* In load order: SCTLR, which enables the MMU, comes last. */
static const uint64_t saved_registers[] = {
	X(0),	      X(1),	     X(2),	   X(3),	  X(4),
	X(5),	      X(6),	     X(7),	   X(8),	  X(9),
	X(10),	      X(11),	     X(12),	   X(13),	  X(14),
	X(15),	      X(16),	     X(17),	   X(18),	  X(19),
	X(20),	      X(21),	     X(22),	   X(23),	  X(24),
	X(25),	      X(26),	     X(27),	   X(28),	  X(29),
	X(30),	      CORE(regs.sp), CORE(sp_el1), CORE(regs.pc), CORE(regs.pstate),
	SYS_MAIR_EL1, SYS_TTBR0_EL1, SYS_TCR_EL1,  SYS_SCTLR_EL1,
};

enum { REGISTERS = sizeof(saved_registers) / sizeof(saved_registers[0]) };

_Static_assert(REGISTERS * sizeof(uint64_t) <= sizeof(struct vcpu_state),
	       "struct vcpu_state is too small");

void arch_open(struct machine *machine)
{
	(void)machine;
}

int arch_add_vcpu(struct vcpu *vcpu)
{
	struct kvm_vcpu_init init;

	if (ioctl(vcpu->machine->vm_fd, KVM_ARM_PREFERRED_TARGET, &init))
		return vcpu_fail(vcpu, -errno, "KVM_ARM_PREFERRED_TARGET: %s", strerror(errno));
	/* Without KVM_ARM_VCPU_POWER_OFF every vCPU is runnable from the start. */
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	if (ioctl(vcpu->fd, KVM_ARM_VCPU_INIT, &init))
		return vcpu_fail(vcpu, -errno, "KVM_ARM_VCPU_INIT: %s", strerror(errno));
	return 0;
}

void arch_page_tables(struct machine *machine)
{
	const struct layout *layout = &machine->layout;
	uint64_t *table = (uint64_t *)(machine->memory + layout->page_tables_offset);
	uint64_t common = BLOCK_VALID | BLOCK_ACCESSED, gpa;
	unsigned id;

	if (machine->guest_user)
		common |= BLOCK_EL0;
	table[0] = common | BLOCK_DEVICE | BLOCK_NO_EXEC; /* the doorbell */
	for (id = 0; id < LAYOUT_DEVICE_SLOT; id++)
		for (gpa = layout->slots[id].gpa & ~((1ull << 30) - 1);
		     gpa < layout->slots[id].gpa + layout->slots[id].bytes; gpa += 1 << 30)
			table[gpa >> 30] = gpa | common | BLOCK_INNER_SHARED;
}

static int set_register(struct vcpu *vcpu, uint64_t id, uint64_t value)
{
	struct kvm_one_reg reg = { .id = id, .addr = (uintptr_t)&value };

	if (ioctl(vcpu->fd, KVM_SET_ONE_REG, &reg))
		return vcpu_fail(vcpu, -errno, "cannot set register %#llx: %s",
				 (unsigned long long)id, strerror(errno));
	return 0;
}

int arch_boot_vcpu(struct vcpu *vcpu)
{
	const struct layout *layout = &vcpu->machine->layout;
	uint64_t control = layout_gpa(layout, layout_control_offset(layout, vcpu->id));
	const uint64_t values[][2] = {
		{ CORE(regs.pc), layout_gpa(layout, layout->code_offset) },
		{ CORE(regs.pstate), vcpu->machine->guest_user ? PSTATE_EL0 : PSTATE_EL1 },
		{ X(19), control },
		{ X(20), GUEST_DOORBELL_ADDRESS },
		{ SYS_MAIR_EL1, MAIR },
		{ SYS_TTBR0_EL1, layout_gpa(layout, layout->page_tables_offset) },
		{ SYS_TCR_EL1, TCR },
		{ SYS_SCTLR_EL1, SCTLR },
	};
	size_t i;
	int r = 0;

	for (i = 0; !r && i < sizeof(values) / sizeof(values[0]); i++)
		r = set_register(vcpu, values[i][0], values[i][1]);
	return r;
}

int arch_save(struct vcpu *vcpu, struct vcpu_state *state)
{
	struct kvm_one_reg reg;
	size_t i;

	memset(state, 0, sizeof(*state));
	for (i = 0; i < REGISTERS; i++) {
		reg.id = saved_registers[i];
		reg.addr = (uintptr_t)&state->words[i];
		if (ioctl(vcpu->fd, KVM_GET_ONE_REG, &reg))
			return vcpu_fail(vcpu, -errno, "cannot read register %#llx: %s",
					 (unsigned long long)reg.id, strerror(errno));
	}
	return 0;
}

int arch_load(struct vcpu *vcpu, const struct vcpu_state *state)
{
	size_t i;
	int r = 0;

	for (i = 0; !r && i < REGISTERS; i++)
		r = set_register(vcpu, saved_registers[i], state->words[i]);
	return r;
}

int arch_doorbell(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint32_t event = 0;

	if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write &&
	    run->mmio.phys_addr == GUEST_DOORBELL_ADDRESS && run->mmio.len == sizeof(event))
		memcpy(&event, run->mmio.data, sizeof(event));
	if (event >= GUEST_EVENT_QUANTUM && event <= GUEST_EVENT_READ)
		return (int)event;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return vcpu_fail(vcpu, -EIO, "KVM internal error, suberror %u",
				 run->internal.suberror);
	return vcpu_fail(vcpu, -EIO, "unexpected exit reason %u", run->exit_reason);
}
