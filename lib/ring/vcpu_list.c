/* SPDX-License-Identifier: MIT */
/* The list of vCPUs. */

#include "ring/vcpu_list.h"

#include <errno.h>
#include <stdlib.h>

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

uint32_t dli_vcpu_list_count(const struct dli_vcpu_list *vcpus)
{
	const struct dli_vcpu_group *group = &vcpus->first;
	uint32_t n = 0;

	for (; group; group = dli_vcpu_group_next(group))
		n += dli_vcpu_group_count(group);
	return n;
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

/* Hold all ring locks, so that no drain takes the probe bit for corruption. */
struct dl_vcpu *dli_vcpu_list_find(struct dli_vcpu_list *vcpus, struct dli_ring *ring)
{
	struct dl_vcpu *vcpu = NULL;

	lock_all(vcpus);
	while ((vcpu = dli_vcpu_list_next(vcpus, vcpu)))
		if (dli_ring_same(ring, vcpu->ring))
			break;
	unlock_all(vcpus);
	return vcpu;
}
