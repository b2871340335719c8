/* SPDX-License-Identifier: MIT */
#include "throttle.h"
#include "../clock.h"

#include <stdio.h>
#include <string.h>

/*
 * --throttle plan: the library's. It limits those vCPUs that dirty more than the wire can take, no
 * harder than it must be for the budget, and says when to stop the guest.
 */

/* A tenth of the downtime is for the device state and the switch itself. */
#define FIXED_SHARE 10

/* Pauses may be this long however short the downtime is to be. */
#define SHORTEST_PAUSE_NS (10 * NS_PER_MS)

#define RETRY_NS (100 * NS_PER_MS)

enum { PPM = 1000000 };

static int start(struct throttle *throttle)
{
	uint64_t downtime_ns = throttle->options->downtime_limit_ns;
	const struct dl_goal goal = {
		.size = sizeof(goal),
		.downtime_ns = downtime_ns ? downtime_ns : 1,
		.fixed_ns = downtime_ns / FIXED_SHARE,
		.total_ns = throttle->options->budget_ns,
		.longest_pause_ns =
			downtime_ns > SHORTEST_PAUSE_NS ? downtime_ns : SHORTEST_PAUSE_NS,
	};

	int r = dl_plan_new(throttle->cursor, &goal, &throttle->plan);

	throttle->duty.longest_ns = goal.longest_pause_ns;
	if (!r)
		outlets_set_plan(throttle->outlets, throttle->plan);
	return r;
}

static void stop(struct throttle *throttle)
{
	outlets_set_plan(throttle->outlets, NULL);
	dl_plan_free(throttle->plan);
	throttle->plan = NULL;
}

static void note(struct throttle *throttle, const struct dl_advice *advice)
{
	struct throttling *result = &throttle->report->throttling;
	struct verdict_change *last = &result->verdicts[result->verdict_count - 1];
	struct verdict_change change = {
		.ns = clock_ns() - throttle->report->start_ns,
		.verdict = advice->verdict,
		.bound_by = advice->bound_by,
		.limited_vcpus = advice->limited_vcpus,
	};

	throttle->verdict = advice->verdict;
	throttle->activity->verdict = advice->verdict;
	if (result->verdict_count && last->verdict == change.verdict)
		return;
	/* The last one is always there. */
	if (result->verdict_count < REPORT_VERDICTS)
		result->verdict_count++;
	result->verdicts[result->verdict_count - 1] = change;
}

static void ask(struct throttle *throttle, uint64_t now_ns)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	throttle->again_ns = now_ns + RETRY_NS;
	/* After an error the limits lapse in a second; the passes go on. */
	if (dl_plan_next(throttle->plan, 0, &advice))
		return;
	throttle->again_ns = now_ns + advice.again_ns;
	reaper_kick(throttle->reaper);
	note(throttle, &advice);
	throttle->duty.percent = (PPM - advice.run_ppm) / (PPM / 100);
	if (advice.verdict == DL_VERDICT_SWITCHOVER)
		throttle->outlets->enough = true;
}

static void ask_now(struct throttle *throttle)
{
	ask(throttle, clock_ns());
}

static bool is_ring(const struct throttle *throttle)
{
	return throttle->report->config.ring_entries;
}

static uint64_t step(struct throttle *throttle)
{
	uint64_t now_ns = clock_ns(), duty_ns;

	if (now_ns >= throttle->again_ns)
		ask(throttle, now_ns);
	if (is_ring(throttle))
		return throttle->again_ns - now_ns;
	duty_ns = duty_step(&throttle->duty, throttle->machine);
	return duty_ns < throttle->again_ns - now_ns ? duty_ns : throttle->again_ns - now_ns;
}

/* Bitmaps do not say who writes, so the library limits nobody, and advises how much all may run. */
static uint64_t pause_due(void *opaque, struct vcpu *vcpu)
{
	struct throttle *throttle = opaque;
	uint64_t ns;

	if (!is_ring(throttle))
		return duty_pause(&throttle->duty, vcpu);
	/* Errors are met by whoever harvests. */
	return dl_vcpu_pause_due(vcpu->log_vcpu, &ns) ? 0 : ns;
}

static uint32_t limited(const struct throttle *throttle)
{
	struct dl_stats stats;
	uint32_t mask = 0;

	if (!is_ring(throttle))
		return duty_limited(&throttle->duty, throttle->machine);
	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++) {
		stats.size = sizeof(stats);
		if (!dl_vcpu_stats(throttle->machine->vcpus[id].log_vcpu, &stats) &&
		    stats.limited_vcpus)
			mask |= 1u << id;
	}
	return mask;
}

const struct throttle_kind throttle_plan = {
	.start = start,
	.stop = stop,
	.step = step,
	.ask = ask_now,
	.pause_due = pause_due,
	.limited = limited,
};
