/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

enum { RING_MAX_BYTES = 1 << 20, MEMSLOTS = 32764 };

static void *allocate(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory != MAP_FAILED)
		return memory;
	fprintf(stderr, "no memory for the kernel\n");
	exit(1);
}

static int check_extension(uintptr_t cap)
{
	switch (cap) {
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return RING_MAX_BYTES;
	case KVM_CAP_NR_MEMSLOTS:
		return MEMSLOTS;
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	default:
		return 0;
	}
}

static void protect(struct kernel *kernel, const struct kvm_dirty_gfn *cell)
{
	uint64_t page = ((uint64_t)cell->slot << kernel->slot_shift) + cell->offset;

	kernel->protected[page / 64] |= UINT64_C(1) << page % 64;
}

static int reset(struct kernel *kernel)
{
	int taken = 0;

	if (!kernel->rings_on)
		return -EINVAL;
	for (uint32_t i = 0; i < kernel->vcpu_count; i++) {
		struct kernel_vcpu *vcpu = &kernel->vcpus[i];

		for (;; vcpu->first++, taken++) {
			struct kvm_dirty_gfn *cell =
				&vcpu->cells[vcpu->first & (kernel->ring_entries - 1)];

			if (!(__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) &
			      KVM_DIRTY_GFN_F_RESET))
				break;
			protect(kernel, cell);
			__atomic_store_n(&cell->flags, 0, __ATOMIC_RELEASE);
		}
	}
	return taken;
}

/* Switching logging on protects the whole slot. */
static int set_region(struct kernel *kernel, const struct kvm_userspace_memory_region *region)
{
	uint64_t first = region->guest_phys_addr / KERNEL_PAGE_BYTES;
	uint64_t pages = region->memory_size / KERNEL_PAGE_BYTES;

	if (region->flags & KVM_MEM_LOG_DIRTY_PAGES)
		memset(kernel->protected + first / 64, 0xff, pages / 8);
	return 0;
}

static int get_log(const struct kernel *kernel, const struct kvm_dirty_log *log)
{
	uint64_t pages = UINT64_C(1) << kernel->slot_shift;

	memcpy(log->dirty_bitmap, kernel->dirty + log->slot * pages / 64, pages / 8);
	return 0;
}

static int clear_log(struct kernel *kernel, const struct kvm_clear_dirty_log *clear)
{
	uint64_t first = ((uint64_t)clear->slot << kernel->slot_shift) + clear->first_page;
	const uint64_t *bits = clear->dirty_bitmap;

	for (uint64_t word = 0; word < (clear->num_pages + 63) / 64; word++) {
		kernel->dirty[first / 64 + word] &= ~bits[word];
		kernel->protected[first / 64 + word] |= bits[word];
	}
	return 0;
}

static int kernel_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct kernel *kernel = opaque;

	switch (request) {
	case KVM_CHECK_EXTENSION:
		return check_extension((uintptr_t)arg);
	case KVM_ENABLE_CAP:
		kernel->rings_on |=
			((struct kvm_enable_cap *)arg)->cap == KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
		return 0;
	case KVM_RESET_DIRTY_RINGS:
		return reset(kernel);
	case KVM_GET_DIRTY_LOG:
		return get_log(kernel, arg);
	case KVM_CLEAR_DIRTY_LOG:
		return clear_log(kernel, arg);
	case KVM_SET_USER_MEMORY_REGION:
		return set_region(kernel, arg);
	default:
		return fd >= KERNEL_VCPU_FD ? -EINVAL : -ENOTTY;
	}
}

static int kernel_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	struct kernel *kernel = opaque;

	if (fd >= KERNEL_VCPU_FD) {
		struct kernel_vcpu *vcpu = &kernel->vcpus[fd - KERNEL_VCPU_FD];

		*addr = offset_bytes ? (void *)vcpu->cells : vcpu->run;
		return 0;
	}
	*addr = mmap(NULL, bytes, prot, flags, -1, 0);
	return *addr == MAP_FAILED ? -errno : 0;
}

