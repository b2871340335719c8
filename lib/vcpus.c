/* SPDX-License-Identifier: MIT */
/* The vCPU list, and the calls on one vCPU. */

#include "vcpus.h"

#include "drain.h"
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

int dli_vcpu_list_init(struct dli_vcpu_list *vcpus)
{
	return -pthread_mutex_init(&vcpus->lock, NULL);
}

void dli_vcpu_list_fini(struct dli_vcpu_list *vcpus)
{
	struct dli_vcpu_group *group = &vcpus->first;

	while (group) {
		struct dli_vcpu_group *next = dli_vcpu_group_next(group);

		for (uint32_t i = 0; i < dli_vcpu_group_count(group); i++) {
			dli_ring_free(group->vcpus[i]->ring);
			free(group->vcpus[i]);
		}
		if (group != &vcpus->first)
			free(group);
		group = next;
	}
	pthread_mutex_destroy(&vcpus->lock);
}

int dli_vcpu_list_append(struct dli_vcpu_list *vcpus, struct dl_vcpu *vcpu)
{
	struct dli_vcpu_group *group = &vcpus->first, *next;

	while ((next = dli_vcpu_group_next(group)))
		group = next;
	if (dli_vcpu_group_count(group) == VCPU_GROUP) {
		next = dli_allocate(1, sizeof(*next));
		if (!next)
			return -ENOMEM;
		/* Pairs with dli_vcpu_group_next(). */
		atomic_store_explicit(&group->next, next, memory_order_release);
		group = next;
	}
	vcpu->group = group;
	vcpu->index = dli_vcpu_group_count(group);
	group->vcpus[vcpu->index] = vcpu;
	dli_ring_publish_head(vcpu->ring, &group->heads[vcpu->index]);
	/* Pairs with dli_vcpu_group_count(). */
	atomic_store_explicit(&group->n, vcpu->index + 1, memory_order_release);
	return 0;
}

struct dl_vcpu *dli_vcpu_list_next(const struct dli_vcpu_list *vcpus, const struct dl_vcpu *vcpu)
{
	const struct dli_vcpu_group *group = vcpu ? vcpu->group : &vcpus->first;
	uint32_t index = vcpu ? vcpu->index + 1 : 0;

	if (index == VCPU_GROUP) {
		group = dli_vcpu_group_next(group);
		index = 0;
	}
	return group && index < dli_vcpu_group_count(group) ? group->vcpus[index] : NULL;
}

void dli_vcpu_list_note_recent(struct dli_vcpu_list *vcpus, uint64_t entries)
{
	uint64_t most = atomic_load_explicit(&vcpus->fastest_entries, memory_order_relaxed);

	while (entries > most &&
	       !atomic_compare_exchange_strong_explicit(&vcpus->fastest_entries, &most, entries,
							memory_order_relaxed, memory_order_relaxed))
		;
}

uint64_t dli_vcpu_list_take_fastest(struct dli_vcpu_list *vcpus)
{
	return atomic_exchange_explicit(&vcpus->fastest_entries, 0, memory_order_relaxed);
}

bool dli_vcpu_list_in_use(struct dli_vcpu_list *vcpus)
{
	bool in_use = false;

	pthread_mutex_lock(&vcpus->lock);
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));)
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

static void lock_all(struct dli_vcpu_list *vcpus)
{
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));)
		dli_ring_lock(vcpu->ring);
}

static void unlock_all(struct dli_vcpu_list *vcpus)
{
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(vcpus, vcpu));)
		dli_ring_unlock(vcpu->ring);
}

/*
 * The vCPU that has the same ring. Under vcpus->lock. Which ring will have the mark is what is to be
 * found out, and no drain may take it for trouble: so nobody is at any ring meanwhile.
 */
static struct dl_vcpu *find_ring(struct dli_vcpu_list *vcpus, struct dli_ring *ring)
{
	struct dl_vcpu *vcpu = NULL;

	lock_all(vcpus);
	while ((vcpu = dli_vcpu_list_next(vcpus, vcpu)))
		if (dli_ring_same(ring, vcpu->ring))
			break;
	unlock_all(vcpus);
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
	int r;

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
	r = dli_vcpu_list_append(&log->vcpus, vcpu);
	if (r) {
		dli_ring_free(ring);
		free(vcpu);
		return r;
	}
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
	r = dli_drain_ring(vcpu->ring, &vcpu->log->reset, &vcpu->log->slots);
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
