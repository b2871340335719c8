/* SPDX-License-Identifier: MIT */
#ifndef KVM_SPY_H
#define KVM_SPY_H

/*
 * A struct dl_os that makes the real system calls, counts them, and on demand replaces or fails
 * them. Tests use it to observe the order of the calls, and to prove that they notice a missing
 * one.
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

/* linux/kvm.h defines this as 0 on an architecture that had no rings when the header was made. */
#define SPY_RING_PAGE_OFFSET 64

enum {
	SPY_CAPABILITIES = 4,
	SPY_RINGS = 8,
};

struct spy;

/*
 * Called before each ioctl. If it returns true, the ioctl is not made and the library gets *result.
 */
typedef bool spy_intercept(struct spy *spy, int fd, unsigned long request, void *arg, int *result);

struct spy_ring {
	struct kvm_dirty_gfn *cells;
	uint32_t entries;
};

struct spy {
	struct dl_os os;
	spy_intercept *intercept;
	void *opaque; /* for intercept */
	struct {
		int capability, value;
	} pretended[SPY_CAPABILITIES];
	unsigned int pretended_count;
	struct spy_ring rings[SPY_RINGS];
	atomic_uint ring_count;
	atomic_uint resets, gets, clears, regions, enables;
	unsigned long failing_request; /* see spy_fail_once() */
	int failing_error;
	atomic_bool failed;
};

void spy_init(struct spy *spy);

/* Makes KVM_CHECK_EXTENSION of a capability return value. */
void spy_pretend(struct spy *spy, int capability, int value);

/*
 * Makes the next ioctl of this request fail, as if the kernel could not make it for a moment. error
 * is negative. spy->failed tells whether that has happened. Takes the place of intercept.
 */
void spy_fail_once(struct spy *spy, unsigned long request, int error);

/* The real ioctl, with the return value that struct dl_os requires: -errno on failure. */
int spy_ioctl(int fd, unsigned long request, void *arg);

#endif
