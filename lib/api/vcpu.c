/* SPDX-License-Identifier: MIT */
/* dl_vcpu_add(), dl_vcpu_drain(), dl_vcpu_remove(). */

#include "call.h"
#include "kvm/trace.h"
#include "pages/rcu.h"
#include "ring/drain.h"
#include "vcpu_check.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/*
 * Not a KVM ioctl number, so it has no effect. A vCPU refuses it with EINVAL before it takes its
 * mutex, which a running vCPU holds for as long as it runs. A file that is not KVM's returns
 * ENOTTY, a vCPU of another process's VM returns EIO.
 */
#define NOT_A_KVM_REQUEST _IO(0xad, 0x7f)

static int check_vcpu(const struct dl_log *log, int vcpu_fd)
{
	int r = dli_os_ioctl(log->vm.os, vcpu_fd, NOT_A_KVM_REQUEST, NULL);
	void *run;

	if (r == -EIO)
		return -EIO;
	if (r != -EINVAL)
		return -EBADF;
	/* /dev/kvm and arm64's VMs return EINVAL too, but they have no kvm_run to map. */
	r = dli_os_map(log->vm.os, vcpu_fd, 0, log->caps.page_bytes, PROT_READ, &run);
	if (r)
		return r == -ENOMEM ? -ENOMEM : -EBADF;
	dli_os_unmap(log->vm.os, run, log->caps.page_bytes);
	return 0;
}

static struct dl_vcpu *vcpu_new(struct dl_log *log, struct dli_ring *ring, uint64_t cookie)
{
	struct dl_vcpu *vcpu = dli_allocate(1, sizeof(*vcpu));

	if (!vcpu)
		return NULL;
	vcpu->log = log;
	vcpu->ring = ring;
	vcpu->cookie = cookie;
	return vcpu;
}

/* Takes ownership of the ring, or frees it. */
static int admit(struct dl_log *log, struct dli_ring *ring, uint64_t cookie, struct dl_vcpu **out)
{
	struct dl_vcpu *vcpu = dli_vcpu_list_find(&log->vcpus, ring);
	int r;

	if (vcpu) {
		dli_ring_free(ring);
		if (!vcpu->parked)
			return -EEXIST;
		vcpu->parked = false;
		vcpu->cookie = cookie;
		dli_ring_set_cookie(vcpu->ring, cookie);
		atomic_store_explicit(&vcpu->limit.kick, false, memory_order_relaxed);
		/* Pairs with dli_limits_take_kicks(), which gets the new cookie then. */
		atomic_store_explicit(&vcpu->limit.removed, false, memory_order_release);
		*out = vcpu;
		return 0;
	}
	dli_ring_set_cookie(ring, cookie);
	vcpu = vcpu_new(log, ring, cookie);
	if (!vcpu) {
		dli_ring_free(ring);
		return -ENOMEM;
	}
	r = dli_vcpu_list_append(&log->vcpus, vcpu);
	if (r) {
		dli_ring_free(ring);
		free(vcpu);
		return r;
	}
	*out = vcpu;
	return 0;
}

static int add_with_ring(struct dl_log *log, int vcpu_fd, uint64_t cookie, struct dl_vcpu **out)
{
	struct dli_ring *ring;
	int r = dli_ring_new(log->vm.os, vcpu_fd, log->caps.ring_entries, &log->reset, &ring);

	if (r)
		return r;
	pthread_mutex_lock(&log->vcpus.lock);
	r = admit(log, ring, cookie, out);
	pthread_mutex_unlock(&log->vcpus.lock);
	return r;
}

static int add(struct dl_log *log, int vcpu_fd, uint64_t cookie, struct dl_vcpu **out)
{
	int r = check_vcpu(log, vcpu_fd);

	if (r)
		return r;
	if (dli_log_is_ring(log)) {
		r = add_with_ring(log, vcpu_fd, cookie, out);
	} else {
		*out = vcpu_new(log, NULL, cookie);
		r = *out ? 0 : -ENOMEM;
	}
	if (r)
		return r;
	dli_vcpu_check_added(*out, vcpu_fd);
	dli_log_get(log);
	return 0;
}

static enum dli_failure why_not_added(int error)
{
	switch (error) {
	case -EEXIST:
		return DLI_VCPU_ADDED_TWICE;
	case -EBADF:
		return DLI_NOT_A_VCPU;
	default:
		return DLI_VCPU_NOT_ADDED;
	}
}

int dl_vcpu_add(struct dl_log *log, int vcpu_fd, uint64_t cookie, uint32_t flags,
		struct dl_vcpu **out)
{
	struct dl_vcpu *vcpu = NULL;
	struct dli_call call;
	int r;

	if (out)
		*out = NULL;
	if (!log)
		return -EINVAL;
	if (flags || !out)
		return dli_log_fail(log, flags ? DLI_BAD_FLAGS : DLI_BAD_COUNT, DLI_NO_NUMBER,
				    -EINVAL);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	r = add(log, vcpu_fd, cookie, &vcpu);
	dli_call_end(&call);
	if (r)
		return dli_log_fail(log, why_not_added(r), DLI_NO_NUMBER, r);
	/* Registers this thread, usually the vCPU's own, with liburcu: not in its first drain. */
	dli_rcu_read_lock();
	dli_rcu_read_unlock();
	*out = vcpu;
	return 0;
}

/* Tells the reaper of a full exit, so that it comes sooner next time. */
static int drain(struct dl_log *log, struct dli_ring *ring)
{
	const struct dli_ring_stats *stats = dli_ring_stats(ring);
	uint64_t full_exits = atomic_load_explicit(&stats->full_exits, memory_order_relaxed);
	int r = dli_drain_ring(ring, &log->reset, &log->slots);

	if (atomic_load_explicit(&stats->full_exits, memory_order_relaxed) != full_exits) {
		DLI_TRACE_RING_FULL(dli_ring_cookie(ring), r);
		dli_reaper_full_exit(&log->reaper);
	}
	return r;
}

int dl_vcpu_drain(struct dl_vcpu *vcpu, uint32_t flags)
{
	struct dli_call call;
	int r;

	if (!vcpu)
		return -EINVAL;
	if (flags)
		return dli_log_fail(vcpu->log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	if (!vcpu->ring)
		return dli_log_in_child(vcpu->log) ? -EIO : 0;
	r = dli_call_begin(&call, vcpu->log);
	if (r)
		return r;
	r = drain(vcpu->log, vcpu->ring);
	dli_call_end(&call);
	/* A closed log is no reason for a vCPU to stop. */
	if (!r || r == -ECANCELED)
		return 0;
	return dli_log_fail(vcpu->log, DLI_RINGS_NOT_RESET, DLI_NO_NUMBER, r);
}

void dl_vcpu_remove(struct dl_vcpu *vcpu)
{
	struct dli_call call;
	struct dl_log *log;

	if (!vcpu || dli_log_in_child(vcpu->log))
		return;
	log = vcpu->log;
	(void)dli_call_begin(&call, log);
	if (vcpu->ring) {
		pthread_mutex_lock(&log->vcpus.lock);
		vcpu->parked = true;
		atomic_store_explicit(&vcpu->limit.own, 0, memory_order_relaxed);
		atomic_store_explicit(&vcpu->limit.removed, true, memory_order_relaxed);
		pthread_mutex_unlock(&log->vcpus.lock);
	} else {
		dli_vcpu_check_forget(vcpu);
		free(vcpu);
	}
	dli_call_end(&call);
	dli_log_put(log);
}
