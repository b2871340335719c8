/* SPDX-License-Identifier: MIT */
/*
 * The guest on arm64. Translation is off, so that addresses are physical and every store is an
 * aligned store to device memory. Interrupts are masked, and there is no vector table. A job ends
 * with a store to an address outside all memslots.
 */
#include "guest.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	CODE_GPA = 0x1000,
	DONE_GPA = 8 << 20, /* between the guest's own slot and the first data slot */
};

/* x0: gpa, x1: count, x2: stride, x3: value, x4: address of the final store. */
__asm__(".pushsection .rodata\n"
	".balign 16\n"
	"guest_code_begin:\n"

	"guest_code_write:\n"
	"1:	str	x3, [x0]\n"
	"guest_code_stored:\n"
	"	add	x0, x0, x2\n"
	"	subs	x1, x1, #1\n"
	"guest_code_counted:\n"
	"	b.ne	1b\n"
	"guest_code_done:\n"
	"	dsb	sy\n"
	"	str	x3, [x4]\n"
	"	b	guest_code_done\n"

	"guest_code_write_table:\n"
	"1:	ldr	x5, [x0]\n"
	"	str	x3, [x5]\n"
	"	add	x0, x0, #8\n"
	"	subs	x1, x1, #1\n"
	"	b.ne	1b\n"
	"	b	guest_code_done\n"

	"guest_code_count:\n"
	"	mov	x6, x0\n"
	"	mov	x7, x1\n"
	"1:	ldr	x5, [x0]\n"
	"	add	x5, x5, #1\n"
	"	str	x5, [x0]\n"
	"	add	x0, x0, x2\n"
	"	subs	x1, x1, #1\n"
	"	b.ne	1b\n"
	"	mov	x0, x6\n"
	"	mov	x1, x7\n"
	"	b	1b\n"

	"guest_code_count_table:\n"
	"	mov	x6, x0\n"
	"	mov	x7, x1\n"
	"1:	ldr	x5, [x0]\n"
	"	ldr	x8, [x5]\n"
	"	add	x8, x8, #1\n"
	"	str	x8, [x5]\n"
	"	add	x0, x0, #8\n"
	"	subs	x1, x1, #1\n"
	"	b.ne	1b\n"
	"	mov	x0, x6\n"
	"	mov	x1, x7\n"
	"	b	1b\n"

	"guest_code_number_table:\n"
	"	mov	x6, x0\n"
	"	mov	x7, x1\n"
	"1:	ldr	x5, [x0]\n"
	"	str	x3, [x5]\n"
	"	add	x3, x3, #1\n"
	"	add	x0, x0, #8\n"
	"	subs	x1, x1, #1\n"
	"	b.ne	1b\n"
	"	mov	x0, x6\n"
	"	mov	x1, x7\n"
	"	b	1b\n"

	"guest_code_end:\n"
	".popsection\n");

/* Hidden, so that the compiler does not use the GOT, where labels of one section share an entry. */
#pragma GCC visibility push(hidden)
extern const uint8_t guest_code_begin[], guest_code_end[];
extern const uint8_t guest_code_write[], guest_code_write_table[];
extern const uint8_t guest_code_count[], guest_code_count_table[], guest_code_number_table[];
extern const uint8_t guest_code_stored[], guest_code_counted[];
#pragma GCC visibility pop

static const uint8_t *const entry_points[GUEST_PROGRAMS] = {
	[GUEST_WRITE] = guest_code_write,
	[GUEST_WRITE_TABLE] = guest_code_write_table,
	[GUEST_COUNT] = guest_code_count,
	[GUEST_COUNT_TABLE] = guest_code_count_table,
	[GUEST_NUMBER_TABLE] = guest_code_number_table,
};

void guest_load(void *memory)
{
	size_t bytes = (size_t)(guest_code_end - guest_code_begin);
	char *code = (char *)memory + CODE_GPA;

	memcpy(code, guest_code_begin, bytes);
	__builtin___clear_cache(code, code + bytes);
}

int guest_setup_vm(int vm_fd)
{
	(void)vm_fd;
	return 0;
}

int guest_setup_vcpu(int kvm_fd, int vm_fd, int vcpu_fd)
{
	struct kvm_vcpu_init init;

	(void)kvm_fd;
	if (ioctl(vm_fd, KVM_ARM_PREFERRED_TARGET, &init) < 0)
		return -errno;
	init.features[0] |= 1u << KVM_ARM_VCPU_PSCI_0_2;
	return ioctl(vcpu_fd, KVM_ARM_VCPU_INIT, &init) < 0 ? -errno : 0;
}

static int set_register(int vcpu_fd, size_t offset_bytes, uint64_t value)
{
	struct kvm_one_reg reg = {
		.id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
		      offset_bytes / sizeof(uint32_t),
		.addr = (uintptr_t)&value,
	};

	return ioctl(vcpu_fd, KVM_SET_ONE_REG, &reg) < 0 ? -errno : 0;
}

static int get_register(int vcpu_fd, size_t offset_bytes, uint64_t *value)
{
	struct kvm_one_reg reg = {
		.id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE |
		      offset_bytes / sizeof(uint32_t),
		.addr = (uintptr_t)value,
	};

	return ioctl(vcpu_fd, KVM_GET_ONE_REG, &reg) < 0 ? -errno : 0;
}

int guest_stores_left(int vcpu_fd, uint64_t *left)
{
	const uint64_t stored = CODE_GPA + (uint64_t)(guest_code_stored - guest_code_begin);
	const uint64_t counted = CODE_GPA + (uint64_t)(guest_code_counted - guest_code_begin);
	uint64_t pc = 0;
	int r = get_register(vcpu_fd, offsetof(struct kvm_regs, regs.pc), &pc);

	if (!r)
		r = get_register(vcpu_fd, offsetof(struct kvm_regs, regs.regs[1]), left);
	if (!r && pc >= stored && pc < counted)
		(*left)--;
	return r;
}

int guest_start(int vcpu_fd, const struct guest_job *job)
{
	const uint64_t masked = 0x3c0; /* debug, serror, irq, fiq */
	const struct {
		size_t offset_bytes;
		uint64_t value;
	} registers[] = {
		{ offsetof(struct kvm_regs, regs.pc),
		  CODE_GPA + (uint64_t)(entry_points[job->program] - guest_code_begin) },
		{ offsetof(struct kvm_regs, regs.pstate),
		  masked | (job->mode == GUEST_USER ? 0x0 : 0x5) }, /* EL0t, EL1h */
		{ offsetof(struct kvm_regs, regs.regs[0]), job->gpa },
		{ offsetof(struct kvm_regs, regs.regs[1]), job->count },
		{ offsetof(struct kvm_regs, regs.regs[2]), job->stride_bytes },
		{ offsetof(struct kvm_regs, regs.regs[3]), job->value },
		{ offsetof(struct kvm_regs, regs.regs[4]), DONE_GPA },
	};

	for (size_t i = 0; i < sizeof(registers) / sizeof(registers[0]); i++) {
		int r = set_register(vcpu_fd, registers[i].offset_bytes, registers[i].value);

		if (r < 0)
			return r;
	}
	return 0;
}

bool guest_is_done(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write &&
	       run->mmio.phys_addr == DONE_GPA;
}

int guest_enter_second_space(int vcpu_fd)
{
	(void)vcpu_fd;
	return -EOPNOTSUPP;
}
