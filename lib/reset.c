/* SPDX-License-Identifier: MIT */
/* KVM_RESET_DIRTY_RINGS, serialised, with signals blocked. */

#include "reset.h"

#include "uapi.h"

#include <errno.h>

int dli_reset_init(struct dli_reset *reset, const struct dl_os *os, int vm_fd)
{
	reset->os = os;
	reset->vm_fd = vm_fd;
	return -pthread_mutex_init(&reset->lock, NULL);
}

void dli_reset_fini(struct dli_reset *reset)
{
	if (reset->own_fd)
		dli_os_close(reset->os, reset->vm_fd);
	pthread_mutex_destroy(&reset->lock);
}

void dli_reset_close(struct dli_reset *reset, bool needed)
{
	int fd = needed ? dli_os_dup(reset->os, reset->vm_fd) : -EBADF;

	pthread_mutex_lock(&reset->lock);
	if (fd < 0) {
		reset->closed = true;
	} else {
		reset->vm_fd = fd;
		reset->own_fd = true;
	}
	pthread_mutex_unlock(&reset->lock);
}

/*
 * Since 6.17 a pending signal ends kvm_dirty_ring_reset() early, and the entries gathered until
 * then are taken back without being protected again. So no signal may be pending here.
 */
int dli_reset_rings(struct dli_reset *reset)
{
	uint64_t begin_ns = dli_os_now_ns();
	sigset_t before;
	/* Where that is refused (by a filter of system calls, say), better no reset than a short one. */
	int r = dli_os_block_signals(reset->os, &before);

	if (r)
		return r;
	/* It may have taken back a part, unprotected: its callers owe a repair for an error. */
	r = dli_os_ioctl_once(reset->os, reset->vm_fd, KVM_RESET_DIRTY_RINGS, NULL);
	dli_os_restore_signals(reset->os, &before);
	atomic_fetch_add_explicit(&reset->ioctl_ns, dli_os_now_ns() - begin_ns,
				  memory_order_relaxed);
	atomic_fetch_add_explicit(&reset->resets, 1, memory_order_relaxed);
	return r;
}

int dli_reset_begin(struct dli_reset *reset)
{
	pthread_mutex_lock(&reset->lock);
	if (!reset->closed)
		return 0;
	pthread_mutex_unlock(&reset->lock);
	return -ECANCELED;
}

void dli_reset_end(struct dli_reset *reset)
{
	pthread_mutex_unlock(&reset->lock);
}
