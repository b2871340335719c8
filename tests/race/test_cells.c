/* SPDX-License-Identifier: MIT */
/*
 * A ring between the library and a kernel that is another thread. The two share only the cells: no
 * lock, no counter. The kernel accesses slot and offset as plain memory and orders them as
 * virt/kvm/dirty_ring.c does: smp_wmb() and the store of the flags in kvm_dirty_ring_push(), which
 * is a release here; smp_load_acquire() of the flags in kvm_dirty_gfn_harvested();
 * smp_store_release() in kvm_dirty_gfn_set_invalid().
 */
#include "ring/drain.h"
#include "pages/publish.h"
#include "../unit/words_of.h"
#include "pair.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	ENTRIES = 64,
	SOFT_LIMIT = 48,
	PAGE_BYTES = 4096,
	VCPU_FD = 7,
	VM_FD = 8,
	DRAINERS = 2,
};

static unsigned int total = 20000;

static struct kernel {
	struct dl_os os;
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	struct dli_reset reset;
	struct dli_ring *ring;
	/* A reset is under way. Relaxed: only the cells must order the two threads. */
	atomic_bool resetting;
	unsigned int
		wrong; /* private to the kernel thread: cells that differ from what it pushed */
	/* Protected by the ring's lock. */
	unsigned int published, out_of_order;
} kernel;

static uint32_t slot_of(unsigned int i)
{
	return i % 5;
}

static uint64_t offset_of(unsigned int i)
{
	return (uint64_t)i * 3;
}

static uint32_t *flags_of(unsigned int index)
{
	return &kernel.cells[index % ENTRIES].flags;
}

static void push(unsigned int i)
{
	kernel.cells[i % ENTRIES].slot = slot_of(i);
	kernel.cells[i % ENTRIES].offset = offset_of(i);
	__atomic_store_n(flags_of(i), CELL_DIRTY, __ATOMIC_RELEASE);
}

static bool take(unsigned int i)
{
	if (!(__atomic_load_n(flags_of(i), __ATOMIC_ACQUIRE) & CELL_RESET))
		return false;
	kernel.wrong += kernel.cells[i % ENTRIES].slot != slot_of(i) ||
			kernel.cells[i % ENTRIES].offset != offset_of(i);
	__atomic_store_n(flags_of(i), CELL_CLEAN, __ATOMIC_RELEASE);
	return true;
}

static bool is_resetting(void)
{
	return atomic_load_explicit(&kernel.resetting, memory_order_relaxed);
}

/* Both the vCPU and the CPU that executes the reset. */
static void *run_kernel(void *unused)
{
	unsigned int dirty = 0, reset = 0;

	while (reset < total) {
		bool idle = true;

		if (dirty < total && dirty - reset < SOFT_LIMIT) {
			push(dirty++);
			idle = false;
		}
		if (reset < dirty && is_resetting() && take(reset)) {
			reset++;
			idle = false;
		}
		if (idle)
			sched_yield();
	}
	return NULL;
}

/* The kernel thread does the work; the reset has ended when no released cell is left. */
static int kernel_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	if (fd != VM_FD || request != KVM_RESET_DIRTY_RINGS)
		return -ENOTTY;
	atomic_store_explicit(&kernel.resetting, true, memory_order_relaxed);
	for (unsigned int i = 0; i < ENTRIES; i++)
		while (__atomic_load_n(flags_of(i), __ATOMIC_RELAXED) == CELL_RESET)
			sched_yield();
	atomic_store_explicit(&kernel.resetting, false, memory_order_relaxed);
	return 0;
}

static int kernel_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	assert_int_equal(fd, VCPU_FD);
	*addr = offset_bytes ? (void *)kernel.cells : (void *)kernel.run;
	return 0;
}

static int kernel_munmap(void *opaque, void *addr, size_t bytes)
{
	return 0;
}

static int kernel_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	return 0;
}

static int open_ring(void **state)
{
	memset(&kernel, 0, sizeof(kernel));
	kernel.os = (struct dl_os){ .size = sizeof(kernel.os),
				    .page_bytes = PAGE_BYTES,
				    .ioctl = kernel_ioctl,
				    .mmap = kernel_mmap,
				    .munmap = kernel_munmap,
				    .signal_mask = kernel_signal_mask };
	kernel.cells = calloc(ENTRIES, sizeof(*kernel.cells));
	kernel.run = calloc(1, PAGE_BYTES);
	if (!kernel.cells || !kernel.run || dli_reset_init(&kernel.reset, &kernel.os, VM_FD))
		return -1;
	return dli_ring_new(&kernel.os, VCPU_FD, ENTRIES, &kernel.reset, &kernel.ring);
}

