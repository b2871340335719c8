/* SPDX-License-Identifier: MIT */
#ifndef DLI_GOAL_H
#define DLI_GOAL_H

#include "plan/law.h"

#include <math.h>

/* A caller's goal, in the law's units. What it leaves 0 has a default. */

#define DLI_DEFAULT_DOWNTIME_NS UINT64_C(300000000)
#define DLI_DEFAULT_LEAST_RUN	0.01

#define DLI_SECOND_NS 1e9
#define DLI_MILLION   1e6

static inline uint64_t dli_goal_downtime_ns(const struct dl_goal *goal)
{
	return goal->downtime_ns ? goal->downtime_ns : DLI_DEFAULT_DOWNTIME_NS;
}

static inline uint64_t dli_goal_longest_pause_ns(const struct dl_goal *goal)
{
	return goal->longest_pause_ns ? goal->longest_pause_ns : dli_goal_downtime_ns(goal);
}

static inline struct dli_law_goal dli_law_goal_of(const struct dl_goal *goal)
{
	return (struct dli_law_goal){
		.downtime = (double)dli_goal_downtime_ns(goal) / DLI_SECOND_NS,
		.fixed = (double)goal->fixed_ns / DLI_SECOND_NS,
		.budget = goal->total_ns ? (double)goal->total_ns / DLI_SECOND_NS : INFINITY,
		.least_run = goal->least_run_ppm ? goal->least_run_ppm / DLI_MILLION
						 : DLI_DEFAULT_LEAST_RUN,
	};
}

#endif
