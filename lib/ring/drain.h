/* SPDX-License-Identifier: MIT */
#ifndef DLI_DRAIN_H
#define DLI_DRAIN_H

#include "ring/vcpu_list.h"

/*
 * Emptying rings. The entries become pending only after a reset that began after their release has
 * returned, so that their pages are protected again; and before the ring's lock is dropped, so that
 * its next holder finds nothing in transit.
 */

/* Drains one ring: for a vCPU, in its full exit or elsewhere. */
int dli_drain_ring(struct dli_ring *ring, struct dli_reset *reset, struct dli_slots *slots);

/*
 * Drains every ring. Several threads may call it at once: each takes the rings that the others have
 * not, and returns when everything is pending that was in a ring when it began. It blocks on a ring
 * lock only while it holds no other, so no circle of waiters can form (dl_vcpu_add(), one at a
 * time, is the one that holds all). last: no vCPU runs any more, so every ring is searched, and a
 * cell that is still dirty afterwards was missed. Returns the first error; entries that it concerns
 * are kept for the next drain.
 */
int dli_drain_all(struct dli_vcpu_list *vcpus, struct dli_reset *reset, bool last,
		  struct dli_slots *slots);

#endif
