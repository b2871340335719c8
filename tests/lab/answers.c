/* SPDX-License-Identifier: MIT */
/*
 * Asks a kernel, without the library, how it responds to every way of enabling its dirty log, in
 * order and out of order. Prints "question: answer" lines; doc/kernels.md is generated from them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

enum {
	TSO = KVM_CAP_DIRTY_LOG_RING,
	ACQ_REL = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
	BACKUP = KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
	MANUAL = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
	SLOT_PAGES = 16,
};

static int kvm_fd;
static uint64_t page_bytes;
static void *memory;

static void say(const char *question, int answer)
{
	if (answer < 0)
		printf("%s: %s\n", question, strerrorname_np(-answer));
	else
		printf("%s: %d\n", question, answer);
}

static int result(int r)
{
	return r < 0 ? -errno : r;
}

static int new_vm(void)
{
	int fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);

	if (fd < 0) {
		perror("KVM_CREATE_VM");
		exit(1);
	}
	return fd;
}

static int enable(int vm_fd, unsigned int capability, uint64_t value, uint32_t flags)
{
	struct kvm_enable_cap cap = { .cap = capability, .flags = flags, .args = { value } };

	return result(ioctl(vm_fd, KVM_ENABLE_CAP, &cap));
}

static int set_slot(int vm_fd, uint64_t pages, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.flags = flags,
		.memory_size = pages * page_bytes,
		.userspace_addr = (uintptr_t)memory,
	};

	return result(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region));
}

static int get_log(int vm_fd)
{
	uint64_t bitmap[SLOT_PAGES] = { 0 };
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };

	return result(ioctl(vm_fd, KVM_GET_DIRTY_LOG, &log));
}

static int ring_capability(void)
{
	return ioctl(kvm_fd, KVM_CHECK_EXTENSION, ACQ_REL) > 0 ? ACQ_REL : TSO;
}

static void ask_capabilities(void)
{
	static const struct {
		const char *question;
		int capability;
	} capabilities[] = {
		{ "KVM_CAP_DIRTY_LOG_RING", TSO },
		{ "KVM_CAP_DIRTY_LOG_RING_ACQ_REL", ACQ_REL },
		{ "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP", BACKUP },
		{ "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", MANUAL },
	};

	printf("page bytes: %llu\n", (unsigned long long)page_bytes);
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		say(capabilities[i].question,
		    ioctl(kvm_fd, KVM_CHECK_EXTENSION, capabilities[i].capability));
}

static void ask_ring_size(const char *question, uint64_t bytes)
{
	int vm_fd = new_vm();

	say(question, enable(vm_fd, (unsigned int)ring_capability(), bytes, 0));
	close(vm_fd);
}

static void ask_ring_sizes(void)
{
	int vm_fd = new_vm();

	say("TSO ring", enable(vm_fd, TSO, 4 * page_bytes, 0));
	close(vm_fd);
	vm_fd = new_vm();
	say("ACQ_REL ring", enable(vm_fd, ACQ_REL, 4 * page_bytes, 0));
	close(vm_fd);
	ask_ring_size("ring of 0 bytes", 0);
	ask_ring_size("ring of half a page", page_bytes / 2);
	ask_ring_size("ring of one page", page_bytes);
	ask_ring_size("ring of three pages", 3 * page_bytes);
	ask_ring_size("ring of 1 MiB", 1 << 20);
	ask_ring_size("ring of 2 MiB", 2 << 20);
	ask_ring_size("ring of 4 GiB and 4 pages", (1ull << 32) + 4 * page_bytes);
}

static void ask_ring_order(void)
{
	unsigned int ring = (unsigned int)ring_capability();
	int vm_fd = new_vm(), vcpu_fd;

	say("ring reset without a ring", result(ioctl(vm_fd, KVM_RESET_DIRTY_RINGS, 0)));
	set_slot(vm_fd, SLOT_PAGES, 0);
	say("ring when a slot exists", enable(vm_fd, ring, 4 * page_bytes, 0));
	say("ring a second time", enable(vm_fd, ring, 4 * page_bytes, 0));
	close(vm_fd);

	vm_fd = new_vm();
	vcpu_fd = ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	say("ring when a vCPU exists", enable(vm_fd, ring, 4 * page_bytes, 0));
	close(vcpu_fd);
	close(vm_fd);

	vm_fd = new_vm();
	say("ring with flags", enable(vm_fd, ring, 4 * page_bytes, 1));
	say("ring reset of a ring", result(ioctl(vm_fd, KVM_RESET_DIRTY_RINGS, 0)));
	set_slot(vm_fd, SLOT_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
	say("bitmap of a slot beside a ring alone", get_log(vm_fd));
	close(vm_fd);
}

static void ask_backup_order(void)
{
	unsigned int ring = (unsigned int)ring_capability();
	int vm_fd = new_vm();

	say("backup before the ring", enable(vm_fd, BACKUP, 0, 0));
	enable(vm_fd, ring, 4 * page_bytes, 0);
	say("backup with flags", enable(vm_fd, BACKUP, 0, 1));
	set_slot(vm_fd, SLOT_PAGES, 0);
	say("backup when a slot exists", enable(vm_fd, BACKUP, 0, 0));
	set_slot(vm_fd, 0, 0);
	say("backup after the slot is gone", enable(vm_fd, BACKUP, 0, 0));
	say("backup a second time", enable(vm_fd, BACKUP, 0, 0));
	set_slot(vm_fd, SLOT_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
	say("bitmap of a slot beside ring and backup", get_log(vm_fd));
	close(vm_fd);
}

static void ask_bitmap(void)
{
	int vm_fd = new_vm();

	say("bitmap of no slot", get_log(vm_fd));
	set_slot(vm_fd, SLOT_PAGES, 0);
	say("bitmap of a slot that is not logged", get_log(vm_fd));
	set_slot(vm_fd, SLOT_PAGES, KVM_MEM_LOG_DIRTY_PAGES);
	say("bitmap of a slot", get_log(vm_fd));
	close(vm_fd);
	vm_fd = new_vm();
	say("manual protect 2", enable(vm_fd, MANUAL, 2, 0));
	say("manual protect 1", enable(vm_fd, MANUAL, 1, 0));
	say("manual protect 3", enable(vm_fd, MANUAL, 3, 0));
	say("manual protect 0", enable(vm_fd, MANUAL, 0, 0));
	close(vm_fd);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	memory = mmap(NULL, SLOT_PAGES * page_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (kvm_fd < 0 || memory == MAP_FAILED) {
		perror("/dev/kvm");
		return 1;
	}
	ask_capabilities();
	ask_ring_sizes();
	ask_ring_order();
	ask_backup_order();
	ask_bitmap();
	return 0;
}
