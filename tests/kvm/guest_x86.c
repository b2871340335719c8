/* SPDX-License-Identifier: MIT */
/*
 * The guest on x86-64: long mode, the first 16 GiB mapped one to one in 2 MiB pages, no interrupts,
 * no descriptor tables. A fault shuts the vCPU down, and the run ends with an error.
 */
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* Layout of the guest's own slot. */
enum {
	CODE_GPA = 0x1000,
	TOP_TABLE_GPA = 0x2000,
	GIB_TABLE_GPA = 0x3000,
	MIB_TABLES_GPA = 0x4000, /* one page per GiB */
	MAPPED_GIB = 16,
	DONE_PORT = 0x10,
};

enum {
	TABLE_ENTRIES = 512,
	PTE_PRESENT = 1 << 0,
	PTE_WRITE = 1 << 1,
	PTE_USER = 1 << 2,
	PTE_ACCESSED = 1 << 5,
	PTE_DIRTY = 1 << 6,
	PTE_LARGE = 1 << 7,
};

/* rdi: gpa, rcx: count, rsi: stride, rax: value. */
__asm__(".pushsection .rodata\n"
	".balign 16\n"
	"guest_code_begin:\n"

	"guest_code_write:\n"
	"1:	mov	%rax, (%rdi)\n"
	"guest_code_stored:\n"
	"	add	%rsi, %rdi\n"
	"	dec	%rcx\n"
	"guest_code_counted:\n"
	"	jnz	1b\n"
	"guest_code_done:\n"
	"	out	%al, $0x10\n"
	"	jmp	guest_code_done\n"

	"guest_code_write_table:\n"
	"1:	mov	(%rdi), %rdx\n"
	"	mov	%rax, (%rdx)\n"
	"	add	$8, %rdi\n"
	"	dec	%rcx\n"
	"	jnz	1b\n"
	"	jmp	guest_code_done\n"

	"guest_code_count:\n"
	"	mov	%rdi, %r8\n"
	"	mov	%rcx, %r9\n"
	"1:	addq	$1, (%rdi)\n"
	"	add	%rsi, %rdi\n"
	"	dec	%rcx\n"
	"	jnz	1b\n"
	"	mov	%r8, %rdi\n"
	"	mov	%r9, %rcx\n"
	"	jmp	1b\n"

	"guest_code_count_table:\n"
	"	mov	%rdi, %r8\n"
	"	mov	%rcx, %r9\n"
	"1:	mov	(%rdi), %rdx\n"
	"	addq	$1, (%rdx)\n"
	"	add	$8, %rdi\n"
	"	dec	%rcx\n"
	"	jnz	1b\n"
	"	mov	%r8, %rdi\n"
	"	mov	%r9, %rcx\n"
	"	jmp	1b\n"

	"guest_code_number_table:\n"
	"	mov	%rdi, %r8\n"
	"	mov	%rcx, %r9\n"
	"1:	mov	(%rdi), %rdx\n"
	"	mov	%rax, (%rdx)\n"
	"	inc	%rax\n"
	"	add	$8, %rdi\n"
	"	dec	%rcx\n"
	"	jnz	1b\n"
	"	mov	%r8, %rdi\n"
	"	mov	%r9, %rcx\n"
	"	jmp	1b\n"

	"guest_code_end:\n"
	".popsection\n");

extern const uint8_t guest_code_begin[], guest_code_end[];
extern const uint8_t guest_code_write[], guest_code_write_table[];
extern const uint8_t guest_code_count[], guest_code_count_table[], guest_code_number_table[];
extern const uint8_t guest_code_stored[], guest_code_counted[];

static const uint8_t *const entry_points[GUEST_PROGRAMS] = {
	[GUEST_WRITE] = guest_code_write,
	[GUEST_WRITE_TABLE] = guest_code_write_table,
	[GUEST_COUNT] = guest_code_count,
	[GUEST_COUNT_TABLE] = guest_code_count_table,
	[GUEST_NUMBER_TABLE] = guest_code_number_table,
};

