/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include "bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

enum { VM_FD = 100, FIRST_VCPU_FD = 1000, RING_MAX_BYTES = 1 << 20, EXTENTS = 256 };

static uint32_t flags_of(const struct kernel *kernel, const struct kernel_ring *ring, uint32_t i)
{
	return ring->cells[(ring->next - ring->filled + i) & (kernel->entries - 1)].flags;
}

/* Cells are released in order, and usually all filled ones. */
static uint32_t released(const struct kernel *kernel, const struct kernel_ring *ring)
{
	uint32_t n = 0;

	if (flags_of(kernel, ring, ring->filled - 1) == KVM_DIRTY_GFN_F_RESET)
		return ring->filled;
	while (flags_of(kernel, ring, n) == KVM_DIRTY_GFN_F_RESET)
		n++;
	return n;
}

static int take_back(struct kernel *kernel)
{
	uint32_t taken = 0;

	if (!kernel->ring_is_on)
		return -EINVAL;
	for (uint32_t i = 0; i < kernel->vcpus; i++) {
		struct kernel_ring *ring = &kernel->rings[i];
		uint32_t mask = kernel->entries - 1;
		uint32_t n = ring->filled ? released(kernel, ring) : 0;

		if (!n)
			continue;
		ring->cells[(ring->next - ring->filled) & mask].flags = 0;
		ring->cells[(ring->next - ring->filled + n - 1) & mask].flags = 0;
		taken += n;
		ring->filled -= n;
	}
	return (int)taken;
}

static int check_extension(const struct kernel *kernel, unsigned long capability)
{
	switch (capability) {
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return kernel->entries ? RING_MAX_BYTES : 0;
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
	case KVM_CAP_NR_MEMSLOTS:
		return 32764;
	default:
		return 0;
	}
}

static int get_dirty_log(struct kernel *kernel, const struct kvm_dirty_log *log)
{
	if (kernel->bitmap && kernel->bitmap_is_in != log->dirty_bitmap)
		memcpy(log->dirty_bitmap, kernel->bitmap, (kernel->pages + 63) / 64 * 8);
	kernel->bitmap_is_in = log->dirty_bitmap;
	return 0;
}

static int kernel_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct kernel *kernel = opaque;

	switch (request) {
	case KVM_CHECK_EXTENSION:
		return check_extension(kernel, (unsigned long)arg);
	case KVM_ENABLE_CAP:
		kernel->ring_is_on |=
			((struct kvm_enable_cap *)arg)->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
		return 0;
	case KVM_RESET_DIRTY_RINGS:
		return take_back(kernel);
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_CLEAR_DIRTY_LOG:
		return 0;
	case KVM_GET_DIRTY_LOG:
		return get_dirty_log(kernel, arg);
	default:
		return fd >= FIRST_VCPU_FD ? -EINVAL : -ENOTTY;
	}
}

static int kernel_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	struct kernel *kernel = opaque;

	if (fd >= FIRST_VCPU_FD) {
		struct kernel_ring *ring = &kernel->rings[fd - FIRST_VCPU_FD];

		*addr = offset_bytes ? (void *)ring->cells : ring->run;
		return 0;
	}
	*addr = mmap(NULL, bytes, prot, flags, -1, 0);
	return *addr == MAP_FAILED ? -errno : 0;
}

static int kernel_munmap(void *opaque, void *addr, size_t bytes)
{
	struct kernel *kernel = opaque;

	for (uint32_t i = 0; i < kernel->vcpus; i++)
		if (addr == kernel->rings[i].cells || addr == kernel->rings[i].run)
			return 0;
	return munmap(addr, bytes) ? -errno : 0;
}

static int kernel_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	(void)opaque;
	(void)how;
	(void)set;
	if (old)
		memset(old, 0, sizeof(*old));
	return 0;
}

static void *zeroed_pages(size_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		bench_die("mmap of a ring", errno);
	return memory;
}

static void add_vcpu(struct kernel *kernel, uint32_t i)
{
	struct kernel_ring *ring = &kernel->rings[i];

	ring->run = zeroed_pages(KERNEL_PAGE_BYTES);
	if (kernel->entries)
		ring->cells = zeroed_pages(kernel->entries * sizeof(ring->cells[0]));
	bench_check(dl_vcpu_add(kernel->log, FIRST_VCPU_FD + (int)i, 0, 0, &ring->vcpu),
		    "dl_vcpu_add");
}

