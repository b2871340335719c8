/* SPDX-License-Identifier: MIT */
/* The library's plan, used as a VMM uses it. */

#include "run.h"

#include <math.h>

/* The precision of sleeps, and of kicks. */
#define SLEEP_NS UINT64_C(100000)
#define KICK_S	 0.0001

enum { KICKS = 16 };

static bool is_planned(const struct run *run)
{
	return run->options.law == LAW_PLAN || run->options.law == LAW_PLAN_SKIP ||
	       run->options.law == LAW_PLAN_BITMAP;
}

void planner_begin(struct run *run)
{
	const struct dl_goal goal = {
		.size = sizeof(goal),
		.downtime_ns = (uint64_t)(run->place->downtime_s * 1e9),
		.fixed_ns = (uint64_t)(FIXED_S * 1e9),
		.total_ns = (uint64_t)(run->place->budget_s * 1e9),
		.least_run_ppm = (uint32_t)(run->least_run * 1e6),
	};

	if (!is_planned(run))
		return;
	check(dl_plan_new(run->sender.cursor, &goal, &run->plan), "dl_plan_new");
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++)
		run->threads[i].sleep_s = planner_pause_s(run, i, 0);
}

void planner_end(struct run *run)
{
	dl_plan_free(run->plan);
}

double planner_pause_s(struct run *run, uint32_t vcpu, double at_s)
{
	uint64_t at_ns = run->step_ns + (uint64_t)(at_s * 1e9), pause_ns;

	if (!run->plan)
		return 0;
	/* A clock that another vCPU's thread moved ahead in this step would lengthen the pause. */
	run->kernel->now_ns = at_ns;
	run->kernel->calling = vcpu;
	check(dl_vcpu_pause_due(run->threads[vcpu].handle, &pause_ns), "dl_vcpu_pause_due");
	run->kernel->now_ns = run->step_ns;
	return (double)((pause_ns + SLEEP_NS - 1) / SLEEP_NS * SLEEP_NS) / 1e9;
}

/* Kicks vCPUs, and waits for none. */
void planner_kick(struct run *run)
{
	double kick_s = run->load->kick_s > 0 ? run->load->kick_s : KICK_S;
	uint64_t cookies[KICKS];
	int n;

	if (!run->plan)
		return;
	do {
		n = check(dl_log_kicks(run->log, cookies, KICKS), "dl_log_kicks");
		for (int i = 0; i < n; i++) {
			struct thread *thread = &run->threads[cookies[i]];
			double late_s = kick_s * random_between(&run->random, 0.5, 1.5);

			if (!thread->kick_at_ns)
				thread->kick_at_ns = run->kernel->now_ns + (uint64_t)(late_s * 1e9);
		}
	} while (n == KICKS);
}

void planner_sent(struct run *run, double pages, double busy_s)
{
	if (run->plan)
		check(dl_plan_sent(run->plan, (uint64_t)(pages * KERNEL_PAGE_BYTES),
				   (uint64_t)(busy_s * 1e9)),
		      "dl_plan_sent");
}

static uint64_t unsent_bytes(const struct run *run)
{
	return run->options.mistake == MISTAKE_UNSENT
		       ? 0
		       : sender_unsent_pages(&run->sender) * KERNEL_PAGE_BYTES;
}

uint64_t planner_look(struct run *run)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	check(dl_plan_next(run->plan, unsent_bytes(run), &advice), "dl_plan_next");
	planner_kick(run);
	run->baseline.percent = 100 - advice.run_ppm / 1e4;
	if ((advice.limited_vcpus || run->baseline.percent > 0) && run->measured.limited_s < 0)
		run->measured.limited_s = run_seconds(run);
	if (advice.verdict == DL_VERDICT_DIVERGING && run->measured.diverging_s < 0)
		run->measured.diverging_s = run_seconds(run);
	run->ended = advice.verdict == DL_VERDICT_SWITCHOVER;
	run->advice = advice;
	return advice.again_ns;
}
