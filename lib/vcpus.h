/* SPDX-License-Identifier: MIT */
#ifndef DLI_VCPUS_H
#define DLI_VCPUS_H

#include <dirtylog/dirtylog.h>

#include "ring.h"

/*
 * The vCPUs. KVM never deletes one, and neither does the list: a vCPU that is removed is parked,
 * its ring is harvested on. So a harvest walks the list without a lock while others are added.
 */
struct dl_vcpu {
	struct dl_log *log;
	struct dli_ring *ring; /* NULL in bitmap mode */
	bool parked;	       /* under dli_vcpus.lock */
	struct dl_vcpu *next;
};

struct dli_vcpus {
	pthread_mutex_t lock; /* of adding, removing, parking */
	_Atomic(struct dl_vcpu *) first;
};

int dli_vcpus_init(struct dli_vcpus *vcpus);
void dli_vcpus_fini(struct dli_vcpus *vcpus);

/* Pairs with admit(): a vCPU, its ring and what follows it in the list are whole. */
static inline struct dl_vcpu *dli_vcpus_first(const struct dli_vcpus *vcpus)
{
	return atomic_load_explicit(&vcpus->first, memory_order_acquire);
}

/*
 * Drains every ring into the sink. last: no vCPU runs any more, so what is still dirty then was
 * missed. After an error what was read is kept for the next time.
 */
int dli_vcpus_drain(struct dli_vcpus *vcpus, struct dli_reset *reset, bool last,
		    dli_ring_sink *sink, void *opaque);

/* dli_ring_wants_repair() and dli_ring_repaired() of all. */
bool dli_vcpus_want_repair(struct dli_vcpus *vcpus);
void dli_vcpus_repaired(struct dli_vcpus *vcpus);

/* Whether some vCPU of the list is not parked. */
bool dli_vcpus_in_use(struct dli_vcpus *vcpus);

#endif
