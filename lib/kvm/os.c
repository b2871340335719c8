/* SPDX-License-Identifier: MIT */
/* The real table of system calls. No other file makes one. */

#include "kvm/os.h"

#include "kvm/uffd_uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static int system_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	int before = errno;
	int r = ioctl(fd, request, arg);

	if (r < 0)
		r = -errno;
	errno = before;
	return r;
}

static int system_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	int before = errno;
	void *p = mmap(NULL, bytes, prot, flags, fd, (off_t)offset_bytes);
	int r = 0;

	if (p == MAP_FAILED)
		r = -errno;
	else
		*addr = p;
	errno = before;
	return r;
}

static int system_munmap(void *opaque, void *addr, size_t bytes)
{
	int before = errno;
	int r = munmap(addr, bytes) ? -errno : 0;

	errno = before;
	return r;
}

/* The kernel's set has a bit a signal, 64 in all. */
enum { SIGSET_BYTES = 8 };

/*
 * The system call itself: pthread_sigmask() leaves out the two signals that the C library keeps for
 * set*id() and for cancellation, and either of them cuts a reset short.
 */
static int system_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	int before = errno;
	int r = (int)syscall(SYS_rt_sigprocmask, how, set, old, (size_t)SIGSET_BYTES);

	if (r < 0)
		r = -errno;
	errno = before;
	return r;
}

static int system_dup(void *opaque, int fd)
{
	int before = errno;
	/* Never 0 to 2, which a process that closed its standard streams would use as one. */
	int r = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

	if (r < 0)
		r = -errno;
	errno = before;
	return r;
}

static int system_close(void *opaque, int fd)
{
	int before = errno, state, r;

	/* close(2) is a cancellation point, and the caller is in the middle of something. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	r = close(fd) ? -errno : 0;
	pthread_setcancelstate(state, NULL);
	errno = before;
	return r;
}

static int system_madvise(void *opaque, void *addr, size_t bytes, int advice)
{
	int before = errno;
	int r = madvise(addr, bytes, advice) ? -errno : 0;

	errno = before;
	return r;
}

static int system_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	int before = errno;
	int r = mprotect(addr, bytes, prot) ? -errno : 0;

	errno = before;
	return r;
}

/* Replaces a new descriptor from 0 to 2, for the reason that system_dup() has. */
static int above_standard(void *opaque, int fd)
{
	int r;

	if (fd > STDERR_FILENO)
		return fd;
	r = system_dup(opaque, fd);
	system_close(opaque, fd);
	return r;
}

static int system_timer(void *opaque)
{
	int before = errno;
	int r = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

	r = r < 0 ? -errno : above_standard(opaque, r);
	errno = before;
	return r;
}

enum { SECOND_NS = 1000000000 };

static int system_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	const struct itimerspec once = { .it_value = { .tv_sec = (time_t)(from_now_ns / SECOND_NS),
						       .tv_nsec =
							       (long)(from_now_ns % SECOND_NS) } };
	int before = errno;
	int r = timerfd_settime(fd, 0, &once, NULL) ? -errno : 0;

	errno = before;
	return r;
}

static uint64_t system_now_ns(void *opaque)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

static int system_thread_clock(void *opaque, int64_t *id)
{
	clockid_t clock;
	int r = -pthread_getcpuclockid(pthread_self(), &clock);

	if (!r)
		*id = clock;
	return r;
}

