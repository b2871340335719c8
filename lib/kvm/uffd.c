/* SPDX-License-Identifier: MIT */
/* userfaultfd and PAGEMAP_SCAN. */

#include "kvm/uffd.h"

#include "kvm/uffd_uapi.h"

#include <errno.h>

/* WP_UNPOPULATED: pages that are not mapped yet are protected too, and found when they are. */
#define FEATURES                                                            \
	(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
	 UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)

/* Maps errors of kernels that lack or forbid it to -EOPNOTSUPP. Other errors may be transient. */
static int unsupported(int r)
{
	switch (r) {
	case -ENOSYS:
	case -ENOTTY:
	case -EINVAL:
	case -EPERM:
	case -EACCES:
	case -ENOENT:
	case -EOPNOTSUPP:
		return -EOPNOTSUPP;
	default:
		return r;
	}
}

static int scan(const struct dli_uffd *uffd, struct dli_scan_arg *arg)
{
	arg->size = sizeof(*arg);
	/* Once: what is found is protected already, even if the call fails. */
	return dli_os_ioctl_value_once(uffd->os, uffd->pagemap, DLI_PAGEMAP_SCAN,
				       (unsigned long)arg);
}

static int open_pagemap(struct dli_uffd *uffd)
{
	struct dli_scan_arg nothing = { 0 };
	int r = dli_os_pagemap(uffd->os);

	if (r < 0)
		return r;
	uffd->pagemap = r;
	r = scan(uffd, &nothing);
	if (r < 0)
		dli_os_close(uffd->os, uffd->pagemap);
	return r < 0 ? r : 0;
}

static int open_userfaultfd(struct dli_uffd *uffd, enum dli_uffd_lack *lack)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int r = dli_os_userfaultfd(uffd->os);

	*lack = DLI_UFFD_NO_FD;
	if (r < 0)
		return r;
	uffd->fd = r;
	*lack = DLI_UFFD_NO_WPASYNC;
	r = dli_os_ioctl(uffd->os, uffd->fd, UFFDIO_API, &api);
	if (r)
		dli_os_close(uffd->os, uffd->fd);
	return r;
}

int dli_uffd_open(struct dli_uffd *uffd, const struct dl_os *os, enum dli_uffd_lack *lack)
{
	int r;

	uffd->os = os;
	*lack = DLI_UFFD_NO_TABLE;
	if (!os->userfaultfd || !os->pagemap || !os->close)
		return -EOPNOTSUPP;
	/* First: where this is missing, userfaultfd(2) is not called for nothing. */
	*lack = DLI_UFFD_NO_SCAN;
	r = open_pagemap(uffd);
	if (r)
		return unsupported(r);
	r = open_userfaultfd(uffd, lack);
	if (r) {
		dli_os_close(os, uffd->pagemap);
		return unsupported(r);
	}
	*lack = DLI_UFFD_COMPLETE;
	return 0;
}

void dli_uffd_close(struct dli_uffd *uffd)
{
	dli_os_close(uffd->os, uffd->fd);
	dli_os_close(uffd->os, uffd->pagemap);
}

bool dli_uffd_available(const struct dl_os *os)
{
	enum dli_uffd_lack lack;
	struct dli_uffd uffd;
	int r = dli_uffd_open(&uffd, os, &lack);

	if (!r)
		dli_uffd_close(&uffd);
	/* Another failure does not say that the kernel lacks it; the watch will fail by itself. */
	return r != -EOPNOTSUPP;
}

int dli_uffd_register(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes, bool *huge)
{
	struct uffdio_register range = {
		.range = { .start = start, .len = bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int r = dli_os_ioctl(uffd->os, uffd->fd, UFFDIO_REGISTER, &range);

	/* The one kind of memory without it. */
	*huge = !r && !(range.ioctls & UINT64_C(1) << _UFFDIO_ZEROPAGE);
	return r;
}

void dli_uffd_unregister(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes)
{
	struct uffdio_range range = { .start = start, .len = bytes };

	(void)dli_os_ioctl(uffd->os, uffd->fd, UFFDIO_UNREGISTER, &range);
}

int dli_uffd_scan(const struct dli_uffd *uffd, uint64_t *start, uint64_t end,
		  struct dli_page_region *regions, uint32_t max_regions)
{
	struct dli_scan_arg arg = {
		.flags = DLI_SCAN_WP_MATCHING | DLI_SCAN_CHECK_WPASYNC,
		.start = *start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = max_regions,
		.category_mask = DLI_PAGE_IS_WRITTEN,
		.return_mask = DLI_PAGE_IS_WRITTEN,
	};
	int r = scan(uffd, &arg);

	if (r < 0)
		return r;
	/* It goes on, or a loop over it would not end. */
	if ((uint32_t)r > max_regions || arg.walk_end <= *start || arg.walk_end > end)
		return -EIO;
	*start = arg.walk_end;
	return r;
}

int dli_uffd_check(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes)
{
	/* UFFDIO_REGISTER and a scan pass over holes; adjacent pages of one category are joined. */
	struct dli_page_region all = { 0 };
	struct dli_scan_arg arg = {
		.start = start,
		.end = start + bytes,
		.vec = (uintptr_t)&all,
		.vec_len = 1,
		.category_mask = DLI_PAGE_IS_WPALLOWED,
		.return_mask = DLI_PAGE_IS_WPALLOWED,
	};

	int r = scan(uffd, &arg);

	if (r < 0)
		return r;
	return r == 1 && all.start == start && all.end == start + bytes ? 0 : -EINVAL;
}
