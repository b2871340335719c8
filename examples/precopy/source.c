/* SPDX-License-Identifier: MIT */
#include "source.h"
#include "../clock.h"
#include "device_alias.h"
#include "guest_setup.h"
#include "handover.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * The source: a VMM that runs a guest and migrates it while it runs. migrate() is the migration;
 * its passes are above it, cleanup below.
 */

#define WARM_UP_NS	(100 * NS_PER_MS)
#define RUN_ON_LIMIT_NS (10 * NS_PER_S)
#define MIN_RATE_BYTES	(1 << 20) /* enough to measure the wire's speed */
#define MAX_EXTENT	(64 << 10)

enum { MAX_PAUSED_PASSES = 8, MAX_IDLE_PASSES = 3 };

/* Progress of the live passes. */
struct progress {
	uint32_t passes, idle_passes;
	uint64_t least_bytes; /* left by the last pass that left notably less */
};

static volatile sig_atomic_t cancelled;

static void on_cancel(int number)
{
	(void)number;
	cancelled = 1;
}

/* Reports a failure other than one of the wire. */
static int fail(struct source *source, int failure, const char *what)
{
	if (!*source->report.error)
		snprintf(source->report.error, sizeof(source->report.error), "%s: %s", what,
			 strerror(-failure));
	return failure;
}

/* The bytes that can be sent within the downtime limit at the measured speed of the wire. */
static uint64_t downtime_budget_bytes(const struct source *source)
{
	return (uint64_t)(source->bytes_per_ns * (double)source->options->downtime_limit_ns);
}

/* Reports a failure of the library, in its own words. */
static int fail_log(struct source *source, int failure, const char *call)
{
	char words[200];

	if (!source->log || dl_log_last_error(source->log, words, sizeof(words)) <= 0)
		return fail(source, failure, call);
	/* With the reason. */
	if (!*source->report.error)
		snprintf(source->report.error, sizeof(source->report.error), "%s: %s", call, words);
	return failure;
}

/* Reports a failure of the device process, or of its log. */
static int fail_process(struct source *source, int failure)
{
	struct report *report = &source->report;

	if (!*report->error && report->row_count)
		snprintf(report->error, sizeof(report->error), "in pass %u: %s", report->row_count,
			 source->device_process.why);
	else if (!*report->error)
		snprintf(report->error, sizeof(report->error), "%s", source->device_process.why);
	return failure;
}

/* Collects what was written, re-protects it, and begins the next pass. */
static int begin_pass(struct source *source, uint32_t flags, uint64_t *pending_bytes)
{
	int r = 0;

	if (!(flags & DL_HARVEST_PAUSED)) {
		saboteur_snapshot(&source->saboteur);
		r = device_process_sync(&source->device_process, source->log);
	}
	if (r)
		return fail_process(source, r);
	r = dl_harvest(source->cursor, flags, pending_bytes);
	return r ? fail_log(source, r, "dl_harvest") : 0;
}

/*
 * Sends the open pass and waits until the destination has it in place: contents of two passes must
 * not overtake each other. What is not acknowledged is pending again.
 */
static int send_pass(struct source *source, struct pass_row *row)
{
	const char *failed_call = NULL;
	int r = outlets_send_pass(&source->outlets, source->cursor, row, &failed_call);

	if (failed_call)
		fail_log(source, r, failed_call);
	dl_cursor_end(source->cursor, 0);
	return r;
}

static struct pass_row *begin_row(struct source *source, bool final)
{
	struct pass_row *row = report_next_row(&source->report);

	row->final = final;
	row->start_ns = clock_ns() - source->report.start_ns;
	source->pass_stats.size = sizeof(source->pass_stats);
	if (dl_log_stats(source->log, &source->pass_stats))
		memset(&source->pass_stats, 0, sizeof(source->pass_stats));
	return row;
}

static void end_row(struct source *source, struct pass_row *row)
{
	struct dl_stats now = { .size = sizeof(now) };

	row->complete = true;
	row->logged_pages = source->report.process.row_pages;
	source->report.process.row_pages = 0;
	if (row->wire_bytes >= MIN_RATE_BYTES && row->ns)
		source->bytes_per_ns = (double)row->wire_bytes / (double)row->ns;
	if (!dl_log_stats(source->log, &now)) {
		row->full_exits = now.full_exits - source->pass_stats.full_exits;
		row->overflows = now.overflows - source->pass_stats.overflows;
	}
	report_row(&source->report, row);
}