static int system_thread_ns(void *opaque, int64_t id, uint64_t *ns)
{
	int before = errno;
	struct timespec t;
	int r = clock_gettime((clockid_t)id, &t) ? -errno : 0;

	if (!r)
		*ns = (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
	errno = before;
	return r;
}

static int system_userfaultfd(void *opaque)
{
	int before = errno;
	int r = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	r = r < 0 ? -errno : above_standard(opaque, r);
	errno = before;
	return r;
}

static int system_pagemap(void *opaque)
{
	int before = errno, state, r;

	/* open(2) is a cancellation point too. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	r = openat(AT_FDCWD, "/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	r = r < 0 ? -errno : above_standard(opaque, r);
	pthread_setcancelstate(state, NULL);
	errno = before;
	return r;
}

static const struct dl_os system_os = {
	.size = sizeof(struct dl_os),
	.ioctl = system_ioctl,
	.mmap = system_mmap,
	.munmap = system_munmap,
	.signal_mask = system_signal_mask,
	.dup = system_dup,
	.close = system_close,
	.madvise = system_madvise,
	.mprotect = system_mprotect,
	.timer = system_timer,
	.timer_set = system_timer_set,
	.now_ns = system_now_ns,
	.thread_clock = system_thread_clock,
	.thread_ns = system_thread_ns,
	.userfaultfd = system_userfaultfd,
	.pagemap = system_pagemap,
};

const struct dl_os *dl_os_system(void)
{
	return &system_os;
}

const struct dl_os *dli_os_or_system(const struct dl_os *os)
{
	return os ? os : &system_os;
}

bool dli_os_valid(const struct dl_os *os)
{
	if (os->size != sizeof(*os) || os->reserved || os->arch > DL_OS_ARCH_RING_NEEDS_BACKUP)
		return false;
	if (os->page_bytes && (os->page_bytes < 4096 || os->page_bytes & (os->page_bytes - 1)))
		return false;
	return os->ioctl && os->mmap && os->munmap && os->signal_mask;
}

uint32_t dli_os_page_bytes(const struct dl_os *os)
{
	return os->page_bytes ? os->page_bytes : (uint32_t)sysconf(_SC_PAGESIZE);
}

bool dli_os_ring_alone_safe(const struct dl_os *os)
{
	if (os->arch != DL_OS_ARCH_NATIVE)
		return os->arch == DL_OS_ARCH_RING_ALONE_SAFE;
#if defined(__x86_64__) || defined(__i386__) || defined(__loongarch__)
	return true;
#else
	return false;
#endif
}

void *dli_allocate(size_t n, size_t bytes)
{
	/* Volatile: clang assumes that calloc() leaves errno alone, and drops the store. */
	volatile int *error = &errno;
	int before = *error;
	void *memory = calloc(n, bytes);

	*error = before;
	return memory;
}

void *dli_allocate_dirty(size_t n, size_t bytes)
{
	volatile int *error = &errno;
	int before = *error;
	void *memory = malloc(n * bytes);

	*error = before;
	return memory;
}

/*
 * KVM returns neither for the requests made here, but a layer in between may. Not for ever: that
 * would be a hang, with locks held.
 */
bool dli_os_again(int *r, unsigned int *tries)
{
	const unsigned int most = 1000;

	if (*r != -EINTR && *r != -EAGAIN)
		return false;
	if (++*tries < most)
		return true;
	*r = -EIO;
	return false;
}

/* A layer in between returned -EINTR or -EAGAIN to a call that cannot be repeated. */
static int without_retry(int r)
{
	return r == -EINTR || r == -EAGAIN ? -EIO : r;
}

/*
 * For a function without a count. A table of system calls that forgets to negate errno would make
 * a failure look like success; its slot would never be logged.
 */
static int without_count(int r)
{
	return r > 0 ? -EIO : without_retry(r);
}

static int repeat_ioctl(const struct dl_os *os, int fd, unsigned long request, void *arg)
{
	unsigned int tries = 0;
	int r;

	do
		r = os->ioctl(os->opaque, fd, request, arg);
	while (dli_os_again(&r, &tries));
	return r;
}

int dli_os_ioctl(const struct dl_os *os, int fd, unsigned long request, void *arg)
{
	return without_count(repeat_ioctl(os, fd, request, arg));
}

int dli_os_ioctl_once(const struct dl_os *os, int fd, unsigned long request, void *arg)
{
	return without_count(os->ioctl(os->opaque, fd, request, arg));
}

int dli_os_ioctl_value(const struct dl_os *os, int fd, unsigned long request, unsigned long value)
{
	return repeat_ioctl(os, fd, request, (void *)value);
}

int dli_os_ioctl_value_once(const struct dl_os *os, int fd, unsigned long request,
			    unsigned long value)
{
	return without_retry(os->ioctl(os->opaque, fd, request, (void *)value));
}

/* -EAGAIN: mlockall(2) is in force, and no more memory may be locked. */
static int map(const struct dl_os *os, int fd, uint64_t offset_bytes, size_t bytes, int prot,
	       int flags, void **addr)
{
	int r = os->mmap(os->opaque, fd, offset_bytes, bytes, prot, flags, addr);

	return r == -EAGAIN || r == -EINTR ? -ENOMEM : without_count(r);
}

int dli_os_map(const struct dl_os *os, int fd, uint64_t offset_bytes, size_t bytes, int prot,
	       void **addr)
{
	return map(os, fd, offset_bytes, bytes, prot, MAP_SHARED, addr);
}

int dli_os_reserve(const struct dl_os *os, size_t bytes, void **addr)
{
	return map(os, -1, 0, bytes, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, addr);
}

int dli_os_advise(const struct dl_os *os, void *addr, size_t bytes, int advice)
{
	return os->madvise ? without_count(os->madvise(os->opaque, addr, bytes, advice))
			   : -EOPNOTSUPP;
}

int dli_os_forbid(const struct dl_os *os, void *addr, size_t bytes)
{
	return os->mprotect ? without_count(os->mprotect(os->opaque, addr, bytes, PROT_NONE))
			    : -EOPNOTSUPP;
}

void dli_os_unmap(const struct dl_os *os, void *addr, size_t bytes)
{
	if (addr)
		(void)os->munmap(os->opaque, addr, bytes);
}

static int block(const struct dl_os *os, const sigset_t *set, sigset_t *before)
{
	memset(before, 0, sizeof(*before));
	return without_count(os->signal_mask(os->opaque, SIG_BLOCK, set, before));
}

int dli_os_block_signals(const struct dl_os *os, sigset_t *before)
{
	sigset_t all;

	/* sigfillset() leaves out the C library's own two. */
	memset(&all, 0xff, sizeof(all));
	return block(os, &all, before);
}

int dli_os_block_async_signals(const struct dl_os *os, sigset_t *before)
{
	static const int open_signals[] = {
		SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, 32, 33
	};
	uint64_t mask = ~UINT64_C(0);
	sigset_t set;

	for (size_t i = 0; i < sizeof(open_signals) / sizeof(open_signals[0]); i++)
		mask &= ~(UINT64_C(1) << (open_signals[i] - 1));
	memset(&set, 0, sizeof(set));
	memcpy(&set, &mask, sizeof(mask));
	return block(os, &set, before);
}

void dli_os_restore_signals(const struct dl_os *os, const sigset_t *before)
{
	(void)os->signal_mask(os->opaque, SIG_SETMASK, before, NULL);
}

int dli_os_dup(const struct dl_os *os, int fd)
{
	return os->dup && os->close ? os->dup(os->opaque, fd) : -EOPNOTSUPP;
}

void dli_os_close(const struct dl_os *os, int fd)
{
	(void)os->close(os->opaque, fd);
}

int dli_os_timer(const struct dl_os *os)
{
	if (!os->timer || !os->timer_set || !os->close)
		return -EOPNOTSUPP;
	return without_retry(os->timer(os->opaque));
}

int dli_os_timer_set(const struct dl_os *os, int fd, uint64_t from_now_ns)
{
	return without_count(os->timer_set(os->opaque, fd, from_now_ns));
}

int dli_os_userfaultfd(const struct dl_os *os)
{
	return without_retry(os->userfaultfd(os->opaque));
}

int dli_os_pagemap(const struct dl_os *os)
{
	return without_retry(os->pagemap(os->opaque));
}

uint64_t dli_os_now_ns(const struct dl_os *os)
{
	return os->now_ns ? os->now_ns(os->opaque) : system_now_ns(NULL);
}

int dli_os_thread_clock(const struct dl_os *os, int64_t *clock)
{
	if (!os->thread_clock || !os->thread_ns)
		return -EOPNOTSUPP;
	return without_count(os->thread_clock(os->opaque, clock));
}

int dli_os_thread_ns(const struct dl_os *os, int64_t clock, uint64_t *ns)
{
	return without_count(os->thread_ns(os->opaque, clock, ns));
}
