/* SPDX-License-Identifier: MIT */
#ifndef KVM_SPY_H
#define KVM_SPY_H

/*
 * The real system calls behind struct dl_os, watched, and on demand hidden or broken: tests see
 * with it in which order the library asks the kernel, and show that they notice when it does not.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/os.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

/* linux/kvm.h says 0 for an architecture that had no rings when the headers were made. */
#define SPY_RING_PAGE_OFFSET 64

enum {
	SPY_CAPABILITIES = 4,
	SPY_RINGS = 8,
};

struct spy;

/*
 * Sees an ioctl before the kernel does. Returns true where it has dealt with it: *result is then
 * what the library gets.
 */
typedef bool spy_intercept(struct spy *spy, int fd, unsigned long request, void *arg, int *result);

struct spy_ring {
	struct kvm_dirty_gfn *cells;
	uint32_t entries;
};

struct spy {
	struct dl_os os;
	spy_intercept *intercept;
	void *opaque; /* the interceptor's */
	struct {
		int capability, value;
	} pretended[SPY_CAPABILITIES];
	unsigned int pretended_count;
	struct spy_ring rings[SPY_RINGS];
	atomic_uint ring_count;
	atomic_uint resets, gets, clears, regions, enables;
};

void spy_init(struct spy *spy);

/* KVM_CHECK_EXTENSION of capability answers value. */
void spy_pretend(struct spy *spy, int capability, int value);

/* What the kernel answers, as the table wants it. */
int spy_ioctl(int fd, unsigned long request, void *arg);

#endif
