/* SPDX-License-Identifier: MIT */
/* Setting and removing many memslots on the real /dev/kvm, against the bare ioctls. */
#include "bench.h"
#include "figures.h"

#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_SLOTS = 32000, SLOT_PAGES = 2 };

#define GAP_BYTES (UINT64_C(1) << 20)

static int kvm_fd, vm_fd = -1;
static uint32_t slots;
static uint64_t slot_bytes;
static uint8_t *memory;
static struct dl_log *dirty_log;

static void close_vm(void)
{
	dl_log_close(dirty_log);
	dirty_log = NULL;
	if (vm_fd >= 0)
		close(vm_fd);
	vm_fd = -1;
}

static void open_vm(void *unused)
{
	(void)unused;
	close_vm();
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (vm_fd < 0)
		bench_die("KVM_CREATE_VM", errno);
}

static void open_log(void *unused)
{
	open_vm(unused);
	bench_check(dl_log_open(vm_fd, NULL, &dirty_log, NULL, 0), "dl_log_open");
}

static void set_by_log(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++) {
		struct dl_slot slot = {
			.size = sizeof(slot),
			.slot = i,
			.gpa = i * GAP_BYTES,
			.bytes = slot_bytes,
			.hva = (uintptr_t)memory + i * slot_bytes,
		};

		bench_check(dl_slot_set(dirty_log, &slot), "dl_slot_set");
	}
}

static void set_region(uint32_t i, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = i,
		.guest_phys_addr = i * GAP_BYTES,
		.memory_size = bytes,
		.userspace_addr = (uintptr_t)memory + i * slot_bytes,
	};

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		bench_die("KVM_SET_USER_MEMORY_REGION", errno);
}

static void set_by_ioctl(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++)
		set_region(i, slot_bytes);
}

static void open_log_with_slots(void *unused)
{
	open_log(unused);
	set_by_log(unused);
}

static void open_vm_with_slots(void *unused)
{
	open_vm(unused);
	set_by_ioctl(unused);
}

static void remove_by_log(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++)
		bench_check(dl_slot_remove(dirty_log, i, 0, NULL, 0), "dl_slot_remove");
}

static void remove_by_ioctl(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++)
		set_region(i, 0);
}

static void measure(uint32_t n, bool removes)
{
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = "the ioctls alone",
		.unit = "slot",
		.units = n,
		.bar = 2,
		.is_floor = true,
		.prepare = removes ? open_log_with_slots : open_log,
		.measured = removes ? remove_by_log : set_by_log,
		.prepare_other = removes ? open_vm_with_slots : open_vm,
		.other = removes ? remove_by_ioctl : set_by_ioctl,
	};

	slots = n;
	snprintf(name, sizeof(name), "slots: %s %u", removes ? "remove" : "set", n);
	if (!bench_wants(name))
		return;
	if (kvm_fd < 0)
		bench_skip(name, "no /dev/kvm");
	else
		bench_compare(&pair);
	close_vm();
}

void slots_figures(void)
{
	slot_bytes = SLOT_PAGES * (uint64_t)sysconf(_SC_PAGESIZE);
	memory = mmap(NULL, MOST_SLOTS * slot_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		bench_die("mmap", errno);
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	measure(1000, false);
	measure(MOST_SLOTS, false);
	measure(1000, true);
	munmap(memory, MOST_SLOTS * slot_bytes);
	if (kvm_fd >= 0)
		close(kvm_fd);
}
