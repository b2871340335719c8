/* SPDX-License-Identifier: MIT */
#ifndef MODEL_UFFD_SCAN_H
#define MODEL_UFFD_SCAN_H

/* userfaultfd's write-protection and PAGEMAP_SCAN, with what older headers lack. */

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

struct model_scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct model_page_region {
	uint64_t start, end, categories;
};

#define MODEL_PAGEMAP_SCAN _IOWR('f', 16, struct model_scan_arg)

enum {
	MODEL_SCAN_PROTECT = 1,	  /* PM_SCAN_WP_MATCHING */
	MODEL_SCAN_CHECK = 2,	  /* PM_SCAN_CHECK_WPASYNC */
	MODEL_PAGE_WPALLOWED = 1, /* PAGE_IS_WPALLOWED */
	MODEL_PAGE_WRITTEN = 2,	  /* PAGE_IS_WRITTEN */
	MODEL_UFFD_FEATURES = 1 << 12 | 1 << 13 | 1 << 15 | 1,
};

#endif
