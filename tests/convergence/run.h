/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_RUN_H
#define CONVERGENCE_RUN_H

/* One migration in virtual time, in steps of a millisecond. */

#include "guest.h"
#include "sender.h"
#include "wire.h"

#include <stdio.h>

#define STEP_S	  0.001
#define STEP_NS	  UINT64_C(1000000)
#define SECOND_NS UINT64_C(1000000000)

/* Seconds that the switch costs beside the memory. */
#define FIXED_S 0.03

enum law {
	LAW_NONE,
	LAW_AUTO_CONVERGE,
	LAW_AGGRESSIVE,
	LAW_DIRTY_LIMIT,
	LAW_QUOTA,
	LAW_PLAN,
	LAW_PLAN_SKIP,	 /* with DL_CURSOR_SKIP_REWRITTEN */
	LAW_PLAN_BITMAP, /* without rings: all vCPUs run as much as the plan advises */
	LAWS,
};

/* Mistakes of a caller that the acceptance must notice. */
enum mistake {
	MISTAKE_NONE,
	MISTAKE_ZERO,	/* zero pages count as bytes that the wire took */
	MISTAKE_UNSENT, /* what was taken and is not sent is not reported */
	MISTAKES,
};

extern const char *const law_names[LAWS], *const mistake_names[MISTAKES];

struct run_options {
	uint32_t load;
	enum law law;
	uint64_t seed;
	enum mistake mistake;
	FILE *trace; /* NULL: none. Some hundred lines, separated by tabs */
};

/* Result of a run. [0] is for writers, [1] for readers. */
struct outcome {
	bool ended;
	double seconds, budget_s;	     /* until the switch, or until it was given up */
	double downtime_s, downtime_limit_s; /* with FIXED_S */
	double copied;			     /* by the wire, in sizes of the memory without zeros */
	double lost_s[2];
	double longest_pause_s;
	double worst_second[2]; /* least share of a second that one ran */
	double variation;	/* of what a throttled guest dirties each second, to its mean */
	uint64_t passes;
	double least_run;    /* the floor of a vCPU's running time */
	double limited_s;    /* when the first vCPU was held back; -1: never */
	double diverging_s;  /* when that was said first; -1: never */
	uint64_t lost_pages; /* with older contents at the end: must be 0 */
};

/* A vCPU's thread. */
struct thread {
	struct dl_vcpu *handle;
	double sleep_s;	     /* left */
	uint64_t kick_at_ns; /* when it has left KVM_RUN; 0: it was not kicked */
	double stopped_s, longest_s, lost_s;
	double second_s, worst_second; /* that it ran of this second, and of the worst */
	/* The baselines'. */
	uint64_t entries;    /* when a period began */
	double full_sleep_s; /* dirty-limit: after each full ring */
};

/* State of the baselines. */
struct baseline {
	double wire, wire_pages; /* pages a second; what the wire had taken at the last look */
	double percent;		 /* auto-converge: of their time that vCPUs sleep */
	uint32_t high;		 /* syncs that found too many dirty pages */
	uint64_t synced_at_ns;	 /* the last sync */
	double synced_wire_pages;
	uint64_t synced_new_pages;
	bool limiting;	/* dirty-limit, equal quota */
	double fastest; /* dirty-limit: MiB a second */
	uint64_t period_end_ns;
	double quota; /* entries of a vCPU in this period */
};

/* State of the measurement. */
struct measured {
	uint64_t second_end_ns, new_pages;
	double shares, squares; /* of the wire that the throttled guest dirtied in a second */
	uint32_t seconds;
	double limited_s, diverging_s;
	uint64_t trace_at_ns, trace_new_pages, trace_entries;
	double trace_lost_s;
};

struct run {
	struct run_options options;
	const struct load *load;  /* how the caller behaves */
	const struct load *place; /* guest and wire */
	struct random random;
	struct kernel *kernel;
	struct guest guest;
	struct wire wire;
	struct dl_log *log;
	struct sender sender;
	struct thread threads[KERNEL_VCPUS];
	double least_run;	       /* the floor; 0: 1% */
	struct dl_plan *plan;	       /* NULL: a baseline */
	struct dl_advice advice;       /* the newest */
	uint64_t began_ns, step_ns;    /* of the run, of this step */
	uint64_t timer_ns, reap_at_ns; /* the setting of the timer, and when the reaper runs */
	uint64_t look_at_ns;
	double room; /* pages that the wire takes in this step; less than 0: one is on its way */
	bool ended;
	struct baseline baseline;
	struct measured measured;
};

void run_migration(const struct run_options *options, struct outcome *outcome);

/* world.c: opens and closes. */
struct run *run_new(const struct run_options *options);
void run_free(struct run *run);

static inline double run_seconds(const struct run *run)
{
	return (double)(run->step_ns - run->began_ns) / (double)SECOND_NS;
}

/* Pages that the destination does not have. */
double run_pending_pages(const struct run *run);
struct dl_stats run_stats(const struct run *run);
uint64_t run_entries(const struct run *run, uint32_t vcpu);

/* measure.c */
void measure_ran(struct thread *thread, double share);
void measure_step(struct run *run);
void measure_trace_head(FILE *trace);
void measure_outcome(const struct run *run, struct outcome *outcome);

/* planner.c */
void planner_begin(struct run *run);
void planner_end(struct run *run);
/* A vCPU's thread asks for its pause, at_s after the step began. */
double planner_pause_s(struct run *run, uint32_t vcpu, double at_s);
void planner_kick(struct run *run);
void planner_sent(struct run *run, double pages, double busy_s);
/* Returns when to look again. */
uint64_t planner_look(struct run *run);

/* baselines.c */

/* The share of this millisecond that a throttle of all vCPUs lets them run. */
double baseline_share(const struct run *run);
/* The vCPU's ring was full. */
void baseline_full(struct run *run, uint32_t vcpu);
/* After each look into the rings; at the end of a pass; now and then, which returns when next. */
uint64_t baseline_look(struct run *run);
void baseline_reaped(struct run *run);
void baseline_pass_end(struct run *run);

#endif
