/* SPDX-License-Identifier: MIT */
#ifndef DLI_OS_H
#define DLI_OS_H

#include <dirtylog/os.h>

#include <stdbool.h>

/* The table to use: the caller's, or the real system's for NULL. */
const struct dl_os *dli_os_or_system(const struct dl_os *os);

/* Whether a caller's table is one of this release. */
bool dli_os_valid(const struct dl_os *os);

uint32_t dli_os_page_bytes(const struct dl_os *os);

/* Zeroed memory, or NULL; errno stays as it was. To be given back with free(). */
void *dli_allocate(size_t n, size_t bytes);

/* Whether a ring records every vCPU write without the backup bitmap. */
bool dli_os_ring_alone_safe(const struct dl_os *os);

/*
 * What may interrupt a call and nobody is told of, -EINTR and -EAGAIN: whether to make it again.
 * After many tries *r becomes -EIO. *tries begins with 0.
 */
bool dli_os_again(int *r, unsigned int *tries);

int dli_os_ioctl(const struct dl_os *os, int fd, unsigned long request, void *arg);

/*
 * For what may have done a part of its work when it fails: not made again, and -EINTR and -EAGAIN are
 * -EIO at once.
 */
int dli_os_ioctl_once(const struct dl_os *os, int fd, unsigned long request, void *arg);

/* As dli_os_ioctl(), for requests whose argument is a number. */
int dli_os_ioctl_value(const struct dl_os *os, int fd, unsigned long request, unsigned long value);

/* Maps bytes of fd, shared. */
int dli_os_map(const struct dl_os *os, int fd, uint64_t offset_bytes, size_t bytes, int prot,
	       void **addr);

/* Reserves zeroed address space; memory comes with the first touch of each page. */
int dli_os_reserve(const struct dl_os *os, size_t bytes, void **addr);

void dli_os_unmap(const struct dl_os *os, void *addr, size_t bytes);

/* Blocks every signal of this thread. 0, or an error: the mask is then as it was. */
int dli_os_block_signals(const struct dl_os *os, sigset_t *before);

/* Restores the mask of before. */
void dli_os_restore_signals(const struct dl_os *os, const sigset_t *before);

/* A duplicate of a file descriptor, and its end. */
int dli_os_dup(const struct dl_os *os, int fd);
void dli_os_close(const struct dl_os *os, int fd);

uint64_t dli_os_now_ns(void);

#endif
