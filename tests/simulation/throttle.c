/* SPDX-License-Identifier: MIT */
/* Limits of vCPUs and the plan of a migration: they may slow the guest down, and lose nothing. */
#include <errno.h>

#include "world.h"

enum { MAX_ASKS = 6 };

/* Limits of the caller's own pause for as long as they remember debt. */
#define LONGEST_PAUSE_NS UINT64_C(1000000000)

static bool has_no_user(const void *users)
{
	return !*(const uint32_t *)users;
}

void throttle_wait_for_users(const uint32_t *users)
{
	if (*users)
		sim_wait(has_no_user, users, "a handle's users", SIM_SITE("before it is freed"));
}

static void stay_out(uint64_t pause_ns)
{
	world.counts.pauses++;
	sim_trace("a pause of %lu ns", (unsigned long)pause_ns);
	sim.current->stalled_until = sim.now + pause_ns / sim.policy.point_ns + 1;
	sim_yield(SIM_SITE("a pause"));
}

/* A vCPU that has asked so often enters the guest all the same, as that of a careless VMM does. */
void throttle_vcpu(struct vcpu_state *vcpu)
{
	uint64_t pause_ns;

	for (uint32_t asks = 0; world.plan->limits && asks < MAX_ASKS; asks++) {
		EXPECT("dl_vcpu_pause_due", dl_vcpu_pause_due(vcpu->handle, &pause_ns));
		if (pause_ns > LONGEST_PAUSE_NS)
			sim_fail(SIM_RESULT, "a pause of %lu ns", (unsigned long)pause_ns);
		if (!pause_ns)
			return;
		stay_out(pause_ns);
	}
}

static void limit(const struct op *op)
{
	static const uint64_t pages_per_s[] = { 0, 0, 1, 50, 400, 3000 };
	struct vcpu_state *vcpu = &world.vcpus[op->count];

	if (!vcpu->handle)
		return;
	vcpu->users++;
	EXPECT("dl_vcpu_limit",
	       dl_vcpu_limit(vcpu->handle, pages_per_s[op->number % 6] * PAGE_BYTES), -ECANCELED,
	       world.plan->mode == DL_MODE_BITMAP ? -EOPNOTSUPP : 0);
	vcpu->users--;
}

static void make_plan(const struct op *op)
{
	struct consumer *consumer = &world.consumers[op->slot];
	const struct dl_goal goal = {
		.size = sizeof(goal),
		.flags = op->number & 1 ? DL_GOAL_ADVISE : 0,
		.downtime_ns = op->number % 50 * UINT64_C(1000000),
		.total_ns = (op->number >> 8) % 20 * UINT64_C(2000000),
		.longest_pause_ns = (op->number >> 16) % 4 * UINT64_C(20000000),
		.least_run_ppm = (op->number >> 18) % 3 * 100000,
	};
	struct dl_plan *plan;

	if (!consumer->cursor || consumer->is_stopping || !log_enter())
		return;
	consumer->planners++;
	if (!EXPECT("dl_plan_new", dl_plan_new(consumer->cursor, &goal, &plan))) {
		world.migration = plan;
		world.migrated = consumer;
	}
	consumer->planners--;
	log_leave();
}

void throttle_free_plan(void)
{
	struct dl_plan *plan = world.migration;

	world.migration = NULL;
	throttle_wait_for_users(&world.migration_users);
	dl_plan_free(plan);
	EXPECT("dl_plan_free", 0);
}

static void look(void)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	if (!world.migration ||
	    EXPECT("dl_plan_next", dl_plan_next(world.migration, 0, &advice), -ECANCELED))
		return;
	world.counts.looks++;
	sim_trace("verdict %u, %lu bytes pending, %u vCPUs limited", advice.verdict,
		  (unsigned long)advice.pending_bytes, advice.limited_vcpus);
	if (advice.verdict > DL_VERDICT_DIVERGING || advice.bound_by > DL_BOUND_IGNORED ||
	    !advice.again_ns || advice.limited_vcpus > world.plan->vcpus)
		sim_fail(SIM_RESULT, "dl_plan_next() gives bad advice");
}

static void take_kicks(void)
{
	uint64_t cookies[2];

	if (!log_enter())
		return;
	EXPECT("dl_log_kicks", dl_log_kicks(world.log, cookies, 2));
	log_leave();
}

void throttle_sent(const struct consumer *consumer, uint64_t bytes)
{
	if (!world.migration || world.migrated != consumer)
		return;
	world.migration_users++;
	EXPECT("dl_plan_sent", dl_plan_sent(world.migration, bytes, bytes * sim.policy.point_ns));
	world.migration_users--;
}

void throttle_act(const struct op *op)
{
	switch (op->code) {
	case OP_LIMIT:
		limit(op);
		break;
	case OP_MIGRATE:
		if (world.migration)
			throttle_free_plan();
		else
			make_plan(op);
		break;
	case OP_LOOK:
		look();
		break;
	case OP_KICKS:
		take_kicks();
		break;
	}
}

/* Afterwards no vCPU must pause. */
void throttle_end(void)
{
	if (world.migration)
		throttle_free_plan();
	for (uint32_t i = 0; i < PLAN_VCPUS; i++) {
		struct vcpu_state *vcpu = &world.vcpus[i];
		uint64_t pause_ns;

		if (!vcpu->handle || !world.plan->limits || world.plan->mode == DL_MODE_BITMAP)
			continue;
		EXPECT("dl_vcpu_limit", dl_vcpu_limit(vcpu->handle, 0), -ECANCELED);
		EXPECT("dl_vcpu_pause_due", dl_vcpu_pause_due(vcpu->handle, &pause_ns));
		if (pause_ns)
			sim_fail(SIM_RESULT, "a pause without a limit");
	}
}
