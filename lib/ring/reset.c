/* SPDX-License-Identifier: MIT */
/* KVM_RESET_DIRTY_RINGS: one at a time, for all that wait, with signals blocked. */

#include "ring/reset.h"

#include "kvm/trace.h"
#include "kvm/uapi.h"

#include <errno.h>

int dli_reset_init(struct dli_reset *reset, const struct dl_os *os, int vm_fd)
{
	int r;

	reset->os = os;
	reset->vm_fd = vm_fd;
	r = -pthread_mutex_init(&reset->lock, NULL);
	if (r)
		return r;
	r = -pthread_cond_init(&reset->changed, NULL);
	if (r)
		pthread_mutex_destroy(&reset->lock);
	return r;
}

void dli_reset_fini(struct dli_reset *reset)
{
	pthread_cond_destroy(&reset->changed);
	pthread_mutex_destroy(&reset->lock);
}

/* Called with reset->lock held. Waits until the section is free, or the request is done. */
static void wait_for_section(struct dli_reset *reset, const struct dli_reset_request *request)
{
	int state;

	if (!reset->busy)
		return;
	/* pthread_cond_wait() is a cancellation point, and the caller has rings locked. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	while (reset->busy && !(request && request->done))
		pthread_cond_wait(&reset->changed, &reset->lock);
	pthread_setcancelstate(state, NULL);
}

static void leave_section(struct dli_reset *reset)
{
	reset->busy = false;
	pthread_cond_broadcast(&reset->changed);
}

void dli_reset_close(struct dli_reset *reset, bool needed)
{
	pthread_mutex_lock(&reset->lock);
	wait_for_section(reset, NULL);
	reset->closed = !needed;
	pthread_mutex_unlock(&reset->lock);
}

/*
 * Since 6.17 a pending signal ends kvm_dirty_ring_reset() early, and the batch of entries that it
 * had gathered is taken back without being protected again. So no signal may be deliverable here.
 */
int dli_reset_rings(struct dli_reset *reset)
{
	uint64_t begin_ns = dli_os_now_ns(reset->os), ns;
	sigset_t before;
	/*
	 * If the signals cannot be blocked (a seccomp filter may refuse it), skip the reset: one
	 * that is cut short would take entries back unprotected.
	 */
	int r = dli_os_block_signals(reset->os, &before);

	if (r)
		return r;
	/* Not repeated: it may have taken back a part, unprotected. Callers request a repair. */
	r = dli_os_ioctl_value_once(reset->os, reset->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	dli_os_restore_signals(reset->os, &before);
	ns = dli_os_now_ns(reset->os) - begin_ns;
	DLI_TRACE_RESET(reset->vm_fd, r, ns);
	atomic_fetch_add_explicit(&reset->ioctl_ns, ns, memory_order_relaxed);
	atomic_fetch_add_explicit(&reset->resets, 1, memory_order_relaxed);
	return r;
}

int dli_reset_probe(const struct dl_os *os, int vm_fd, bool *on)
{
	sigset_t before;
	int r = dli_os_block_signals(os, &before);

	if (r)
		return r;
	/* A log that misses cells which this has taken repairs: run_batch() in drain.c. */
	r = dli_os_ioctl_value_once(os, vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	dli_os_restore_signals(os, &before);
	*on = r >= 0;
	return r >= 0 || r == -EINVAL || r == -ENOTTY ? 0 : r;
}

int dli_reset_begin(struct dli_reset *reset)
{
	int r = 0;

	pthread_mutex_lock(&reset->lock);
	wait_for_section(reset, NULL);
	if (reset->closed)
		r = -ECANCELED;
	else
		reset->busy = true;
	pthread_mutex_unlock(&reset->lock);
	return r;
}

void dli_reset_end(struct dli_reset *reset)
{
	pthread_mutex_lock(&reset->lock);
	leave_section(reset);
	pthread_mutex_unlock(&reset->lock);
}

/* Called with reset->lock held. Marks the batch as done and leaves the section. */
static void end_batch(struct dli_reset *reset, struct dli_reset_request *batch)
{
	for (; batch; batch = batch->next)
		batch->done = true;
	leave_section(reset);
}

/* Called with reset->lock held. Enters the section with the queue; NULL if the log is closed. */
static struct dli_reset_request *begin_batch(struct dli_reset *reset)
{
	struct dli_reset_request *batch = reset->queue;

	reset->queue = NULL;
	reset->busy = true;
	if (!reset->closed)
		return batch;
	for (struct dli_reset_request *request = batch; request; request = request->next)
		request->result = -ECANCELED;
	end_batch(reset, batch);
	return NULL;
}

struct dli_reset_request *dli_reset_submit(struct dli_reset *reset,
					   struct dli_reset_request *request)
{
	struct dli_reset_request *batch = NULL;

	request->done = false;
	pthread_mutex_lock(&reset->lock);
	request->next = reset->queue;
	reset->queue = request;
	wait_for_section(reset, request);
	if (!request->done)
		batch = begin_batch(reset);
	pthread_mutex_unlock(&reset->lock);
	return batch;
}

void dli_reset_complete(struct dli_reset *reset, struct dli_reset_request *batch)
{
	pthread_mutex_lock(&reset->lock);
	end_batch(reset, batch);
	pthread_mutex_unlock(&reset->lock);
}

void dli_reset_request_repair(struct dli_reset *reset)
{
	/* Pairs with dli_reset_repair_needed(): entries are dropped before the repair for them. */
	atomic_fetch_add_explicit(&reset->repair_requests, 1, memory_order_release);
}

bool dli_reset_repair_needed(struct dli_reset *reset)
{
	/* Pairs with dli_reset_request_repair(). */
	reset->repair_requests_seen =
		atomic_load_explicit(&reset->repair_requests, memory_order_acquire);
	return reset->repair_requests_seen != reset->repair_requests_served;
}

void dli_reset_repaired(struct dli_reset *reset)
{
	reset->repair_requests_served = reset->repair_requests_seen;
}
