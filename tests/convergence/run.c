/* SPDX-License-Identifier: MIT */
/* The threads of a migration, a millisecond at a time. */

#include "run.h"

#include <math.h>

/* The longest that a run may take, in budgets. */
#define PATIENCE 2.5

/* The planner comes this late at most, and the reaper. */
#define LOOK_LATE_S 0.003
#define REAP_LATE_S 0.001

/* Less than this is no sleep. */
#define MOMENT_S 1e-7

const char *const law_names[LAWS] = { "none",	     "auto-converge", "aggressive", "dirty-limit",
				      "equal-quota", "plan",	      "plan-skip",  "plan-bitmap" };
const char *const mistake_names[MISTAKES] = { "none", "zero", "unsent" };

static uint64_t up_to_ns(struct run *run, double s)
{
	return (uint64_t)(random_unit(&run->random) * s * (double)SECOND_NS);
}

double run_pending_pages(const struct run *run)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	check(dl_cursor_stats(run->sender.cursor, &stats), "dl_cursor_stats");
	return (double)(stats.pending_bytes + stats.unacked_bytes) / KERNEL_PAGE_BYTES +
	       (double)sender_unsent_pages(&run->sender);
}

struct dl_stats run_stats(const struct run *run)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	check(dl_log_stats(run->log, &stats), "dl_log_stats");
	return stats;
}

uint64_t run_entries(const struct run *run, uint32_t vcpu)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	check(dl_vcpu_stats(run->threads[vcpu].handle, &stats), "dl_vcpu_stats");
	return stats.entries;
}

/* When the vCPU is out of KVM_RUN for a kick: a share of this step, or 1 for a later one. */
static double kicked_at(const struct run *run, const struct thread *thread)
{
	double at_s;

	if (!thread->kick_at_ns)
		return 1;
	if (thread->kick_at_ns <= run->step_ns)
		return 0;
	at_s = (double)(thread->kick_at_ns - run->step_ns) / (double)STEP_NS;
	return fmin(at_s, 1);
}

/* Sleeps up to a share of the step, or shorter; asks for more when it wakes up. */
static double sleep_until(struct run *run, uint32_t i, double at, double until)
{
	struct thread *thread = &run->threads[i];
	double slept = fmin(thread->sleep_s / STEP_S, until - at);

	at += slept;
	thread->sleep_s -= slept * STEP_S;
	if (thread->sleep_s < MOMENT_S)
		thread->sleep_s = planner_pause_s(run, i, at * STEP_S);
	return at;
}

/* Returns the share of this step that the vCPU runs. Sleeps and kicks fall where they fall. */
static double run_share(struct run *run, uint32_t i)
{
	struct thread *thread = &run->threads[i];
	struct kernel_vcpu *vcpu = &run->kernel->vcpus[i];
	double at = 0, ran = 0;

	while (at < 1) {
		double kick = fmax(kicked_at(run, thread), at);

		if (thread->sleep_s > 0) {
			at = sleep_until(run, i, at, kick);
		} else {
			ran += kick - at;
			vcpu->cpu_ns += (uint64_t)((kick - at) * (double)STEP_NS);
			at = kick;
		}
		if (kick < 1 && at >= kick) {
			thread->kick_at_ns = 0;
			thread->sleep_s = planner_pause_s(run, i, at * STEP_S);
		}
	}
	return ran * baseline_share(run);
}

static void run_vcpu(struct run *run, uint32_t i)
{
	struct thread *thread = &run->threads[i];
	double share = run_share(run, i);

	measure_ran(thread, share);
	if (!(share > 0) ||
	    !guest_run(&run->guest, run->kernel, i, run_seconds(run), STEP_S, share))
		return;
	run->kernel->vcpus[i].run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
	check(dl_vcpu_drain(thread->handle, 0), "dl_vcpu_drain");
	if (run->plan)
		thread->sleep_s = planner_pause_s(run, i, STEP_S);
	else
		baseline_full(run, i);
}

/* Sent pages as the caller reports them to the plan. */
static double reported_pages(const struct run *run)
{
	return run->options.mistake == MISTAKE_ZERO ? (double)run->sender.sent_pages
						    : run->sender.wire_pages;
}

/* Sends what the wire takes in this step. */
static void send_step(struct run *run)
{
	double fits = wire_rate(&run->wire, run_seconds(run)) * STEP_S;
	double pages = reported_pages(run);
	bool ended;

	run->room = fmin(run->room, 0) + fits;
	ended = sender_send(&run->sender, &run->room);
	planner_sent(run, reported_pages(run) - pages, STEP_S * (1 - fmax(run->room, 0) / fits));
	if (ended)
		baseline_pass_end(run);
}

/* A thread that waits for the log's descriptor, and gets to run a little late. */
static bool reaper_wakes(struct run *run)
{
	double late_s = run->load->late_s > 0 ? run->load->late_s : REAP_LATE_S;

	if (run->kernel->timer_at_ns != run->timer_ns) {
		run->timer_ns = run->kernel->timer_at_ns;
		run->reap_at_ns = run->timer_ns + up_to_ns(run, late_s);
	}
	return run->timer_ns && run->kernel->now_ns >= run->reap_at_ns;
}

static void reap(struct run *run)
{
	/* Dirty-limit acts where a ring is full: a reaper would leave it without effect. */
	if (run->options.law == LAW_DIRTY_LIMIT || !reaper_wakes(run))
		return;
	run->timer_ns = run->kernel->timer_at_ns = 0;
	check(dl_log_reap(run->log, 0, NULL), "dl_log_reap");
	baseline_reaped(run);
	planner_kick(run);
}

static void look(struct run *run)
{
	uint64_t again_ns;

	if (run->kernel->now_ns < run->look_at_ns)
		return;
	again_ns = run->plan ? planner_look(run) : baseline_look(run);
	run->look_at_ns = run->kernel->now_ns + again_ns + up_to_ns(run, LOOK_LATE_S);
}

static void step(struct run *run)
{
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++)
		run_vcpu(run, i);
	send_step(run);
	run->step_ns += STEP_NS;
	run->kernel->now_ns = run->step_ns;
	reap(run);
	look(run);
	measure_step(run);
}

/* The guest stands still while the rest is sent. */
static double downtime_s(struct run *run)
{
	const double most_s = 60;
	double left = sender_finish(&run->sender), s = 0, at_s = run_seconds(run);

	for (; left > 0 && s < most_s; s += STEP_S)
		left -= wire_rate(&run->wire, at_s + s) * STEP_S;
	return s + FIXED_S;
}

void run_migration(const struct run_options *options, struct outcome *outcome)
{
	struct run *run = run_new(options);

	while (!run->ended && run_seconds(run) < PATIENCE * run->place->budget_s)
		step(run);
	measure_outcome(run, outcome);
	outcome->downtime_s = downtime_s(run);
	outcome->copied =
		run->sender.wire_pages / ((double)run->guest.pages * (1 - run->place->zero_share));
	outcome->lost_pages = kernel_unsent_pages(run->kernel);
	run_free(run);
}
