/* SPDX-License-Identifier: MIT */
#ifndef DLI_OS_H
#define DLI_OS_H

#include <dirtylog/os.h>

#include <stdbool.h>

/* The table to use: the caller's, or the real one for NULL. */
const struct dl_os *dli_os_or_system(const struct dl_os *os);

/* True if a caller's table fits this release. */
bool dli_os_valid(const struct dl_os *os);

uint32_t dli_os_page_bytes(const struct dl_os *os);

/* Zeroed memory, or NULL; errno is untouched. Release it with free(). */
void *dli_allocate(size_t n, size_t bytes);

/* Memory with any contents, or NULL; errno is untouched. Release it with free(). */
void *dli_allocate_dirty(size_t n, size_t bytes);

/* True if a ring records every vCPU write without the backup bitmap. */
bool dli_os_ring_alone_safe(const struct dl_os *os);

/*
 * True if a call that returned *r must be repeated: for -EINTR and -EAGAIN, which no caller sees.
 * After many tries *r becomes -EIO. *tries begins with 0.
 */
bool dli_os_again(int *r, unsigned int *tries);

/* For a request that takes a pointer and returns no count: a positive result is -EIO. */
int dli_os_ioctl(const struct dl_os *os, int fd, unsigned long request, void *arg);

/* For a request that takes a number and returns one. */
int dli_os_ioctl_value(const struct dl_os *os, int fd, unsigned long request, unsigned long value);

/*
 * For an ioctl that may have done part of its work when it fails: it is not repeated, and -EINTR
 * and -EAGAIN become -EIO.
 */
int dli_os_ioctl_once(const struct dl_os *os, int fd, unsigned long request, void *arg);
int dli_os_ioctl_value_once(const struct dl_os *os, int fd, unsigned long request,
			    unsigned long value);

/* Maps bytes of fd, shared. */
int dli_os_map(const struct dl_os *os, int fd, uint64_t offset_bytes, size_t bytes, int prot,
	       void **addr);

/* Reserves zeroed address space; each page gets memory when it is first touched. */
int dli_os_reserve(const struct dl_os *os, size_t bytes, void **addr);

/* Advice about mapped memory. -EOPNOTSUPP if the table has no madvise. */
int dli_os_advise(const struct dl_os *os, void *addr, size_t bytes, int advice);

/* Makes an access to mapped memory a fault. -EOPNOTSUPP if the table has no mprotect. */
int dli_os_forbid(const struct dl_os *os, void *addr, size_t bytes);

void dli_os_unmap(const struct dl_os *os, void *addr, size_t bytes);

/* Blocks every signal of this thread. After an error the mask is unchanged. */
int dli_os_block_signals(const struct dl_os *os, sigset_t *before);

/*
 * Blocks asynchronous signals only: not those that a thread raises itself, nor the C library's own
 * two. After an error the mask is unchanged.
 */
int dli_os_block_async_signals(const struct dl_os *os, sigset_t *before);

/* Restores the mask. */
void dli_os_restore_signals(const struct dl_os *os, const sigset_t *before);

/* Duplicates a file descriptor, and closes the duplicate. */
int dli_os_dup(const struct dl_os *os, int fd);
void dli_os_close(const struct dl_os *os, int fd);

/* A timer, which dli_os_close() closes. -EOPNOTSUPP if the table has none, or no close. */
int dli_os_timer(const struct dl_os *os);

/* One expiration from_now_ns from now, in place of what was set before; 0: none. */
int dli_os_timer_set(const struct dl_os *os, int fd, uint64_t from_now_ns);

/* userfaultfd(2), and /proc/self/pagemap. The table has them, and close. */
int dli_os_userfaultfd(const struct dl_os *os);
int dli_os_pagemap(const struct dl_os *os);

uint64_t dli_os_now_ns(const struct dl_os *os);

/* The CPU clock of the calling thread, and its time. -EOPNOTSUPP if the table has no such clock. */
int dli_os_thread_clock(const struct dl_os *os, int64_t *clock);
int dli_os_thread_ns(const struct dl_os *os, int64_t clock, uint64_t *ns);

#endif
