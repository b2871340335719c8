/* SPDX-License-Identifier: MIT */
#ifndef DLI_VCPUS_H
#define DLI_VCPUS_H

#include <dirtylog/dirtylog.h>

#include "plan/limit.h"
#include "ring/ring.h"

#include <pthread.h>

/*
 * The vCPUs. KVM never deletes one, and neither does the list: a removed vCPU is parked, and its
 * ring is still harvested. So a harvest walks the list without a lock while vCPUs are added.
 */
struct dl_vcpu {
	struct dl_log *log;
	struct dli_ring *ring; /* NULL in bitmap mode */
	uint64_t cookie;       /* the caller's; under dli_vcpu_list.lock, as parked */
	bool parked;
	uint32_t check_id; /* KVM's id + 1 where vcpu_check.h counts it, or 0 */
	/* Position in the list. */
	struct dli_vcpu_group *group;
	uint32_t index;
	struct dli_limit limit; /* throttle.c */
};

enum { VCPU_GROUP = 64 };

_Static_assert(VCPU_GROUP <= 64, "a word has a bit for each vCPU of a group");

/* The heads lie side by side: they are all that a harvest reads of a vCPU that wrote nothing. */
struct dli_vcpu_group {
	_Atomic uint32_t n;
	_Atomic(struct dli_vcpu_group *) next;
	dli_ring_head heads[VCPU_GROUP];
	struct dl_vcpu *vcpus[VCPU_GROUP];
};

struct dli_vcpu_list {
	pthread_mutex_t lock; /* for adding and removing */
	struct dli_vcpu_group first;
	_Atomic uint64_t fastest_entries; /* see dli_vcpu_list_take_fastest() */
};

int dli_vcpu_list_init(struct dli_vcpu_list *vcpus);
void dli_vcpu_list_fini(struct dli_vcpu_list *vcpus);

/* Pairs with dli_vcpu_list_append(): the vCPUs that it counts, and their rings, are complete. */
static inline uint32_t dli_vcpu_group_count(const struct dli_vcpu_group *group)
{
	return atomic_load_explicit(&group->n, memory_order_acquire);
}

/* Pairs with dli_vcpu_list_append(). */
static inline struct dli_vcpu_group *dli_vcpu_group_next(const struct dli_vcpu_group *group)
{
	return atomic_load_explicit(&group->next, memory_order_acquire);
}

/* Appends a vCPU that has a ring. Called with vcpus->lock held. */
int dli_vcpu_list_append(struct dli_vcpu_list *vcpus, struct dl_vcpu *vcpu);

/* The vCPU after vcpu, or the first one for NULL. NULL: there are no more. */
struct dl_vcpu *dli_vcpu_list_next(const struct dli_vcpu_list *vcpus, const struct dl_vcpu *vcpu);

/* Finds the vCPU with the same ring as a new mapping, or NULL. Called with vcpus->lock held. */
struct dl_vcpu *dli_vcpu_list_find(struct dli_vcpu_list *vcpus, struct dli_ring *ring);

/*
 * Notes the recent entries of one ring. The other returns the most of any ring since its last call.
 */
void dli_vcpu_list_note_recent(struct dli_vcpu_list *vcpus, uint64_t entries);
uint64_t dli_vcpu_list_take_fastest(struct dli_vcpu_list *vcpus);

/* How many there are, parked ones too. */
uint32_t dli_vcpu_list_count(const struct dli_vcpu_list *vcpus);

/* True if some vCPU is not parked. */
bool dli_vcpu_list_in_use(struct dli_vcpu_list *vcpus);

#endif
