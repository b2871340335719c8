/* SPDX-License-Identifier: MIT */
#ifndef BENCH_KERNEL_H
#define BENCH_KERNEL_H

/*
 * A kernel that costs nothing, so that only the library is measured: rings that the benchmark fills
 * itself, a reset that only marks the first and the last cell as consumed, bitmaps that are copied
 * out once.
 */

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

enum { KERNEL_VCPUS = 1024, KERNEL_PAGE_BYTES = 4096 };

#define KERNEL_SLOT_PAGES (UINT64_C(1) << 30)

struct kernel_ring {
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	uint32_t next, filled; /* next cell to fill; cells filled and not consumed */
	struct dl_vcpu *vcpu;
};

/*
 * This is not the model kernel (tests/model), whose locks and page states would be measured too. It
 * is not the kernel of tests/tuning either, which takes back every cell and stops the vCPUs for it.
 */
struct kernel {
	struct dl_os os;
	uint32_t entries, vcpus;
	bool ring_is_on;
	struct kernel_ring rings[KERNEL_VCPUS];
	const uint64_t *bitmap; /* of slot 0 */
	void *bitmap_is_in;	/* the buffer that holds it already */
	struct dl_log *log;
	struct dl_cursor *cursor;
	uint64_t pages;
};

/* Opens a log over pages of memory, with a clean cursor; in ring mode if entries is not 0. */
void kernel_open(struct kernel *kernel, uint32_t vcpus, uint32_t entries, uint64_t pages);
void kernel_close(struct kernel *kernel);

/* Fills one ring. */
void kernel_fill(struct kernel *kernel, uint32_t vcpu, const uint64_t *pages, uint32_t n);

/* KVM_RESET_DIRTY_RINGS, as the library calls it. */
int kernel_reset(struct kernel *kernel);

/* Begins a pass of the kernel's cursor. */
void kernel_harvest(struct kernel *kernel);

/* Reads and acknowledges the pages of the open pass, and ends it. Returns their number. */
uint64_t kernel_iterate(struct kernel *kernel);

/* Forgets all pending pages, in a pass of its own if none is open. */
void kernel_empty(struct kernel *kernel);

/* Adds a cursor that starts clean. flags: DL_CURSOR_* beside that. */
struct dl_cursor *kernel_add_cursor(struct kernel *kernel, uint32_t flags);

#endif
