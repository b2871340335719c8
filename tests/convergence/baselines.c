/* SPDX-License-Identifier: MIT */
/*
 * What others do, on the same engine: auto-converge and dirty-limit as QEMU 8 has them, and one
 * quota for all vCPUs. Only the throttle, and the rule for the switch, are theirs.
 */

#include "run.h"

#include <math.h>

#define LOOK_NS	   (SECOND_NS / 10)
#define WIRE_TAU_S 0.25
#define SAFE_SHARE 0.9

/* Auto-converge: the period of its sleeps; a sync at least this often; how many are too many. */
#define SLEEP_PERIOD_S 0.01
#define SYNC_NS	       SECOND_NS
#define AGGRESSIVE_NS  (5 * SECOND_NS)
#define HIGH_SHARE     0.5
#define HIGH_SYNCS     2

/* Dirty-limit: its default limit, its tolerance, and its longest sleep. */
#define LIMIT_MIB_S	1.0
#define TOLERANCE_MIB_S 25.0
#define LINEAR_PERCENT	50.0
#define MOST_PERCENT	99.0

#define QUOTA_NS    (SECOND_NS / 10)
#define QUOTA_SHARE 0.5

static bool is_auto_converge(const struct run *run)
{
	return run->options.law == LAW_AUTO_CONVERGE || run->options.law == LAW_AGGRESSIVE;
}

static void note_limited(struct run *run)
{
	if (run->measured.limited_s < 0)
		run->measured.limited_s = run_seconds(run);
}

double baseline_share(const struct run *run)
{
	double period_s;

	if (!(run->baseline.percent > 0))
		return 1;
	period_s = SLEEP_PERIOD_S / (1 - run->baseline.percent / 100);
	return fmod(run_seconds(run), period_s) < SLEEP_PERIOD_S ? 1 : 0;
}

void baseline_full(struct run *run, uint32_t vcpu)
{
	if (run->options.law == LAW_DIRTY_LIMIT)
		run->threads[vcpu].sleep_s += run->threads[vcpu].full_sleep_s;
}

/* QEMU: dirtylimit_set_throttle(). */
static void set_full_sleep(struct thread *thread, double mib_s, double ring_s)
{
	double percent = fabs(mib_s - LIMIT_MIB_S) * 100 / fmax(mib_s, LIMIT_MIB_S);
	double change_s = ring_s / 10;

	if (fabs(mib_s - LIMIT_MIB_S) <= TOLERANCE_MIB_S)
		return;
	if (!(mib_s > 0)) {
		thread->full_sleep_s = 0;
		return;
	}
	if (percent > LINEAR_PERCENT) {
		percent = fmin(floor(percent), MOST_PERCENT);
		change_s = ring_s * percent / (100 - percent);
	}
	thread->full_sleep_s += mib_s > LIMIT_MIB_S ? change_s : -change_s;
	thread->full_sleep_s = fmax(0, fmin(thread->full_sleep_s, ring_s * MOST_PERCENT));
}

/* Each second: rates are measured, which empties the rings, and sleeps adjusted. */
static void adjust_dirty_limit(struct run *run)
{
	struct baseline *baseline = &run->baseline;
	double ring_mib = run->kernel->soft_limit * run->guest.unit_bytes / MIB;

	if (run->kernel->now_ns < baseline->period_end_ns)
		return;
	baseline->period_end_ns = run->kernel->now_ns + SECOND_NS;
	check(dl_log_reap(run->log, DL_REAP_NOW, NULL), "dl_log_reap");
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++) {
		struct thread *thread = &run->threads[i];
		uint64_t now = run_entries(run, i);
		double mib_s = floor((double)(now - thread->entries) * run->guest.unit_bytes / MIB);

		thread->entries = now;
		baseline->fastest = fmax(baseline->fastest, mib_s);
		if (baseline->limiting && baseline->fastest > 0)
			set_full_sleep(thread, mib_s, ring_mib / baseline->fastest);
	}
}

static void throttle_more(struct run *run)
{
	struct baseline *baseline = &run->baseline;

	note_limited(run);
	if (run->options.law == LAW_AUTO_CONVERGE)
		baseline->percent = baseline->percent > 0 ? baseline->percent + 10 : 20;
	else if (run->options.law == LAW_AGGRESSIVE)
		baseline->percent = baseline->percent > 0 ? baseline->percent + 20 : 50;
	else
		baseline->limiting = true;
	baseline->percent = fmin(baseline->percent, 99);
}

