/* SPDX-License-Identifier: MIT */
/* The vCPU list, and the calls on one vCPU. */

#include "vcpus.h"

#include "log.h"
#include "publish.h"
#include "rcu.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/*
 * Of no KVM type, so of no effect. A vCPU refuses it with EINVAL before it takes its mutex, which
 * a running vCPU holds for as long as it runs; what is not KVM's says ENOTTY; a vCPU of another
 * process's VM EIO.
 */
#define NOT_A_KVM_REQUEST _IO(0xad, 0x7f)

int dli_vcpus_init(struct dli_vcpus *vcpus)
{
	return -pthread_mutex_init(&vcpus->lock, NULL);
}

void dli_vcpus_fini(struct dli_vcpus *vcpus)
{
	struct dl_vcpu *vcpu = dli_vcpus_first(vcpus);

	while (vcpu) {
		struct dl_vcpu *next = vcpu->next;

		dli_ring_free(vcpu->ring);
		free(vcpu);
		vcpu = next;
	}
	pthread_mutex_destroy(&vcpus->lock);
}

/* Inside the reset section. */
static int hand_back(struct dl_vcpu *first, struct dli_reset *reset)
{
	bool needed = false, again = false;
	int behind = 0;

	for (struct dl_vcpu *vcpu = first; vcpu; vcpu = vcpu->next) {
		int r = dli_ring_get_into_step(vcpu->ring, reset);

		behind = behind ? behind : r;
	}
	for (struct dl_vcpu *vcpu = first; vcpu; vcpu = vcpu->next)
		needed |= dli_ring_release(vcpu->ring, reset);
	while (needed) {
		int r = dli_reset_rings(reset);

		for (struct dl_vcpu *vcpu = first; vcpu && r < 0; vcpu = vcpu->next)
			dli_ring_reset_failed(vcpu->ring);
		if (r < 0)
			return r;
		needed = false;
		for (struct dl_vcpu *vcpu = first; vcpu; vcpu = vcpu->next)
			needed |= !dli_ring_verify(vcpu->ring, reset, again);
		again = true;
	}
	return behind;
}

int dli_vcpus_drain(struct dli_vcpus *vcpus, struct dli_reset *reset, bool last,
		    dli_ring_sink *sink, void *opaque)
{
	/* Those of this moment: a vCPU that is added meanwhile comes before the first. */
	struct dl_vcpu *first = dli_vcpus_first(vcpus);
	int r;

	for (struct dl_vcpu *vcpu = first; vcpu; vcpu = vcpu->next) {
		dli_ring_lock(vcpu->ring);
		dli_ring_copy(vcpu->ring);
	}
	r = dli_reset_begin(reset);
	if (!r) {
		r = hand_back(first, reset);
		dli_reset_end(reset);
	}
	for (struct dl_vcpu *vcpu = first; vcpu; vcpu = vcpu->next) {
		if (last)
			dli_ring_check_empty(vcpu->ring);
		dli_ring_publish(vcpu->ring, sink, opaque);
		dli_ring_unlock(vcpu->ring);
	}
	return r;
}

bool dli_vcpus_want_repair(struct dli_vcpus *vcpus)
{
	bool want = false;

	for (struct dl_vcpu *vcpu = dli_vcpus_first(vcpus); vcpu; vcpu = vcpu->next)
		want |= dli_ring_wants_repair(vcpu->ring);
	return want;
}

void dli_vcpus_repaired(struct dli_vcpus *vcpus)
{
	for (struct dl_vcpu *vcpu = dli_vcpus_first(vcpus); vcpu; vcpu = vcpu->next)
		dli_ring_repaired(vcpu->ring);
}

bool dli_vcpus_in_use(struct dli_vcpus *vcpus)
{
	bool in_use = false;

	pthread_mutex_lock(&vcpus->lock);
	for (struct dl_vcpu *vcpu = dli_vcpus_first(vcpus); vcpu; vcpu = vcpu->next)
		in_use |= !vcpu->parked;
	pthread_mutex_unlock(&vcpus->lock);
	return in_use;
}

