/* SPDX-License-Identifier: MIT */
/*
 * Many memslots on the real /dev/kvm: setting, removing, logging, and taking from each in turn,
 * against the bare ioctls.
 */
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
static struct dl_cursor *cursor;

static void close_vm(void)
{
	dl_cursor_free(cursor);
	cursor = NULL;
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

static void set_region(uint32_t i, uint64_t bytes, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = i,
		.flags = flags,
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
		set_region(i, slot_bytes, 0);
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

/* The first cursor: logging of all slots begins. */
static void start_by_log(void *unused)
{
	(void)unused;
	bench_check(dl_cursor_new(dirty_log, NULL, &cursor), "dl_cursor_new");
}

static void start_by_ioctl(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++)
		set_region(i, slot_bytes, KVM_MEM_LOG_DIRTY_PAGES);
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
		set_region(i, 0, 0);
}

static void open_bitmaps(void *unused)
{
	const struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_BITMAP };

	open_vm(unused);
	bench_check(dl_log_open(vm_fd, &options, &dirty_log, NULL, 0), "dl_log_open");
	set_by_log(unused);
	bench_check(dl_cursor_new(dirty_log, NULL, &cursor), "dl_cursor_new");
}

static void open_logged_vm(void *unused)
{
	open_vm(unused);
	for (uint32_t i = 0; i < slots; i++)
		set_region(i, slot_bytes, KVM_MEM_LOG_DIRTY_PAGES);
}

static void take_by_log(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++) {
		uint64_t word = 0;

		bench_check(dl_cursor_take(cursor, i, DL_TAKE_HARVEST, &word, 1, NULL),
			    "dl_cursor_take");
	}
}

static void get_by_ioctl(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < slots; i++) {
		uint64_t word = 0;
		struct kvm_dirty_log get = { .slot = i, .dirty_bitmap = &word };

		if (ioctl(vm_fd, KVM_GET_DIRTY_LOG, &get))
			bench_die("KVM_GET_DIRTY_LOG", errno);
	}
}

enum work { SET, REMOVE, START, TAKE };

static const struct {
	const char *name;
	void (*prepare)(void *unused), (*by_log)(void *unused);
	void (*prepare_other)(void *unused), (*by_ioctl)(void *unused);
} works[] = {
	[SET] = { "set", open_log, set_by_log, open_vm, set_by_ioctl },
	[REMOVE] = { "remove", open_log_with_slots, remove_by_log, open_vm_with_slots,
		     remove_by_ioctl },
	[START] = { "start logging", open_log_with_slots, start_by_log, open_vm_with_slots,
		    start_by_ioctl },
	[TAKE] = { "take from each of", open_bitmaps, take_by_log, open_logged_vm, get_by_ioctl },
};

static void measure(enum work work, uint32_t n)
{
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = "the ioctls alone",
		.unit = "slot",
		.units = n,
		.bar = 2,
		.is_floor = true,
		.prepare = works[work].prepare,
		.measured = works[work].by_log,
		.prepare_other = works[work].prepare_other,
		.other = works[work].by_ioctl,
	};

	slots = n;
	snprintf(name, sizeof(name), "slots: %s %u", works[work].name, n);
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
	measure(SET, 1000);
	measure(SET, MOST_SLOTS);
	measure(REMOVE, 1000);
	measure(START, 1000);
	measure(START, MOST_SLOTS);
	measure(TAKE, 1000);
	measure(TAKE, MOST_SLOTS);
	munmap(memory, MOST_SLOTS * slot_bytes);
	if (kvm_fd >= 0)
		close(kvm_fd);
}
