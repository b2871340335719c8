/* SPDX-License-Identifier: MIT */
#ifndef DLI_UAPI_H
#define DLI_UAPI_H

/* The UAPI, with the constants that older distributions' headers lack. */

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

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/*
 * Offset of a vCPU's ring in its file, in host pages: the same on every architecture with rings. In
 * linux/kvm.h it is 0 for an architecture that had none when the headers were made.
 */
#define RING_PAGE_OFFSET 64

/*
 * A cell's flags. Only exactly DIRTY is an entry to read: the kernel's reset tests the RESET bit
 * alone, so an entry with both bits would be taken back without being read.
 */
enum {
	CELL_CLEAN = 0,
	CELL_DIRTY = 1, /* KVM_DIRTY_GFN_F_DIRTY: written by the kernel */
	CELL_RESET = 2, /* KVM_DIRTY_GFN_F_RESET: written by us, taken back by the kernel */
};

#endif
