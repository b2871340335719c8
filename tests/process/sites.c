/* SPDX-License-Identifier: MIT */
#include "sites.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "../model/uffd_scan.h"

static _Thread_local struct sites *inside; /* NULL: this thread is not in the library */

void sites_enter(struct sites *sites)
{
	inside = sites;
}

void sites_leave(void)
{
	inside = NULL;
}

int sites_pass(struct sites *sites, unsigned long request)
{
	uint32_t number = ++sites->count;

	if (!sites->fault.at || number < sites->fault.at || sites->hits >= sites->fault.times)
		return 0;
	/* Further failures hit only a retry of the same request. */
	if (sites->hits && request != sites->request)
		return 0;
	sites->hits++;
	sites->request = request;
	return -sites->fault.error;
}

static void cross(struct sites *sites, unsigned long request, bool entering)
{
	if (sites->cross)
		sites->cross(request, entering);
}

static int site_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	struct sites *sites = opaque, *before = inside;
	int failure = sites_pass(sites, request), r = 0;

	if (failure && request == KVM_ENABLE_CAP)
		sites->capability = ((struct kvm_enable_cap *)arg)->cap;
	cross(sites, request, true);
	inside = NULL;
	if (!failure || sites->fault.executed)
		r = sites->below.ioctl(sites->below.opaque, fd, request, arg);
	inside = before;
	cross(sites, request, false);
	return failure ? failure : r;
}

static int site_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		     void **addr)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, fd == -1 ? SITE_MMAP : SITE_MMAP_VCPU);

	if (r)
		return r;
	/* Anonymous memory does not come from the (model) kernel. */
	if (fd != -1)
		cross(sites, SITE_MMAP_VCPU, true);
	inside = NULL;
	r = sites->below.mmap(sites->below.opaque, fd, offset_bytes, bytes, prot, flags, addr);
	inside = before;
	if (fd != -1)
		cross(sites, SITE_MMAP_VCPU, false);
	sites->maps += !r;
	return r;
}

static int site_munmap(void *opaque, void *addr, size_t bytes)
{
	struct sites *sites = opaque, *before = inside;
	int failure = sites_pass(sites, SITE_MUNMAP), r;

	/* Unmap in any case, or this process would run out of memory after many runs. */
	inside = NULL;
	r = sites->below.munmap(sites->below.opaque, addr, bytes);
	inside = before;
	sites->maps -= !r;
	return failure ? failure : r;
}

static int site_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	struct sites *sites = opaque, *before = inside;
	/* Only blocking may fail; restoring the previous mask always works. */
	int r = how == SIG_BLOCK ? sites_pass(sites, SITE_SIGNAL_MASK) : 0;

	if (r)
		return r;
	inside = NULL;
	r = sites->below.signal_mask(sites->below.opaque, how, set, old);
	inside = before;
	return r;
}

static int site_dup(void *opaque, int fd)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_DUP);

	if (r)
		return r;
	cross(sites, SITE_DUP, true);
	inside = NULL;
	r = sites->below.dup(sites->below.opaque, fd);
	inside = before;
	cross(sites, SITE_DUP, false);
	sites->duplicates += r >= 0;
	return r;
}

static int site_madvise(void *opaque, void *addr, size_t bytes, int advice)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_MADVISE);

	if (r)
		return r;
	inside = NULL;
	r = sites->below.madvise(sites->below.opaque, addr, bytes, advice);
	inside = before;
	return r;
}

static int site_mprotect(void *opaque, void *addr, size_t bytes, int prot)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_MPROTECT);

	if (r)
		return r;
	inside = NULL;
	r = sites->below.mprotect(sites->below.opaque, addr, bytes, prot);
	inside = before;
	return r;
}

static int site_close(void *opaque, int fd)
{
	struct sites *sites = opaque, *before = inside;
	int failure = sites_pass(sites, SITE_CLOSE), r;

	/* As on Linux, the descriptor is closed even if close(2) fails. */
	cross(sites, SITE_CLOSE, true);
	inside = NULL;
	r = sites->below.close(sites->below.opaque, fd);
	inside = before;
	cross(sites, SITE_CLOSE, false);
	sites->duplicates -= !r;
	return failure ? failure : r;
}

static int site_timer(void *opaque)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_TIMER);

	if (r)
		return r;
	cross(sites, SITE_TIMER, true);
	inside = NULL;
	r = sites->below.timer(sites->below.opaque);
	inside = before;
	cross(sites, SITE_TIMER, false);
	sites->duplicates += r >= 0;
	return r;
}

static int site_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	struct sites *sites = opaque, *before = inside;
	int failure = sites_pass(sites, SITE_TIMER_SET), r = 0;

	cross(sites, SITE_TIMER_SET, true);
	inside = NULL;
	if (!failure || sites->fault.executed)
		r = sites->below.timer_set(sites->below.opaque, fd, from_now_ns);
	inside = before;
	cross(sites, SITE_TIMER_SET, false);
	return failure ? failure : r;
}