/* Bytes left to send while no pass is open. */
static uint64_t left_bytes(const struct source *source)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	return dl_cursor_stats(source->cursor, &stats) ? 0 : stats.pending_bytes;
}

/*
 * One pass while the guest runs; it is open already. The harvest after it begins the next one,
 * which tells how much was written meanwhile.
 */
static int live_pass(struct source *source, uint64_t *pending_bytes)
{
	struct pass_row *row = begin_row(source, false);
	int r;

	row->dirty_bytes = *pending_bytes;
	r = send_pass(source, row);
	if (!r && throttle_enough(&source->throttle))
		*pending_bytes = left_bytes(source);
	else if (!r)
		r = begin_pass(source, 0, pending_bytes);
	if (r)
		return r;
	row->remaining_bytes = *pending_bytes;
	throttle_pass_done(&source->throttle, row);
	end_row(source, row);
	if (source->report.row_count == 1)
		watch_copied(source->watch);
	return source_guest_failure(source);
}

/*
 * Stops everything that writes guest memory: first the vCPUs, completing their pending I/O, then
 * the devices, which may have to serve that I/O. What saving a device writes is marked as well.
 */
static int stop_guest(struct source *source)
{
	int r;

	saboteur_snapshot(&source->saboteur);
	watch_state(source->watch, ACTIVITY_PAUSED);
	throttle_note_end(&source->throttle);
	source->stopped_ns = clock_ns();
	source->report.stop_ns = source->stopped_ns - source->report.start_ns;
	r = machine_pause(source->machine);
	source->report.stop.vcpus_ns = clock_ns() - source->stopped_ns;
	throttle_stop(&source->throttle);
	if (r)
		return fail(source, r, source->machine->why);
	r = device_process_stop(&source->device_process, source->log);
	if (r)
		return fail_process(source, r);
	/* A sabotaged device goes on, unmarked, until the final pass is over. */
	if (source->options->sabotage == SABOTAGE_MARK && !source->options->watch)
		return 0;
	device_stop(&source->device);
	r = device_save(&source->device, &source->device_state);
	source->report.stop.devices_ns =
		clock_ns() - source->stopped_ns - source->report.stop.vcpus_ns;
	return r ? fail_log(source, r, "the device") : 0;
}

static int begin_paused_pass(struct source *source, uint64_t *pending_bytes)
{
	uint64_t start_ns = clock_ns();
	int r = begin_pass(source, DL_HARVEST_PAUSED, pending_bytes);

	source->report.stop.harvest_ns += clock_ns() - start_ns;
	return r;
}

static int send_paused_pass(struct source *source, struct pass_row *row)
{
	uint64_t start_ns = clock_ns();
	int r = send_pass(source, row);

	source->report.stop.send_ns += clock_ns() - start_ns;
	return r;
}

/*
 * Passes with the guest stopped, until one finds nothing: what the kernel notices late, an overflow
 * for example, is in the next one.
 */
static int paused_passes(struct source *source)
{
	struct pass_row *row = begin_row(source, true);
	uint64_t pending_bytes = 0;
	int passes = 0, r;

	while (!(r = begin_paused_pass(source, &pending_bytes)) && pending_bytes) {
		if (++passes > MAX_PAUSED_PASSES)
			return fail(source, -EBUSY, "memory is written while the guest is stopped");
		row->dirty_bytes += pending_bytes;
		r = send_paused_pass(source, row);
		if (r)
			return r;
	}
	dl_cursor_end(source->cursor, 0);
	if (r)
		return r;
	end_row(source, row);
	return source_guest_failure(source);
}

static int send_the_rest(struct source *source)
{
	int r = 0;

	/* The plan may have stopped a pass early; this one hands out everything. */
	source->outlets.enough = false;
	if (source->options->sabotage != SABOTAGE_FINAL)
		r = paused_passes(source);
	if (!r && device_process_check(&source->device_process))
		r = fail_process(source, -EBUSY);
	if (source->options->sabotage == SABOTAGE_DISCARD)
		device_discard(&source->device);
	if (source->options->sabotage == SABOTAGE_MARK && !source->options->watch) {
		device_stop(&source->device);
		(void)device_save(&source->device, &source->device_state);
	}
	return r;
}

