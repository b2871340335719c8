/* SPDX-License-Identifier: MIT */
#ifndef DLI_UFFD_H
#define DLI_UFFD_H

#include "kvm/os.h"

/*
 * userfaultfd's asynchronous write-protection, and PAGEMAP_SCAN: which pages were written through a
 * mapping of this process since they were last protected, by it or by the kernel for it. Both came
 * with Linux 6.7.
 */

struct dli_uffd {
	const struct dl_os *os;
	int fd, pagemap;
};

/* Why it cannot be used. */
enum dli_uffd_lack {
	DLI_UFFD_COMPLETE,
	DLI_UFFD_NO_TABLE,   /* the table of system calls has none of it */
	DLI_UFFD_NO_SCAN,    /* no PAGEMAP_SCAN, or no /proc/self/pagemap */
	DLI_UFFD_NO_FD,	     /* userfaultfd(2) */
	DLI_UFFD_NO_WPASYNC, /* UFFDIO_API with the features */
};

/*
 * Opens both descriptors. -EOPNOTSUPP: the kernel lacks it, or forbids it. lack says what failed,
 * whatever the error.
 */
int dli_uffd_open(struct dli_uffd *uffd, const struct dl_os *os, enum dli_uffd_lack *lack);
void dli_uffd_close(struct dli_uffd *uffd);

/* True if the kernel has it, as far as can be known. */
bool dli_uffd_available(const struct dl_os *os);

/* struct page_region, the output of PAGEMAP_SCAN: pages [start, end). */
struct dli_page_region {
	uint64_t start, end, categories;
};

/*
 * Begins to track the range: nothing of it is protected yet. -EBUSY: another userfaultfd has it.
 * *huge: it is hugetlb memory, whose pages are tracked as a whole.
 */
int dli_uffd_register(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes, bool *huge);

/* Ends it, and the protection. Errors are ignored: the memory may be gone. */
void dli_uffd_unregister(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes);

/*
 * Finds written pages of [*start, end) and protects them again, in the same step. *start becomes
 * where it has stopped, for want of regions. Returns how many regions there are. After an error
 * unknown pages have been protected.
 */
int dli_uffd_scan(const struct dli_uffd *uffd, uint64_t *start, uint64_t end,
		  struct dli_page_region *regions, uint32_t max_regions);

/* -EINVAL: the range is not mapped from its beginning to its end. */
int dli_uffd_check(const struct dli_uffd *uffd, uint64_t start, uint64_t bytes);

#endif
