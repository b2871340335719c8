/* SPDX-License-Identifier: MIT */
#ifndef DLI_UFFD_UAPI_H
#define DLI_UFFD_UAPI_H

/* linux/userfaultfd.h, and what linux/fs.h has since Linux 6.7, for older distributions. */

#include <linux/userfaultfd.h>
#include <stdint.h>
#include <sys/ioctl.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* struct pm_scan_arg */
struct dli_scan_arg {
	uint64_t size, flags, start, end;
	uint64_t walk_end; /* out */
	uint64_t vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define DLI_PAGEMAP_SCAN _IOWR('f', 16, struct dli_scan_arg)

enum {
	DLI_SCAN_WP_MATCHING = 1,
	DLI_SCAN_CHECK_WPASYNC = 2, /* memory that is not tracked is -EPERM */
	DLI_PAGE_IS_WPALLOWED = 1,
	DLI_PAGE_IS_WRITTEN = 2,
};

#endif
