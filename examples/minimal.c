/* SPDX-License-Identifier: MIT */
/* A VM whose guest writes to one page, and a log that tells which. For x86-64. */
#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { MEMORY_BYTES = 1 << 20, CODE_GPA = 0x1000 };

/* In real mode: movb $42, (0x3000); hlt */
static const unsigned char code[] = { 0xc6, 0x06, 0x00, 0x30, 0x2a, 0xf4 };

static int must(int r, const char *what)
{
	if (r >= 0)
		return r;
	fprintf(stderr, "minimal: %s: %s\n", what, strerror(r == -1 ? errno : -r));
	exit(1);
}

static void *map(size_t bytes, int flags, int fd)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	must(memory == MAP_FAILED ? -1 : 0, "mmap");
	return memory;
}

static void start_in_real_mode(int vcpu_fd)
{
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	struct kvm_sregs sregs;

	must(ioctl(vcpu_fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	must(ioctl(vcpu_fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(vcpu_fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(void)
{
	struct dl_slot slot = { .size = sizeof(slot), .bytes = MEMORY_BYTES };
	struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };
	int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	int vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM"), vcpu_fd, n;
	unsigned char *memory = map(MEMORY_BYTES, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct dl_cursor *cursor;
	struct dl_extent extent;
	struct dl_vcpu *vcpu;
	struct kvm_run *run;
	struct dl_log *log;
	char why[200] = "";

	memcpy(memory + CODE_GPA, code, sizeof(code));
	slot.hva = (uintptr_t)memory;

	/* The log comes before the vCPUs; memslots go through it. */
	must(dl_log_open(vm, NULL, &log, why, sizeof(why)), why);
	must(dl_slot_set(log, &slot), "dl_slot_set");
	must(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000), "KVM_SET_TSS_ADDR");
	vcpu_fd = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	must(dl_vcpu_add(log, vcpu_fd, 0, 0, &vcpu), "dl_vcpu_add");
	run = map((size_t)must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"),
		  MAP_SHARED, vcpu_fd);
	start_in_real_mode(vcpu_fd);

	/* From here on every write is seen. CLEAN: the receiver has what was there before. */
	must(dl_cursor_new(log, &clean, &cursor), "dl_cursor_new");
	do
		must(ioctl(vcpu_fd, KVM_RUN, 0), "KVM_RUN");
	while (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL && !dl_vcpu_drain(vcpu, 0));

	/* The vCPU has halted. */
	must(dl_harvest(cursor, DL_HARVEST_PAUSED, NULL), "dl_harvest");
	while ((n = dl_cursor_read(cursor, &extent, 1)) > 0) {
		printf("dirty: %" PRIu64 " bytes at %#" PRIx64 "\n", extent.bytes, extent.gpa);
		must(dl_cursor_ack(cursor, &extent, 1), "dl_cursor_ack");
	}
	must(n, "dl_cursor_read");
	must(dl_cursor_end(cursor, 0), "dl_cursor_end");
	dl_cursor_free(cursor);
	dl_vcpu_remove(vcpu);
	dl_log_close(log);
	return 0;
}