void guest_load(void *memory)
{
	/* Set accessed and dirty in advance, so that the page walker never writes. */
	const uint64_t table = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED;
	const uint64_t page = table | PTE_DIRTY | PTE_LARGE;
	uint8_t *base = memory;
	uint64_t *top = (uint64_t *)(base + TOP_TABLE_GPA);
	uint64_t *gib = (uint64_t *)(base + GIB_TABLE_GPA);
	uint64_t *mib = (uint64_t *)(base + MIB_TABLES_GPA);

	memcpy(base + CODE_GPA, guest_code_begin, (size_t)(guest_code_end - guest_code_begin));
	top[0] = GIB_TABLE_GPA | table;
	for (uint64_t i = 0; i < MAPPED_GIB; i++)
		gib[i] = (MIB_TABLES_GPA + i * TABLE_ENTRIES * sizeof(*mib)) | table;
	for (uint64_t i = 0; i < (uint64_t)MAPPED_GIB * TABLE_ENTRIES; i++)
		mib[i] = i << 21 | page;
}

int guest_setup_vm(int vm_fd)
{
	/* Old Intel machines run no vCPU without a TSS. Any unused address will do. */
	return ioctl(vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL) < 0 ? -errno : 0;
}

int guest_setup_vcpu(int kvm_fd, int vm_fd, int vcpu_fd)
{
	enum { MAX_ENTRIES = 256 };
	struct kvm_cpuid2 *cpuid;
	int r = 0;

	(void)vm_fd;
	cpuid = calloc(1, sizeof(*cpuid) + MAX_ENTRIES * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = MAX_ENTRIES;
	/* KVM refuses long mode unless CPUID advertises it. */
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
	    ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid) < 0)
		r = -errno;
	free(cpuid);
	return r;
}

static int set_mode(int vcpu_fd, enum guest_mode mode)
{
	const uint8_t privilege = mode == GUEST_USER ? 3 : 0;
	struct kvm_sregs sregs;
	struct kvm_segment data;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return -errno;
	sregs.cs = (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = mode == GUEST_USER ? 0x33 : 0x10,
		.type = 11,
		.present = 1,
		.dpl = privilege,
		.s = 1,
		.l = 1,
		.g = 1,
	};
	data = sregs.cs;
	data.type = 3;
	data.selector = mode == GUEST_USER ? 0x2b : 0x18;
	data.l = 0;
	data.db = 1;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.tr =
		(struct kvm_segment){ .limit = 0x67, .selector = 0x18, .type = 11, .present = 1 };
	sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	sregs.cr3 = TOP_TABLE_GPA;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LMA LME */
	return ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0 ? -errno : 0;
}

int guest_start(int vcpu_fd, const struct guest_job *job)
{
	/* IOPL 3, for the OUT that ends a user-mode job. */
	struct kvm_regs regs = {
		.rip = CODE_GPA + (uint64_t)(entry_points[job->program] - guest_code_begin),
		.rflags = 0x3002,
		.rdi = job->gpa,
		.rcx = job->count,
		.rsi = job->stride_bytes,
		.rax = job->value,
	};
	int r = set_mode(vcpu_fd, job->mode);

	if (r < 0)
		return r;
	return ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0 ? -errno : 0;
}

int guest_stores_left(int vcpu_fd, uint64_t *left)
{
	const uint64_t stored = CODE_GPA + (uint64_t)(guest_code_stored - guest_code_begin);
	const uint64_t counted = CODE_GPA + (uint64_t)(guest_code_counted - guest_code_begin);
	struct kvm_regs regs;

	if (ioctl(vcpu_fd, KVM_GET_REGS, &regs) < 0)
		return -errno;
	*left = regs.rcx - (regs.rip >= stored && regs.rip < counted);
	return 0;
}

bool guest_is_done(const struct kvm_run *run)
{
	return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT &&
	       run->io.port == DONE_PORT;
}

int guest_enter_second_space(int vcpu_fd)
{
	struct kvm_vcpu_events events;

	if (ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &events) < 0)
		return -errno;
	events.flags = KVM_VCPUEVENT_VALID_SMM;
	events.smi.smm = 1;
	if (ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &events) < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -errno;
	return 0;
}
