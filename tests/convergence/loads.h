/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_LOADS_H
#define CONVERGENCE_LOADS_H

/* The guests, wires and callers that a law has to cope with. */

#include <stdbool.h>
#include <stdint.h>

#define MIB (1024.0 * 1024)
#define GIB (1024 * MIB)

enum { LOADS = 18, LOAD_CREWS = 2, CREW_STREAMS = 2 };

enum stream_kind {
	STREAM_NONE,
	STREAM_UNIFORM, /* any page, each as likely */
	STREAM_ZIPF,	/* pages by rank, scattered over the memory */
	STREAM_HOT,	/* nine of ten writes into a tenth of the memory */
	STREAM_SWEEP,	/* one page after the other, again and again */
	STREAM_GC,	/* a sweep of the memory of the stream before it, then a pause */
};

/* One stream of a vCPU's writes. */
struct stream_plan {
	enum stream_kind kind;
	double bytes_per_s;
	double bytes;	    /* of memory; STREAM_GC: of the stream before it */
	double on_s, off_s; /* turns; both 0: always. STREAM_GC: off_s between two sweeps */
	bool steady;	    /* the rate is the same with every seed */
};

/* vCPUs that do the same. */
struct crew {
	uint32_t vcpus;
	bool readers;	  /* they write hardly anything, and must lose nothing */
	bool same_memory; /* all of them in one; else each has its own */
	struct stream_plan streams[CREW_STREAMS];
};

struct load {
	const char *name;
	double memory_bytes;
	double wire_bytes_per_s;
	double budget_s, downtime_s;
	uint32_t ring_entries; /* 0: 16,384 */
	struct crew crews[LOAD_CREWS];
	double noise;		      /* of the wire; 0: a little */
	double zero_share;	      /* of all pages */
	bool zero_last;		      /* they are the last ones; else anywhere that nobody writes */
	double dip_from_s, dip_s;     /* the wire drops to a tenth, up to 20 s later than that */
	bool takes_all;		      /* the caller takes all that is pending, and sends it later */
	double kick_s;		      /* until a kicked vCPU has left KVM_RUN; 0: 0.1 ms */
	double late_s;		      /* the reaper is up to so late; 0: 1 ms */
	double least_run, least_most; /* the floor, between these; 0: 1% */
	bool any_guest;		      /* guest and wire are those of one of the loads 1 to 10 */
	bool must_end;		      /* within its budget, with the plan */
	double broken_share; /* of runs with a downtime over the limit that are tolerated */
};

/* number: 1 to LOADS. */
const struct load *load_find(uint32_t number);

/* The load whose guest and wire a run of this load has: itself, or one that the seed chooses. */
const struct load *load_guest(const struct load *load, uint64_t seed);

#endif