static int check_vcpu(const struct dl_log *log, int vcpu_fd)
{
	int r = dli_os_ioctl(log->os, vcpu_fd, NOT_A_KVM_REQUEST, NULL);
	void *run;

	if (r == -EIO)
		return -EIO;
	if (r != -EINVAL)
		return -EBADF;
	/* Others may say so too, as /dev/kvm and arm64's VMs do; none of them has a kvm_run. */
	r = dli_os_map(log->os, vcpu_fd, 0, log->caps.page_bytes, PROT_READ, &run);
	if (r)
		return r == -ENOMEM ? -ENOMEM : -EBADF;
	dli_os_unmap(log->os, run, log->caps.page_bytes);
	return 0;
}

/* The vCPU that has the same ring. Under vcpus->lock. */
static struct dl_vcpu *find_ring(struct dli_vcpus *vcpus, struct dli_ring *ring)
{
	struct dl_vcpu *vcpu = dli_vcpus_first(vcpus);

	for (; vcpu; vcpu = vcpu->next) {
		bool same;

		/* So that no drain takes the mark for trouble. */
		dli_ring_lock(vcpu->ring);
		same = dli_ring_same(ring, vcpu->ring);
		dli_ring_unlock(vcpu->ring);
		if (same)
			break;
	}
	return vcpu;
}

static struct dl_vcpu *vcpu_new(struct dl_log *log, struct dli_ring *ring)
{
	struct dl_vcpu *vcpu = dli_allocate(1, sizeof(*vcpu));

	if (!vcpu)
		return NULL;
	vcpu->log = log;
	vcpu->ring = ring;
	return vcpu;
}

/* Takes the ring over, or frees it. */
static int admit(struct dl_log *log, struct dli_ring *ring, struct dl_vcpu **out)
{
	struct dl_vcpu *vcpu = find_ring(&log->vcpus, ring);

	if (vcpu) {
		dli_ring_free(ring);
		if (!vcpu->parked)
			return -EEXIST;
		vcpu->parked = false;
		*out = vcpu;
		return 0;
	}
	vcpu = vcpu_new(log, ring);
	if (!vcpu) {
		dli_ring_free(ring);
		return -ENOMEM;
	}
	vcpu->next = dli_vcpus_first(&log->vcpus);
	/* Pairs with dli_vcpus_first(). */
	atomic_store_explicit(&log->vcpus.first, vcpu, memory_order_release);
	*out = vcpu;
	return 0;
}

static int add_with_ring(struct dl_log *log, int vcpu_fd, struct dl_vcpu **out)
{
	struct dli_ring *ring;
	int r = dli_ring_new(log->os, vcpu_fd, log->caps.ring_entries, &log->reset, &ring);

	if (r)
		return r;
	pthread_mutex_lock(&log->vcpus.lock);
	r = admit(log, ring, out);
	pthread_mutex_unlock(&log->vcpus.lock);
	return r;
}

int dl_vcpu_add(struct dl_log *log, int vcpu_fd, struct dl_vcpu **out)
{
	struct dl_vcpu *vcpu = NULL;
	int r;

	if (!log || !out)
		return -EINVAL;
	r = check_vcpu(log, vcpu_fd);
	if (r)
		return r;
	if (dli_log_is_ring(log)) {
		r = add_with_ring(log, vcpu_fd, &vcpu);
	} else {
		vcpu = vcpu_new(log, NULL);
		r = vcpu ? 0 : -ENOMEM;
	}
	if (r)
		return r;
	dli_log_get(log);
	/* Registers this thread, mostly the vCPU's own, with liburcu: not in its first drain. */
	dli_rcu_read_lock();
	dli_rcu_read_unlock();
	*out = vcpu;
	return 0;
}

int dl_vcpu_drain(struct dl_vcpu *vcpu)
{
	int r;

	if (!vcpu)
		return -EINVAL;
	if (!vcpu->ring)
		return 0;
	r = dli_ring_drain(vcpu->ring, &vcpu->log->reset, dli_publish, vcpu->log);
	/* The log was closed: no error of the guest's. */
	return r == -ECANCELED ? 0 : r;
}

void dl_vcpu_remove(struct dl_vcpu *vcpu)
{
	struct dl_log *log;

	if (!vcpu)
		return;
	log = vcpu->log;
	if (vcpu->ring) {
		pthread_mutex_lock(&log->vcpus.lock);
		vcpu->parked = true;
		pthread_mutex_unlock(&log->vcpus.lock);
	} else {
		free(vcpu);
	}
	dli_log_put(log);
}