/* Logs every slot for this migration. At first all memory is pending. */
static int begin_logging(struct source *source)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.vcpus = source->report.layout.vcpus,
		.flags = source->options->skip_rewritten ? DL_CURSOR_SKIP_REWRITTEN : 0,
		/* A plan must know what has been sent of a long extent. */
		.max_extent_bytes = source->options->throttle == THROTTLE_PLAN ? MAX_EXTENT : 0,
	};
	int r = device_process_log(&source->device_process, source->machine);

	if (r)
		return fail_process(source, r);
	r = dl_cursor_new(source->log, &options, &source->cursor);
	if (r)
		return fail_log(source, r, "dl_cursor_new");
	watch_cursor(source->watch, source->cursor);
	if (source->options->reaper)
		r = reaper_start(&source->reaper, source->machine, source->log);
	if (r)
		return fail(source, r, "cannot serve the log's descriptor");
	r = throttle_start(&source->throttle, source->log, source->cursor);
	return r ? fail(source, r, "cannot throttle the guest") : 0;
}

static void end_logging(struct source *source)
{
	throttle_stop(&source->throttle);
	reaper_stop(&source->reaper);
	source->report.reaps = source->reaper.reaps;
	watch_cursor(source->watch, NULL);
	dl_cursor_free(source->cursor);
	source->cursor = NULL;
}

/* Whether to stop the guest, now that a pass has left this much. */
static enum stop_reason stop_reason(struct source *source, struct progress *progress,
				    uint64_t left_bytes)
{
	source->report.fits_bytes = downtime_budget_bytes(source);
	if (source->options->throttle == THROTTLE_PLAN ? source->outlets.enough
						       : left_bytes <= source->report.fits_bytes)
		return STOP_FITS;
	if (++progress->passes == source->options->passes)
		return STOP_PASSES;
	if (source->throttle.verdict == DL_VERDICT_DIVERGING)
		return STOP_DIVERGING;
	if (source->options->budget_ns &&
	    clock_ns() - source->report.start_ns >= 2 * source->options->budget_ns)
		return STOP_BUDGET;
	/* Limits, and phases of the guest, take their time. */
	if (source->options->throttle || source->options->budget_ns)
		return STOP_NEVER;
	if (progress->passes == 1 || left_bytes < progress->least_bytes / 10 * 9) {
		progress->least_bytes = left_bytes;
		progress->idle_passes = 0;
		return STOP_NEVER;
	}
	return ++progress->idle_passes == MAX_IDLE_PASSES ? STOP_NO_PROGRESS : STOP_NEVER;
}

/* Passes while the guest runs. One that is open at the end is not sent. */
static int live_passes(struct source *source)
{
	struct progress progress = { 0 };
	struct report *report = &source->report;
	uint64_t pending_bytes;
	int r = begin_pass(source, 0, &pending_bytes);

	while (!r && !report->stop_reason) {
		r = live_pass(source, &pending_bytes);
		if (!r)
			report->stop_reason = stop_reason(source, &progress, pending_bytes);
	}
	report->left_bytes = r ? 0 : pending_bytes;
	return r;
}

static int migrate(struct source *source)
{
	int r = begin_logging(source);

	if (!r)
		r = live_passes(source);
	if (!r) {
		/* It was begun while the guest ran; its pages stay pending. */
		dl_cursor_end(source->cursor, 0);
		r = stop_guest(source);
	}
	if (!r)
		r = send_the_rest(source);
	if (!r)
		r = outlets_finish(&source->outlets);
	if (!r)
		r = handover_state(source);
	return r;
}

/*
 * The migration failed before the switch-over: the guest runs on at the source, without logging. A
 * round over all of its pages shows that it is intact.
 */