/* QEMU: migration_trigger_throttle(). */
static void sync_throttle(struct run *run)
{
	struct baseline *baseline = &run->baseline;
	double sent = run->sender.wire_pages - baseline->synced_wire_pages, dirtied;
	uint64_t new_pages;

	if (run->kernel->now_ns - baseline->synced_at_ns < SYNC_NS)
		return;
	check(dl_log_reap(run->log, DL_REAP_NOW, NULL), "dl_log_reap");
	new_pages = run_stats(run).new_pages;
	dirtied = (double)(new_pages - baseline->synced_new_pages);
	baseline->synced_at_ns = run->kernel->now_ns;
	baseline->synced_new_pages = new_pages;
	baseline->synced_wire_pages = run->sender.wire_pages;
	if (run->sender.passes < 2 || dirtied <= HIGH_SHARE * sent)
		return;
	if (++baseline->high < HIGH_SYNCS)
		return;
	baseline->high = 0;
	throttle_more(run);
}

static void note_wire(struct run *run)
{
	struct baseline *baseline = &run->baseline;
	double rate = (run->sender.wire_pages - baseline->wire_pages) / 0.1;

	baseline->wire_pages = run->sender.wire_pages;
	if (!(baseline->wire > 0))
		baseline->wire = rate;
	else if (run->room <= 0)
		baseline->wire += (1 - exp(-0.1 / WIRE_TAU_S)) * (rate - baseline->wire);
}

static bool fits(const struct run *run, double share)
{
	double memory_s = run->place->downtime_s - FIXED_S;

	return run->sender.passes &&
	       run_pending_pages(run) <= share * run->baseline.wire * memory_s;
}

uint64_t baseline_look(struct run *run)
{
	/* Dirty-limit's rings are emptied once a second. */
	if (run->options.law != LAW_DIRTY_LIMIT)
		check(dl_log_reap(run->log, DL_REAP_NOW, NULL), "dl_log_reap");
	note_wire(run);
	if (run->options.law == LAW_AGGRESSIVE &&
	    run->kernel->now_ns - run->baseline.synced_at_ns >= AGGRESSIVE_NS)
		sync_throttle(run);
	if (run->options.law == LAW_DIRTY_LIMIT)
		adjust_dirty_limit(run);
	if (run->options.law == LAW_QUOTA && run->sender.passes >= 2)
		run->baseline.limiting = true;
	if (run->options.law == LAW_NONE || run->options.law == LAW_QUOTA)
		run->ended = fits(run, SAFE_SHARE);
	return LOOK_NS;
}

static void begin_quota(struct run *run)
{
	struct baseline *baseline = &run->baseline;

	baseline->period_end_ns = run->kernel->now_ns + QUOTA_NS;
	baseline->quota = QUOTA_SHARE * baseline->wire * ((double)QUOTA_NS / (double)SECOND_NS) /
			  run->guest.vcpu_count;
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++)
		run->threads[i].entries = run_entries(run, i);
}

/* A vCPU that has used up its quota sleeps until the end of the period. */
void baseline_reaped(struct run *run)
{
	struct baseline *baseline = &run->baseline;
	double left_s;

	if (run->options.law != LAW_QUOTA || !baseline->limiting)
		return;
	note_limited(run);
	if (run->kernel->now_ns >= baseline->period_end_ns)
		begin_quota(run);
	left_s = (double)(baseline->period_end_ns - run->kernel->now_ns) / (double)SECOND_NS;
	for (uint32_t i = 0; i < run->guest.vcpu_count; i++) {
		struct thread *thread = &run->threads[i];

		if (!(thread->sleep_s > 0) &&
		    (double)(run_entries(run, i) - thread->entries) >= baseline->quota)
			thread->sleep_s = left_s;
	}
}

/* QEMU looks whether what is left fits when it has sent what it knew of. */
void baseline_pass_end(struct run *run)
{
	if (is_auto_converge(run) || run->options.law == LAW_DIRTY_LIMIT) {
		check(dl_log_reap(run->log, DL_REAP_NOW, NULL), "dl_log_reap");
		sync_throttle(run);
		run->ended = fits(run, 1);
	}
}
