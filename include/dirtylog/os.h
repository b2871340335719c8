/* SPDX-License-Identifier: MIT */
#ifndef DIRTYLOG_OS_H
#define DIRTYLOG_OS_H

/*
 * The table of system calls that libdirtylog makes.
 *
 * For tests, model kernels and fault injection: a program passes its own table to dl_log_open() in
 * struct dl_options.os, and the library makes all its system calls through it. NULL means the real
 * system.
 *
 * UNSTABLE: this header is outside the ABI promise of dirtylog.h. A table must be compiled against
 * the release that it is used with; if its size differs from the library's, it is refused with
 * -EINVAL.
 *
 * Every function returns 0, or a number where the system call does, or a negative errno value (a
 * positive one is no success: the library returns -EIO), and leaves errno untouched. They run on
 * any thread that calls the library. The table, and what opaque points to, must outlive the log
 * that was opened with them and every vCPU and cursor of that log.
 */

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/select.h> /* defines sigset_t under strict C too, where <signal.h> does not */

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility push(default)
#endif

/* A property of the host's KVM that no capability reports. */
enum dl_os_arch {
	DL_OS_ARCH_NATIVE = 0, /* decided by the architecture that the library was built for */
	/*
	 * A ring without the backup bitmap records every write that a vCPU makes (x86, LoongArch).
	 * Elsewhere the architecture's code asks "is there a bitmap?" to decide whether huge
	 * mappings are split, so that a ring alone loses ordinary writes. Set where it is not true,
	 * with DL_BACKUP_OFF, it reproduces that loss.
	 */
	DL_OS_ARCH_RING_ALONE_SAFE = 1,
	DL_OS_ARCH_RING_NEEDS_BACKUP = 2,
};

struct dl_os {
	uint32_t size;	     /* sizeof(struct dl_os) */
	uint32_t page_bytes; /* host page size, a power of two; 0: ask the system */
	uint32_t arch;	     /* enum dl_os_arch */
	uint32_t reserved;   /* 0 */
	void *opaque;	     /* the first argument of every function below */

	/*
	 * ioctl(2). arg is the pointer, or the value, that the request takes. Returns what the
	 * kernel does: of KVM_RESET_DIRTY_RINGS the count, as one too low means lost entries.
	 */
	int (*ioctl)(void *opaque, int fd, unsigned long request, void *arg);

	/*
	 * mmap(2) at any address. fd is -1 for anonymous memory. On success *addr is the
	 * mapping.
	 */
	int (*mmap)(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		    void **addr);

	/* munmap(2). */
	int (*munmap)(void *opaque, void *addr, size_t bytes);

	/*
	 * rt_sigprocmask(2), of the kernel's 64 signals: those that the C library keeps for itself
	 * included, which pthread_sigmask(3) leaves out. set or old may be NULL.
	 */
	int (*signal_mask)(void *opaque, int how, const sigset_t *set, sigset_t *old);

	/*
	 * fcntl(2) F_DUPFD_CLOEXEC, and close(2) of the duplicate. Both may be NULL; then the
	 * caller's descriptor must stay open until dl_log_close(), and a vCPU whose ring overflowed
	 * stays outside the guest after it.
	 */
	int (*dup)(void *opaque, int fd);
	int (*close)(void *opaque, int fd);

	/*
	 * madvise(2) with MADV_DONTFORK, MADV_WIPEONFORK and MADV_POPULATE_READ. May be NULL; then
	 * calls in a child of fork(2), and vCPUs of other VMs, are not noticed.
	 */
	int (*madvise)(void *opaque, void *addr, size_t bytes, int advice);

	/*
	 * mprotect(2) with PROT_NONE. May be NULL; then a slot that was replaced by a larger one
	 * behind the library makes the kernel write past the end of a buffer.
	 */
	int (*mprotect)(void *opaque, void *addr, size_t bytes, int prot);

	/*
	 * timerfd_create(2) of CLOCK_MONOTONIC, non-blocking and close-on-exec, and
	 * timerfd_settime(2) with one expiration from_now_ns from now; 0 disarms. Setting also
	 * takes back an expiration that nobody has read. Both may be NULL, and so may close; then
	 * dl_log_fd() is -EOPNOTSUPP.
	 */
	int (*timer)(void *opaque);
	int (*timer_set)(void *opaque, int fd, uint64_t from_now_ns);

	/* clock_gettime(2) of CLOCK_MONOTONIC, in nanoseconds. NULL: the real clock. */
	uint64_t (*now_ns)(void *opaque);

	/*
	 * pthread_getcpuclockid(3) of the calling thread, which runs a vCPU; and clock_gettime(2)
	 * of such a clock, on any thread. Either may be NULL; then a vCPU counts as running
	 * whenever time passes. Since 0.2.
	 */
	int (*thread_clock)(void *opaque, int64_t *clock_id);
	int (*thread_ns)(void *opaque, int64_t clock_id, uint64_t *ns);

	/*
	 * userfaultfd(2) of user mode only, non-blocking and close-on-exec, and open(2) of
	 * /proc/self/pagemap, close-on-exec. ioctl gets UFFDIO_API, UFFDIO_REGISTER and
	 * UFFDIO_UNREGISTER of the one, PAGEMAP_SCAN of the other. Both may be NULL, and so may
	 * close; then there is no DL_HAS_WATCH, and dl_slot_watch() is -EOPNOTSUPP.
	 */
	int (*userfaultfd)(void *opaque);
	int (*pagemap)(void *opaque);
};

/*
 * Returns the table of the real system calls, so that a copy of it can replace one of them. Its
 * functions ignore opaque. No system call; never blocks. Since 0.2.
 */
const struct dl_os *dl_os_system(void);

#if defined(__GNUC__) || defined(__clang__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
