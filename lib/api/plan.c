/* SPDX-License-Identifier: MIT */
/* dl_plan_new(), dl_plan_sent(), dl_plan_next(), dl_plan_free(): migrations that end. */

#include "api/abi.h"
#include "call.h"
#include "planner.h"
#include "plan/goal.h"

#include <errno.h>

#define GOAL_FIRST_BYTES   sizeof(struct dl_goal)
#define ADVICE_FIRST_BYTES sizeof(struct dl_advice)

#define MOST_PPM UINT32_C(1000000)

/* True if the fixed part does not take the whole downtime. */
static bool has_time_for_memory(const struct dl_goal *goal)
{
	return goal->fixed_ns < dli_goal_downtime_ns(goal);
}

static int read_goal(const struct dl_log *log, const struct dl_goal *from, struct dl_goal *goal)
{
	int r;

	memset(goal, 0, sizeof(*goal));
	if (!from)
		return 0;
	r = dli_abi_read(goal, sizeof(*goal), GOAL_FIRST_BYTES, from);
	if (r)
		return dli_log_fail(log, DLI_BAD_STRUCT, DLI_NO_NUMBER, r);
	if (goal->flags & ~(uint32_t)DL_GOAL_ADVISE)
		return dli_log_fail(log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	if (goal->least_run_ppm > MOST_PPM || goal->reserved || !has_time_for_memory(goal))
		return dli_log_fail(log, DLI_BAD_GOAL, DLI_NO_NUMBER, -EINVAL);
	return 0;
}

int dl_plan_new(struct dl_cursor *cursor, const struct dl_goal *from, struct dl_plan **plan)
{
	struct dli_call call;
	struct dl_goal goal;
	int r;

	if (plan)
		*plan = NULL;
	if (!cursor)
		return -EINVAL;
	if (!plan)
		return dli_log_fail(cursor->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (cursor->flags & DL_CURSOR_MISSED)
		return dli_log_fail(cursor->log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	r = dli_call_begin(&call, cursor->log);
	if (!r)
		r = read_goal(cursor->log, from, &goal);
	if (!r)
		r = dli_plan_new(cursor, &goal, plan);
	dli_call_end(&call);
	return r;
}

int dl_plan_sent(struct dl_plan *plan, uint64_t bytes, uint64_t busy_ns)
{
	if (!plan)
		return -EINVAL;
	if (dli_log_in_child(plan->log))
		return -EIO;
	atomic_fetch_add_explicit(&plan->sent_bytes, bytes, memory_order_relaxed);
	/* Pairs with note_wire(). */
	atomic_fetch_add_explicit(&plan->busy_ns, busy_ns, memory_order_release);
	return 0;
}

int dl_plan_next(struct dl_plan *plan, uint64_t unsent_bytes, struct dl_advice *out)
{
	struct dl_advice advice;
	struct dli_call call;
	int r;

	if (!plan)
		return -EINVAL;
	if (!out)
		return dli_log_fail(plan->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (out->size < ADVICE_FIRST_BYTES)
		return dli_log_fail(plan->log, DLI_BAD_STRUCT, DLI_NO_NUMBER, -EINVAL);
	r = dli_call_begin(&call, plan->log);
	if (r)
		return r;
	if (dli_log_is_closed(plan->log))
		r = dli_log_fail(plan->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	else
		r = dli_plan_next(plan, unsent_bytes, &advice);
	dli_call_end(&call);
	return r ? r : dli_abi_report(plan->log, out, &advice, sizeof(advice));
}

void dl_plan_free(struct dl_plan *plan)
{
	struct dli_call call;

	if (!plan || dli_log_in_child(plan->log))
		return;
	(void)dli_call_begin(&call, plan->log);
	dli_plan_delete(plan);
	dli_call_end(&call);
}
