/* SPDX-License-Identifier: MIT */
#ifndef DLI_PACE_H
#define DLI_PACE_H

#include "ring/vcpu_list.h"

/*
 * How fast rings fill, as of the last time that all were drained. Harvests and reaps write it at
 * the same time, so the rate is one word. It is advice: of two that write, either may be last.
 */
struct dli_pace {
	const struct dl_os *os;		/* for its clock */
	_Atomic uint64_t drained_at_ns; /* when the last drain began */
	_Atomic double entries_per_ns;	/* of the fastest vCPU before it; 0: not known */
};

/*
 * Records that all rings were drained. began_ns: the time before that. Rings get entries while they
 * are drained one by one; since the end of the drain these would be a rate without measure. first
 * is true when logging has just begun: then there is no earlier drain, and no interval to measure.
 */
void dli_pace_note(struct dli_pace *pace, struct dli_vcpu_list *vcpus, uint64_t began_ns,
		   bool first);

struct dli_look {
	uint64_t until_due_ns; /* as dli_pace_until_due() */
	uint64_t entries;      /* of all rings since they were added; it changes if one gets any */
};

/* Looks into every ring, without locks. */
struct dli_look dli_pace_look(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus);

/* Nanoseconds until the next harvest is due; UINT64_MAX if no ring is filling. */
uint64_t dli_pace_until_due(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus);

#endif
