/* SPDX-License-Identifier: MIT */
#ifndef DLI_LIMIT_H
#define DLI_LIMIT_H

#include "plan/bucket.h"
#include "plan/law.h"
#include "plan/window.h"

#include <stdatomic.h>

/* One vCPU's limit, and what is measured for it. */
struct dli_limit {
	_Atomic bool taken; /* by a thread that uses the fields that have no other comment */

	/* Pages per nanosecond; 0: none. */
	_Atomic double own, planned;
	_Atomic bool removed; /* the vCPU is not running */
	_Atomic bool held;    /* the plan's limit is below what the vCPU would dirty */
	_Atomic bool eased;   /* own was raised or lifted: a pause that began before ends */

	struct dli_bucket bucket;	  /* of the stricter limit; its pauses are everybody's */
	struct dli_bucket own_bucket;	  /* only its debt counts; see struct rules */
	bool limited;			  /* the bucket is in use */
	bool has_two;			  /* so is the other */
	bool by_plan;			  /* the stricter limit is a plan's */
	uint64_t forgiven;		  /* pages that were in the ring before the limit, */
	uint64_t forgave, counted;	  /* how many came since, and of all pages */
	uint64_t began_ns;		  /* the limit */
	uint64_t kicked_at_ns;		  /* the last time */
	_Atomic bool kick;		  /* wanted */
	_Atomic bool ignored;		  /* due for long */
	_Atomic uint64_t due_since_ns;	  /* a pause is due, and has not begun; 0: none is */
	_Atomic uint64_t pauses_until_ns; /* the last pause's end, if no limit was lifted */
	_Atomic uint32_t bound;		  /* enum dli_bucket_bound, since the last look */
	_Atomic uint64_t paused_ns;	  /* asked for since the vCPU was added */

	/* The CPU clock of the thread that asks for pauses. */
	_Atomic bool has_clock;
	_Atomic int64_t clock;
	int64_t last_clock;
	bool clock_failed;
	uint64_t last_cpu_ns, last_wall_ns;
	_Atomic uint64_t ran_ns; /* since the vCPU was added, pauses left out */

	struct dli_window window;

	/* The planner's, under its lock. */
	struct dli_demand demand;
	uint64_t seen_new, seen_entries, seen_ran_ns;
};

/* State shared by all limits of a log. */
struct dli_limits {
	_Atomic bool active;			      /* some vCPU may have a limit */
	_Atomic bool kicks;			      /* some vCPU must leave KVM_RUN */
	_Atomic uint64_t looked_at_ns, sampled_at_ns; /* at all vCPUs; after a drain */
	/* A plan's; they lapse if it is forgotten. */
	_Atomic uint64_t plan_until_ns, longest_pause_ns;
	_Atomic double least_run;
};

/* False: another thread uses the state now. */
static inline bool dli_limit_try(struct dli_limit *limit)
{
	/* Pairs with dli_limit_leave(). */
	return !atomic_exchange_explicit(&limit->taken, true, memory_order_acquire);
}

static inline void dli_limit_leave(struct dli_limit *limit)
{
	/* Pairs with dli_limit_try(). */
	atomic_store_explicit(&limit->taken, false, memory_order_release);
}

/* Since it was measured last: without a clock of its thread, a vCPU runs when it does not pause. */
static inline uint64_t dli_limit_unpaused_ns(const struct dli_limit *limit, uint64_t now_ns)
{
	uint64_t from_ns = limit->last_wall_ns;

	if (!from_ns || now_ns <= from_ns)
		return 0;
	return now_ns - from_ns - dli_bucket_paused_ns(&limit->bucket, from_ns, now_ns);
}

#endif
