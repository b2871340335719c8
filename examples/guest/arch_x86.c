/* SPDX-License-Identifier: MIT */
#include "arch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

/*
 * The vCPU starts in long mode: the host sets up segments, control registers and page tables. User
 * mode (ring 3) and kernel mode (ring 0) run the same code on the same page tables.
 */

#define ENTRY_PRESENT  0x01
#define ENTRY_WRITABLE 0x02
#define ENTRY_USER     0x04
#define ENTRY_ACCESSED 0x20 /* set in advance, so that page walks never write the tables */
#define ENTRY_DIRTY    0x40
#define ENTRY_LARGE    0x80
#define ENTRY_TABLE    (ENTRY_PRESENT | ENTRY_WRITABLE | ENTRY_USER | ENTRY_ACCESSED)
#define ENTRY_2M       (ENTRY_TABLE | ENTRY_DIRTY | ENTRY_LARGE)

#define CR0_LONG_MODE  0x80050033 /* PG AM WP NE ET MP PE */
#define CR4_PAE	       0x20
#define EFER_LONG_MODE 0x500  /* LMA LME */
#define FLAGS_IOPL3    0x3002 /* so that ring 3 may ring the doorbell */

#define TABLE_BYTES   4096
#define TABLE_ENTRIES 512

struct x86_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

_Static_assert(sizeof(struct x86_state) <= sizeof(struct vcpu_state),
	       "struct vcpu_state is too small");

void arch_open(struct machine *machine)
{
	/* Required on Intel processors without unrestricted guest; harmless on other x86. */
	(void)ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000ul);
}

int arch_add_vcpu(struct vcpu *vcpu)
{
	enum { LIMIT = 256 };
	struct kvm_cpuid2 *cpuid;
	int r = 0;

	cpuid = calloc(1, sizeof(*cpuid) + LIMIT * sizeof(struct kvm_cpuid_entry2));
	if (!cpuid)
		return vcpu_fail(vcpu, -ENOMEM, "out of memory for the CPUID table");
	cpuid->nent = LIMIT;
	if (ioctl(vcpu->machine->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) ||
	    ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid))
		r = vcpu_fail(vcpu, -errno, "cannot set CPUID: %s", strerror(errno));
	free(cpuid);
	return r;
}

/* Maps the GiB that contains gpa unless it is mapped. Returns the new end of the tables. */
static uint64_t map_gib(struct machine *machine, uint64_t gpa, uint64_t end_offset)
{
	uint64_t upper_offset = machine->layout.page_tables_offset + TABLE_BYTES;
	uint64_t *upper = (uint64_t *)(machine->memory + upper_offset);
	uint64_t *lower = (uint64_t *)(machine->memory + end_offset);
	uint64_t gib = gpa >> 30, i;

	if (upper[gib])
		return end_offset;
	upper[gib] = layout_gpa(&machine->layout, end_offset) | ENTRY_TABLE;
	for (i = 0; i < TABLE_ENTRIES; i++)
		lower[i] = gib << 30 | i << 21 | ENTRY_2M;
	return end_offset + TABLE_BYTES;
}

void arch_page_tables(struct machine *machine)
{
	const struct layout *layout = &machine->layout;
	uint64_t *top = (uint64_t *)(machine->memory + layout->page_tables_offset);
	uint64_t end = layout->page_tables_offset + 2 * TABLE_BYTES, gpa;
	unsigned id;

	top[0] = layout_gpa(layout, layout->page_tables_offset + TABLE_BYTES) | ENTRY_TABLE;
	for (id = 0; id < LAYOUT_DEVICE_SLOT; id++)
		for (gpa = layout->slots[id].gpa;
		     gpa < layout->slots[id].gpa + layout->slots[id].bytes; gpa += 1 << 30)
			end = map_gib(machine, gpa, end);
}

static void set_segments(struct kvm_sregs *sregs, bool user)
{
	uint8_t ring = user ? 3 : 0;
	struct kvm_segment code = { .limit = 0xffffffff,
				    .selector = user ? 0x33 : 0x10,
				    .type = 11, /* execute, read, accessed */
				    .present = 1,
				    .dpl = ring,
				    .s = 1,
				    .l = 1,
				    .g = 1 };
	struct kvm_segment data = code;

	data.selector = user ? 0x2b : 0x18;
	data.type = 3; /* read, write, accessed */
	data.l = 0;
	data.db = 1;
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->tr = (struct kvm_segment){
		.limit = 0x67, .selector = 0x20, .type = 11 /* busy TSS */, .present = 1
	};
}

int arch_boot_vcpu(struct vcpu *vcpu)
{
	const struct layout *layout = &vcpu->machine->layout;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = FLAGS_IOPL3 };

	regs.rip = layout_gpa(layout, layout->code_offset);
	regs.rbx = layout_gpa(layout, layout_control_offset(layout, vcpu->id));
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		return vcpu_fail(vcpu, -errno, "KVM_GET_SREGS: %s", strerror(errno));
	set_segments(&sregs, vcpu->machine->guest_user);
	sregs.cr0 = CR0_LONG_MODE;
	sregs.cr3 = layout_gpa(layout, layout->page_tables_offset);
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LONG_MODE;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		return vcpu_fail(vcpu, -errno, "KVM_SET_SREGS: %s", strerror(errno));
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		return vcpu_fail(vcpu, -errno, "KVM_SET_REGS: %s", strerror(errno));
	return 0;
}

/* The guest uses no FPU, no MSRs and no interrupts, so that their state is not saved. */
int arch_save(struct vcpu *vcpu, struct vcpu_state *state)
{
	struct x86_state x86 = { 0 };

	memset(state, 0, sizeof(*state));
	if (ioctl(vcpu->fd, KVM_GET_REGS, &x86.regs) || ioctl(vcpu->fd, KVM_GET_SREGS, &x86.sregs))
		return vcpu_fail(vcpu, -errno, "cannot read its registers: %s", strerror(errno));
	memcpy(state, &x86, sizeof(x86));
	return 0;
}

int arch_load(struct vcpu *vcpu, const struct vcpu_state *state)
{
	struct x86_state x86;

	memcpy(&x86, state, sizeof(x86));
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &x86.sregs) || ioctl(vcpu->fd, KVM_SET_REGS, &x86.regs))
		return vcpu_fail(vcpu, -errno, "cannot set its registers: %s", strerror(errno));
	return 0;
}

int arch_doorbell(struct vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	uint32_t event = 0;

	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
	    run->io.port == GUEST_DOORBELL_PORT && run->io.size == sizeof(event))
		memcpy(&event, (const char *)run + run->io.data_offset, sizeof(event));
	if (event >= GUEST_EVENT_QUANTUM && event <= GUEST_EVENT_READ)
		return (int)event;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
		return vcpu_fail(vcpu, -EIO, "KVM internal error, suberror %u",
				 run->internal.suberror);
	return vcpu_fail(vcpu, -EIO, "unexpected exit reason %u", run->exit_reason);
}
