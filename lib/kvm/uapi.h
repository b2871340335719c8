/* SPDX-License-Identifier: MIT */
#ifndef DLI_UAPI_H
#define DLI_UAPI_H

/* The UAPI, and what the headers of older distributions lack of it. */

#include <linux/kvm.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

#ifndef KVM_EXIT_DIRTY_RING_FULL
#define KVM_EXIT_DIRTY_RING_FULL 31
#endif

/*
 * Where a vCPU's ring lies in its file, in host pages. The same on every architecture with rings;
 * linux/kvm.h says 0 for one that had none when the headers were made.
 */
#define RING_PAGE_OFFSET 64

/*
 * What a cell's flags say. DIRTY alone is an entry to read: whatever else may stand beside it, the
 * kernel's reset looks at RESET only, so an entry with both would be handed back a second time.
 */
enum {
	CELL_CLEAN = 0,
	CELL_DIRTY = 1, /* KVM_DIRTY_GFN_F_DIRTY: written by the kernel */
	CELL_RESET = 2, /* KVM_DIRTY_GFN_F_RESET: written by us, taken back by the kernel */
};

#endif
