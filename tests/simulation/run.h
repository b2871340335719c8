/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_RUN_H
#define SIMULATION_RUN_H

#include "plan.h"
#include "world.h"

/* What came of one run. */
struct outcome {
	enum sim_failure_kind failure;
	char text[600];
	struct world_counts counts;
};

/* script NULL: the plan's policy decides; trace NULL: nothing is told. */
void run_plan(const struct plan *plan, const struct sim_script *script, FILE *trace,
	      struct outcome *outcome);

extern const char *const failure_names[];

/* Makes a plan that fails smaller while it fails in the same way, and tells what is left. */
void shrink_and_tell(struct plan *plan, const struct outcome *outcome, uint32_t seconds);

#endif