/* KVM supports no slots of 8 TiB or more. */
static void add_slot(struct kernel *kernel, uint64_t first, uint64_t pages)
{
	uint64_t n = pages - first < KERNEL_SLOT_PAGES ? pages - first : KERNEL_SLOT_PAGES;
	struct dl_slot slot = {
		.size = sizeof(slot),
		.slot = (uint32_t)(first / KERNEL_SLOT_PAGES),
		.gpa = first * KERNEL_PAGE_BYTES,
		.bytes = n * KERNEL_PAGE_BYTES,
		.hva = (UINT64_C(1) << 46) + first * KERNEL_PAGE_BYTES, /* never accessed */
	};

	bench_check(dl_slot_set(kernel->log, &slot), "dl_slot_set");
}

struct dl_cursor *kernel_add_cursor(struct kernel *kernel, uint32_t flags)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = DL_CURSOR_CLEAN | flags,
		.vcpus = kernel->vcpus,
	};
	struct dl_cursor *cursor;

	bench_check(dl_cursor_new(kernel->log, &options, &cursor), "dl_cursor_new");
	return cursor;
}

void kernel_open(struct kernel *kernel, uint32_t vcpus, uint32_t entries, uint64_t pages)
{
	struct dl_options options = { .size = sizeof(options), .ring_entries = entries };
	memset(kernel, 0, sizeof(*kernel));
	kernel->entries = entries;
	kernel->vcpus = vcpus;
	kernel->pages = pages;
	kernel->os = (struct dl_os){
		.size = sizeof(kernel->os),
		.page_bytes = KERNEL_PAGE_BYTES,
		.arch = DL_OS_ARCH_RING_ALONE_SAFE,
		.opaque = kernel,
		.ioctl = kernel_ioctl,
		.mmap = kernel_mmap,
		.munmap = kernel_munmap,
		.signal_mask = kernel_signal_mask,
	};
	options.os = &kernel->os;
	options.mode = entries ? DL_MODE_RING : DL_MODE_BITMAP;
	bench_check(dl_log_open(VM_FD, &options, &kernel->log, NULL, 0), "dl_log_open");
	for (uint64_t first = 0; first < pages; first += KERNEL_SLOT_PAGES)
		add_slot(kernel, first, pages);
	for (uint32_t i = 0; i < vcpus; i++)
		add_vcpu(kernel, i);
	kernel->cursor = kernel_add_cursor(kernel, 0);
}

void kernel_close(struct kernel *kernel)
{
	dl_cursor_free(kernel->cursor);
	for (uint32_t i = 0; i < kernel->vcpus; i++)
		dl_vcpu_remove(kernel->rings[i].vcpu);
	dl_log_close(kernel->log);
	for (uint32_t i = 0; i < kernel->vcpus; i++) {
		munmap(kernel->rings[i].run, KERNEL_PAGE_BYTES);
		if (kernel->entries)
			munmap(kernel->rings[i].cells,
			       kernel->entries * sizeof(kernel->rings[i].cells[0]));
	}
}

void kernel_fill(struct kernel *kernel, uint32_t vcpu, const uint64_t *pages, uint32_t n)
{
	struct kernel_ring *ring = &kernel->rings[vcpu];

	for (uint32_t i = 0; i < n; i++) {
		struct kvm_dirty_gfn *cell = &ring->cells[ring->next++ & (kernel->entries - 1)];

		cell->slot = (uint32_t)(pages[i] / KERNEL_SLOT_PAGES);
		cell->offset = pages[i] % KERNEL_SLOT_PAGES;
		cell->flags = KVM_DIRTY_GFN_F_DIRTY;
	}
	ring->filled += n;
}

int kernel_reset(struct kernel *kernel)
{
	return kernel->os.ioctl(kernel, VM_FD, KVM_RESET_DIRTY_RINGS, NULL);
}

void kernel_harvest(struct kernel *kernel)
{
	bench_check(dl_harvest(kernel->cursor, 0, NULL), "dl_harvest");
}

uint64_t kernel_iterate(struct kernel *kernel)
{
	struct dl_extent extents[EXTENTS];
	uint64_t pages = 0;
	int n;

	while ((n = dl_cursor_read(kernel->cursor, extents, EXTENTS)) > 0) {
		for (int i = 0; i < n; i++)
			pages += extents[i].bytes / KERNEL_PAGE_BYTES;
		bench_check(dl_cursor_ack(kernel->cursor, extents, (uint32_t)n), "dl_cursor_ack");
	}
	bench_check(n, "dl_cursor_read");
	bench_check(dl_cursor_end(kernel->cursor, 0), "dl_cursor_end");
	return pages;
}

void kernel_empty(struct kernel *kernel)
{
	bench_check(dl_cursor_end(kernel->cursor, 0), "dl_cursor_end");
	kernel_harvest(kernel);
	(void)kernel_iterate(kernel);
}