static int close_ring(void **state)
{
	dli_ring_free(kernel.ring);
	dli_reset_fini(&kernel.reset);
	free(kernel.cells);
	free(kernel.run);
	return 0;
}

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	FOR_EACH_PAGE(words, n, slot, page)
	{
		kernel.out_of_order +=
			slot != slot_of(kernel.published) || page != offset_of(kernel.published);
		kernel.published++;
	}
	return (struct dli_publish_result){ .new_pages = n };
}

static bool all_published(void)
{
	bool all;

	dli_ring_lock(kernel.ring);
	all = kernel.published >= total;
	dli_ring_unlock(kernel.ring);
	return all;
}

static void *drain(void *unused)
{
	while (!all_published()) {
		if (dli_drain_ring(kernel.ring, &kernel.reset, NULL))
			abort();
		sched_yield();
	}
	return NULL;
}

/* Pairs of cell_load() and cell_release(). */
static void entries_are_complete_and_cells_are_released_after_the_read(void **state)
{
	pthread_t threads[DRAINERS], vcpu;

	assert_int_equal(pthread_create(&vcpu, NULL, run_kernel, NULL), 0);
	for (int i = 0; i < DRAINERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, drain, NULL), 0);
	for (int i = 0; i < DRAINERS; i++)
		pthread_join(threads[i], NULL);
	pthread_join(vcpu, NULL);
	assert_int_equal(kernel.published, total);
	assert_int_equal(kernel.out_of_order, 0);
	assert_int_equal(kernel.wrong, 0);
	assert_int_equal(atomic_load(&kernel.ring->stats.overflows), 0);
}

/* Fills a ring, then fills each cell again once it was cleared. */
static void *fill_twice(void *unused)
{
	for (unsigned int i = 0; i < ENTRIES; i++)
		push(i);
	for (unsigned int i = ENTRIES; i < 2 * ENTRIES; i++) {
		while (__atomic_load_n(flags_of(i), __ATOMIC_ACQUIRE) != CELL_CLEAN)
			sched_yield();
		push(i);
	}
	return NULL;
}

/* cell_clear(): a cleared cell belongs to the kernel, and was read before. */
static void cells_are_cleared_after_the_read(void **state)
{
	pthread_t vcpu;

	assert_int_equal(pthread_create(&vcpu, NULL, fill_twice, NULL), 0);
	dli_ring_lock(kernel.ring);
	do {
		sched_yield();
		dli_ring_copy(kernel.ring);
	} while (kernel.ring->copied < ENTRIES);
	dli_ring_desync(kernel.ring, &kernel.reset);
	dli_ring_unlock(kernel.ring);
	pthread_join(vcpu, NULL);
	assert_int_equal(kernel.ring->state, RING_DESYNCED);
}

static void offer_cell(void)
{
	assert_true(cell_change(cell_at(kernel.ring, 0), CELL_CLEAN, CELL_RESET));
}

static bool cell_is_offered(void)
{
	return __atomic_load_n(flags_of(0), __ATOMIC_ACQUIRE) & CELL_RESET;
}

static void release_as_kernel(void)
{
	__atomic_store_n(flags_of(0), CELL_RESET, __ATOMIC_RELEASE);
}

static bool cell_is_withdrawn(void)
{
	return cell_change(cell_at(kernel.ring, 0), CELL_RESET, CELL_CLEAN);
}

/* cell_change() hands a cell over and takes it back. */
static void a_cell_is_offered_after_the_read(void **state)
{
	pair_run(PAIR(offer_cell, cell_is_offered), NULL);
}

static void a_withdrawn_cell_belongs_to_the_library(void **state)
{
	pair_run(PAIR(release_as_kernel, cell_is_withdrawn), NULL);
}

static void request_repair(void)
{
	ring_request_repair(kernel.ring);
}

static bool repair_is_needed(void)
{
	return dli_reset_repair_needed(&kernel.reset);
}

/*
 * dli_reset_request_repair() and dli_reset_repair_needed(): entries are dropped before the repair
 * for them begins.
 */
static void a_repair_begins_after_its_request(void **state)
{
	pair_run(PAIR(request_repair, repair_is_needed), NULL);
}

#define ring_test(function) cmocka_unit_test_setup_teardown(function, open_ring, close_ring)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		ring_test(entries_are_complete_and_cells_are_released_after_the_read),
		ring_test(cells_are_cleared_after_the_read),
		ring_test(a_cell_is_offered_after_the_read),
		ring_test(a_withdrawn_cell_belongs_to_the_library),
		ring_test(a_repair_begins_after_its_request),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		total = 2000000;
	return RUN_TESTS("races: the cells of a ring", tests);
}
