/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_INSIGHT_H
#define SIMULATION_INSIGHT_H

/* What only the library's own headers tell. */

#include <stdbool.h>
#include <stdint.h>

struct dl_log;
struct dl_vcpu;

bool insight_overflow_known(const struct dl_log *log);

/* Of a ring that is in step. Cells are counted as the library does. */
struct insight_ring {
	uint32_t head, published; /* the cells before them are copied and released; published */
	uint32_t filled;	  /* from head on */
	uint64_t overflows;
};

bool insight_ring(const struct dl_vcpu *vcpu, struct insight_ring *ring);

#endif
