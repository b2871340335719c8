/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_INSIGHT_H
#define SIMULATION_INSIGHT_H

/* The library's internal state, which only its own headers define. */

#include <stdbool.h>
#include <stdint.h>

struct dl_log;
struct dl_vcpu;

bool insight_overflow_known(const struct dl_log *log);

/* How many repairs are done; how many once one is done that begins after this. */
uint64_t insight_repairs(const struct dl_log *log);
uint64_t insight_saving_repair(const struct dl_log *log);

/* A ring that is in sync. Indices count cells as the library does. */
struct insight_ring {
	uint32_t head,
		published; /* cells before head are copied, those before published also published */
	uint32_t filled;   /* dirty cells from head on */
	uint64_t overflows;
};

bool insight_ring(const struct dl_vcpu *vcpu, struct insight_ring *ring);

#endif
