/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_RUN_H
#define SIMULATION_RUN_H

#include "plan.h"
#include "world.h"

/* The result of one run. */
struct outcome {
	enum sim_failure_kind failure;
	char text[600];
	struct world_counts counts;
};

/* script: the schedule, or NULL for the plan's policy. trace: NULL for none. */
void run_plan(const struct plan *plan, const struct sim_script *script, FILE *trace,
	      struct outcome *outcome);

extern const char *const failure_names[];

/* Reduces a failing plan while it fails in the same way, and prints what is left. */
void shrink_and_report(struct plan *plan, const struct outcome *outcome, uint32_t seconds);

#endif