static void resume_on_source(struct source *source)
{
	struct report *report = &source->report;
	uint64_t again_ns = 0;

	/* Never again before there is a cursor. */
	report->logging_off = !dl_log_reap(source->log, 0, &again_ns) && again_ns == UINT64_MAX;
	report_line(report, "Migration cancelled; the guest keeps running on the source.");
	if (device_process_resume(&source->device_process))
		report_line(report, "The guest has lost a device: %s.", source->device_process.why);
	if (!machine_pause(source->machine))
		machine_check(source->machine, RUN_ON_LIMIT_NS, &report->resumed_check);
	else
		snprintf(report->resumed_check.why, sizeof(report->resumed_check.why), "%.150s",
			 source->machine->why);
	report->resumed = true;
}

/* Runs the guest and migrates it. If that fails, the guest stays on the source. */
static void run_migration(struct source *source)
{
	struct report *report = &source->report;
	struct timespec warm_up = clock_timespec(WARM_UP_NS);
	int r;

	machine_resume(source->machine);
	/* Let the guest map its pages writable before logging starts: the harder case. */
	nanosleep(&warm_up, NULL);
	throttle_measure(&source->throttle);
	report->start_ns = clock_ns();
	watch_timeline(source->watch, source->log);
	watch_state(source->watch, ACTIVITY_LIVE);
	r = migrate(source);
	report->total_ns = clock_ns() - report->start_ns;
	watch_timeline_end(source->watch);
	audit_end(&source->audit, &report->missed, report->layout.page_bytes);
	report->stats.size = sizeof(report->stats);
	if (dl_log_stats(source->log, &report->stats))
		memset(&report->stats, 0, sizeof(report->stats));
	report->records = machine_records(source->machine);
	report->slot_changes = source->device.slot_changes;
	end_logging(source);
	watch_state(source->watch, r ? ACTIVITY_WAITING : ACTIVITY_HANDOVER);
	if (!r)
		r = handover_prove(source);
	if (!r)
		r = handover_run(source);
	/* From here on the guest belongs to the destination and must not run here again. */
	if (!r)
		return;
	source_wire_error(source);
	report_error(report);
	resume_on_source(source);
}

static void move_guest(struct source *source, const struct host *host)
{
	int r = saboteur_init(&source->saboteur, source->options->sabotage, source->machine);

	if (r)
		(void)fail(source, r, "cannot copy the memory");
	else
		r = guest_start_devices(source, host);
	if (!r && (r = watch_begin(source->watch, source->machine, source->log)))
		(void)fail(source, r, "cannot publish the status");
	if (!r && !handover_hello(source)) {
		report_begin(&source->report);
		run_migration(source);
	}
	source_wire_error(source);
	watch_end(source->watch, report_status(&source->report));
	device_stop(&source->device);
	device_process_end(&source->device_process);
	device_alias_unmap(&source->device);
	saboteur_free(&source->saboteur);
}

int source_run(const struct options *options, const int *fds, pid_t destination_pid,
	       struct host *host, struct watch *watch)
{
	struct source source = {
		.options = options,
		.machine = &host->machine,
		.log = host->log,
		.watch = watch,
	};
	struct sigaction action = { .sa_handler = on_cancel, .sa_flags = (int)SA_RESETHAND };
	const struct sender like = {
		.machine = &host->machine,
		.report = &source.report,
		.saboteur = &source.saboteur,
		.zero_pages = options->zero_pages,
		.bandwidth_bytes_per_s = options->bandwidth_bytes_per_s,
		.cancelled = &cancelled,
		.activity = &watch->activity,
	};
	int status, r = 0;

	if (report_init(&source.report, options)) {
		host_close(host);
		return report_early_failure(options, STATUS_FAILED, "no memory for %u passes",
					    options->passes);
	}
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	wire_init(&source.wire, fds[0]);
	source.wire.cancelled = &cancelled;
	source.report.destination_pid = destination_pid;
	source.throttle = (struct throttle){
		.options = options,
		.machine = &host->machine,
		.outlets = &source.outlets,
		.reaper = &source.reaper,
		.report = &source.report,
		.activity = &watch->activity,
	};
	outlets_init(&source.outlets, &source.wire, fds, options->channels, &like);
	/* A guest that has arrived is there already. */
	if (host->open)
		guest_describe(&source, host);
	else
		r = guest_create(&source, host);
	if (!r)
		move_guest(&source, host);
	host_close(host);
	outlets_close(&source.outlets);
	close(fds[0]);
	watch_report(watch, &source.report);
	status = report_end(&source.report);
	report_free(&source.report);
	return status;
}