static int site_userfaultfd(void *opaque)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_USERFAULTFD);

	if (r)
		return r;
	cross(sites, SITE_USERFAULTFD, true);
	inside = NULL;
	r = sites->below.userfaultfd(sites->below.opaque);
	inside = before;
	cross(sites, SITE_USERFAULTFD, false);
	sites->duplicates += r >= 0;
	return r;
}

static int site_pagemap(void *opaque)
{
	struct sites *sites = opaque, *before = inside;
	int r = sites_pass(sites, SITE_PAGEMAP);

	if (r)
		return r;
	cross(sites, SITE_PAGEMAP, true);
	inside = NULL;
	r = sites->below.pagemap(sites->below.opaque);
	inside = before;
	cross(sites, SITE_PAGEMAP, false);
	sites->duplicates += r >= 0;
	return r;
}

static uint64_t site_now_ns(void *opaque)
{
	const struct sites *sites = opaque;

	return sites->below.now_ns(sites->below.opaque);
}

void sites_init(struct sites *sites, const struct dl_os *below, const struct site_fault *fault)
{
	memset(sites, 0, sizeof(*sites));
	sites->below = *below;
	sites->os = *below;
	sites->os.opaque = sites;
	sites->os.ioctl = site_ioctl;
	sites->os.mmap = site_mmap;
	sites->os.munmap = site_munmap;
	sites->os.signal_mask = site_signal_mask;
	sites->os.dup = site_dup;
	sites->os.madvise = site_madvise;
	sites->os.mprotect = site_mprotect;
	sites->os.close = site_close;
	sites->os.timer = site_timer;
	sites->os.timer_set = site_timer_set;
	sites->os.now_ns = site_now_ns;
	sites->os.userfaultfd = site_userfaultfd;
	sites->os.pagemap = site_pagemap;
	if (fault)
		sites->fault = *fault;
}

static const struct {
	unsigned long request;
	const char *name;
} names[] = {
	{ SITE_MMAP, "mmap" },
	{ SITE_MMAP_VCPU, "mmap of a vCPU" },
	{ SITE_MUNMAP, "munmap" },
	{ SITE_SIGNAL_MASK, "signal mask" },
	{ SITE_DUP, "dup" },
	{ SITE_MADVISE, "madvise" },
	{ SITE_MPROTECT, "mprotect" },
	{ SITE_CLOSE, "close" },
	{ SITE_TIMER, "timer" },
	{ SITE_TIMER_SET, "timer set" },
	{ SITE_USERFAULTFD, "userfaultfd" },
	{ SITE_PAGEMAP, "pagemap" },
	{ SITE_SET_REGION, "set_region" },
	{ SITE_ALLOCATION, "allocation" },
	{ KVM_CHECK_EXTENSION, "CHECK_EXTENSION" },
	{ KVM_GET_API_VERSION, "GET_API_VERSION" },
	{ KVM_ENABLE_CAP, "ENABLE_CAP" },
	{ KVM_SET_USER_MEMORY_REGION, "SET_USER_MEMORY_REGION" },
	{ KVM_GET_DIRTY_LOG, "GET_DIRTY_LOG" },
	{ KVM_CLEAR_DIRTY_LOG, "CLEAR_DIRTY_LOG" },
	{ KVM_RESET_DIRTY_RINGS, "RESET_DIRTY_RINGS" },
	{ UFFDIO_API, "UFFDIO_API" },
	{ UFFDIO_REGISTER, "UFFDIO_REGISTER" },
	{ UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER" },
	{ MODEL_PAGEMAP_SCAN, "PAGEMAP_SCAN" },
};

const char *sites_request_name(unsigned long request)
{
	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].request == request)
			return names[i].name;
	return "unknown ioctl";
}

/*
 * The program is linked with --wrap for these functions, so that all allocations of the library and
 * of the model pass here. Other allocators of the C library are not wrapped and must not be used.
 */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void __real_free(void *block);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *block, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void __wrap_free(void *block);
void *__real_realloc(void *block, size_t bytes);
void *__real_aligned_alloc(size_t align, size_t bytes);

/* True if an allocation may succeed. Otherwise sets errno as the C library does. */
static bool grant(void)
{
	if (!inside)
		return true;
	inside->allocations++;
	if (!sites_pass(inside, SITE_ALLOCATION)) {
		inside->blocks++;
		return true;
	}
	errno = ENOMEM;
	return false;
}

void *__wrap_malloc(size_t bytes)
{
	return grant() ? __real_malloc(bytes) : NULL;
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return grant() ? __real_calloc(n, bytes) : NULL;
}

void *__wrap_realloc(void *block, size_t bytes)
{
	if (inside)
		abort();
	return __real_realloc(block, bytes);
}

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	if (inside)
		abort();
	return __real_aligned_alloc(align, bytes);
}

void __wrap_free(void *block)
{
	if (inside && block)
		inside->blocks--;
	__real_free(block);
}
