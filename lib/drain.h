/* SPDX-License-Identifier: MIT */
#ifndef DLI_DRAIN_H
#define DLI_DRAIN_H

#include "vcpus.h"

/*
 * Emptying rings. What was read reaches the sink only after a reset that began after its release has
 * returned, so that its pages are protected again; and before the ring's lock is dropped, so that
 * whoever takes it next finds nothing on its way.
 */

/* One ring: a vCPU's own drain, in its full exit or elsewhere. */
int dli_drain_ring(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink,
		   void *opaque);

/*
 * Every ring. Several threads may do it at once: each takes what the others have not, and returns
 * when all is done that was in a ring when it began. A ring's lock is waited for only by who holds none
 * (but dl_vcpu_add(), one at a time, takes all), so nobody waits for another in a circle. last: no vCPU runs any more,
 * so every ring is looked through, and what is still dirty then was missed. After an error what was
 * read is kept for the next time; returns the first.
 */
int dli_drain_all(struct dli_vcpus *vcpus, struct dli_reset *reset, bool last, dli_ring_sink *sink,
		  void *opaque);

#endif
