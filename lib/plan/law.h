/* SPDX-License-Identifier: MIT */
#ifndef DLI_LAW_H
#define DLI_LAW_H

#include <dirtylog/dirtylog.h>

#include <stdbool.h>

/*
 * The law that makes migrations end: arithmetic only, of what the planner has measured. Amounts are
 * bytes, times seconds. doc/convergence.md says why it is so.
 */

struct dli_law_goal {
	double downtime, fixed; /* of it, what is not memory */
	double budget;		/* INFINITY: none */
	double least_run;
};

/* Bytes a second that the wire takes while it is busy, of late and in the long run; 0: unknown. */
struct dli_wire {
	double fast, slow;
	double roughness; /* mean deviation from slow, as a share of it */
};

void dli_wire_note(struct dli_wire *wire, double bytes, double busy);

/* How much one vCPU dirties in a second of running: new pages, and all ring entries. */
struct dli_demand {
	double new_rate, entry_rate, run_rate; /* averages of what was measured */
	double new_bytes, entry_bytes;	       /* per second of running */
};

/* over: the time, run: how much of it the vCPU ran, 0 to 1 of it. */
void dli_demand_note(struct dli_demand *demand, double new_bytes, double entry_bytes, double run,
		     double over);

/* One look at the migration. */
struct dli_law_look {
	double at;		       /* since the plan began */
	double pending;		       /* with what is in flight */
	double demand, written;	       /* of all vCPUs, if they ran free */
	double new_bytes, entry_bytes; /* that were found since the last look, */
	double over;		       /* and were written in so long; 0: nothing is known */
	bool first_pass;	       /* still */
	uint64_t passes;
};

struct dli_law {
	struct dli_law_goal goal;
	struct dli_wire wire;
	double at;		     /* of the last look */
	double new_rate, entry_rate; /* per second, whatever the vCPUs ran */
	double least_pending;
	/* Reasons to limit, and since when there has been none. */
	enum dl_bound limiting; /* DL_BOUND_NONE: no limit yet; once there is one it stays */
	double fits_at;		/* the demand was below what the wire takes */
	double progress, progress_at;
	double hot_at; /* the demand was not */
	/* Valid while limits are set. */
	double best, best_at;
	uint64_t best_pass;
	double ending_at; /* it looked as if it would end */
	bool diverging;
	double last_pending, jumped_at;
};

void dli_law_start(struct dli_law *law, const struct dli_law_goal *goal);

/* The law's answer to a look. */
struct dli_law_advice {
	enum dl_verdict verdict; /* never THROTTLED: whether vCPUs are limited is the caller's */
	double allowed;		 /* new bytes a second of all vCPUs; INFINITY: any */
	double downtime;	 /* if the guest were paused now */
	double remaining;	 /* until the switch; INFINITY: never */
};

/* Pending bytes that the downtime has room for. */
double dli_law_fits(const struct dli_law *law);

struct dli_law_advice dli_law_look(struct dli_law *law, const struct dli_law_look *look);

#endif
