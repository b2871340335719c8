/* SPDX-License-Identifier: MIT */
/* Measures what a migration costs the guest. */

#include "run.h"

#include <math.h>

void measure_ran(struct thread *thread, double share)
{
	double lost_s = (1 - share) * STEP_S;

	thread->lost_s += lost_s;
	thread->second_s += share * STEP_S;
	thread->stopped_s += lost_s;
	if (lost_s > 0 && thread->stopped_s > thread->longest_s)
		thread->longest_s = thread->stopped_s;
	if (share > 0.5)
		thread->stopped_s = 0;
}

static double lost_s(const struct run *run, bool readers)
{
	double sum = 0;

	for (uint32_t i = 0; i < run->guest.vcpu_count; i++)
		if (run->guest.vcpus[i].reader == readers)
			sum += run->threads[i].lost_s;
	return sum;
}

static void end_second(struct run *run)
{
	struct measured *measured = &run->measured;
	uint64_t new_pages = run_stats(run).new_pages;
	double share = (double)(new_pages - measured->new_pages) / run->wire.pages_per_s;

	for (uint32_t i = 0; i < run->guest.vcpu_count; i++) {
		struct thread *thread = &run->threads[i];

		thread->worst_second = fmin(thread->worst_second, thread->second_s);
		thread->second_s = 0;
	}
	/* The first second is that in which limits settle. */
	if (measured->limited_s >= 0 && run_seconds(run) > measured->limited_s + 2) {
		measured->shares += share;
		measured->squares += share * share;
		measured->seconds++;
	}
	measured->new_pages = new_pages;
}

void measure_trace_head(FILE *trace)
{
	fprintf(trace, "law\tload\tseed\tseconds\tpending\tnew\twritten\twire\twriters_run\n");
}

/* Amounts in units of what the wire takes in a second. */
static void trace(struct run *run)
{
	struct measured *measured = &run->measured;
	struct dl_stats stats = run_stats(run);
	double wire = run->wire.pages_per_s, lost = lost_s(run, false), writers = 0;
	double over_s = (double)(run->kernel->now_ns - measured->trace_at_ns) / (double)SECOND_NS;

	for (uint32_t i = 0; i < run->guest.vcpu_count; i++)
		writers += !run->guest.vcpus[i].reader;
	if (measured->trace_at_ns)
		fprintf(run->options.trace, "%s\t%u\t%llu\t%.2f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\n",
			law_names[run->options.law], run->options.load,
			(unsigned long long)run->options.seed, run_seconds(run),
			run_pending_pages(run) / wire,
			(double)(stats.new_pages - measured->trace_new_pages) / over_s / wire,
			(double)(stats.entries - measured->trace_entries) / over_s / wire,
			run->wire.now / wire,
			1 - (lost - measured->trace_lost_s) / over_s / writers);
	measured->trace_at_ns = run->kernel->now_ns;
	measured->trace_new_pages = stats.new_pages;
	measured->trace_entries = stats.entries;
	measured->trace_lost_s = lost;
}

/* Some hundred lines, however long the run is. */
static uint64_t trace_ns(const struct run *run)
{
	return (uint64_t)(run->place->budget_s / 250 * (double)SECOND_NS);
}

void measure_step(struct run *run)
{
	struct measured *measured = &run->measured;
	uint64_t now_ns = run->kernel->now_ns;

	if (!measured->second_end_ns)
		measured->second_end_ns = run->began_ns + SECOND_NS;
	if (now_ns >= measured->second_end_ns) {
		measured->second_end_ns += SECOND_NS;
		end_second(run);
	}
	if (run->options.trace && now_ns >= measured->trace_at_ns + trace_ns(run))
		trace(run);
}

void measure_outcome(const struct run *run, struct outcome *outcome)
{
	const struct measured *measured = &run->measured;
	double n = measured->seconds, mean = n > 0 ? measured->shares / n : 0;

	*outcome = (struct outcome){
		.ended = run->ended,
		.seconds = run_seconds(run),
		.budget_s = run->place->budget_s,
		.downtime_limit_s = run->place->downtime_s,
		.lost_s = { lost_s(run, false), lost_s(run, true) },
		.worst_second = { 1, 1 },
		.passes = run->sender.passes,
		.least_run = run->least_run,
		.limited_s = measured->limited_s,
		.diverging_s = measured->diverging_s,
	};
	if (n > 2 && mean > 0)
		outcome->variation = sqrt(fmax(0, measured->squares / n - mean * mean)) / mean;
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++) {
		const struct thread *thread = &run->threads[i];
		double *worst = &outcome->worst_second[run->guest.vcpus[i].reader];

		outcome->longest_pause_s = fmax(outcome->longest_pause_s, thread->longest_s);
		*worst = fmin(*worst, thread->worst_second);
	}
}
