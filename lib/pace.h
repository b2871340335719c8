/* SPDX-License-Identifier: MIT */
#ifndef DLI_PACE_H
#define DLI_PACE_H

#include "ring/vcpu_list.h"

/*
 * How fast rings fill, as of the last harvest. Written under the log's lock, read without it:
 * another thread may be harvesting.
 */
struct dli_pace {
	const struct dl_os *os;		  /* for its clock */
	_Atomic uint64_t harvested_at_ns; /* end of the last harvest */
	_Atomic uint64_t span_ns;	  /* from the harvest before it; 0 if there was none */
	_Atomic uint64_t span_entries;	  /* entries of the fastest vCPU in that span */
};

/*
 * Records that all rings have just been drained. first is true when logging has just begun: then
 * there is no earlier harvest, and no interval to measure.
 */
void dli_pace_note(struct dli_pace *pace, struct dli_vcpu_list *vcpus, bool first);

/* Nanoseconds until the next harvest is due; UINT64_MAX if no ring is filling. */
uint64_t dli_pace_until_due(const struct dli_pace *pace, const struct dli_vcpu_list *vcpus);

#endif