static int kernel_munmap(void *opaque, void *addr, size_t bytes)
{
	const struct kernel *kernel = opaque;

	for (uint32_t i = 0; i < kernel->vcpu_count; i++)
		if (addr == kernel->vcpus[i].cells || addr == kernel->vcpus[i].run)
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

static int kernel_close(void *opaque, int fd)
{
	(void)opaque;
	(void)fd;
	return 0;
}

static int kernel_timer(void *opaque)
{
	(void)opaque;
	return KERNEL_TIMER_FD;
}

static int kernel_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	struct kernel *kernel = opaque;

	(void)fd;
	kernel->timer_at_ns = from_now_ns ? kernel->now_ns + from_now_ns : 0;
	return 0;
}

static uint64_t kernel_now_ns(void *opaque)
{
	return ((const struct kernel *)opaque)->now_ns;
}

/* A thread's clock is the number of its vCPU. */
static int kernel_thread_clock(void *opaque, int64_t *clock_id)
{
	*clock_id = ((const struct kernel *)opaque)->calling;
	return 0;
}

static int kernel_thread_ns(void *opaque, int64_t clock_id, uint64_t *ns)
{
	*ns = ((const struct kernel *)opaque)->vcpus[clock_id].cpu_ns;
	return 0;
}

struct kernel *kernel_new(uint64_t pages, uint32_t vcpus, uint32_t ring_entries,
			  uint32_t soft_limit, uint32_t slot_shift)
{
	struct kernel *kernel = allocate(sizeof(*kernel));

	*kernel = (struct kernel){
		.os = { .size = sizeof(kernel->os),
			.arch = DL_OS_ARCH_RING_ALONE_SAFE,
			.page_bytes = KERNEL_PAGE_BYTES,
			.opaque = kernel,
			.ioctl = kernel_ioctl,
			.mmap = kernel_mmap,
			.munmap = kernel_munmap,
			.signal_mask = kernel_signal_mask,
			.close = kernel_close,
			.timer = kernel_timer,
			.timer_set = kernel_timer_set,
			.now_ns = kernel_now_ns,
			.thread_clock = kernel_thread_clock,
			.thread_ns = kernel_thread_ns },
		.vcpu_count = vcpus,
		.ring_entries = ring_entries,
		.soft_limit = soft_limit,
		.slot_shift = slot_shift,
		.pages = pages,
		/* Not 0, which the library must not mistake for "never". */
		.now_ns = UINT64_C(1000000000),
		.protected = allocate(pages / 8),
		.dirty = allocate(pages / 8),
		.unsent = allocate(pages / 8),
		.zero = allocate(pages / 8),
	};
	memset(kernel->unsent, 0xff, pages / 8);
	for (uint32_t i = 0; i < vcpus; i++) {
		kernel->vcpus[i].cells = allocate(ring_entries * sizeof(struct kvm_dirty_gfn));
		kernel->vcpus[i].run = allocate(KERNEL_PAGE_BYTES);
	}
	return kernel;
}

void kernel_free(struct kernel *kernel)
{
	for (uint32_t i = 0; i < kernel->vcpu_count; i++) {
		munmap(kernel->vcpus[i].cells, kernel->ring_entries * sizeof(struct kvm_dirty_gfn));
		munmap(kernel->vcpus[i].run, KERNEL_PAGE_BYTES);
	}
	munmap(kernel->protected, kernel->pages / 8);
	munmap(kernel->dirty, kernel->pages / 8);
	munmap(kernel->unsent, kernel->pages / 8);
	munmap(kernel->zero, kernel->pages / 8);
	munmap(kernel, sizeof(*kernel));
}

uint64_t kernel_unsent_pages(const struct kernel *kernel)
{
	uint64_t pages = 0;

	for (uint64_t word = 0; word < kernel->pages / 64; word++)
		pages += (uint64_t)__builtin_popcountll(kernel->unsent[word]);
	return pages;
}
