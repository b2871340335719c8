/* SPDX-License-Identifier: MIT */
#include "source.h"
#include "clock.h"
#include "device.h"
#include "handover.h"
#include "send.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * The source: a VMM that runs a guest and migrates it while it runs. migrate() and pass() are the
 * migration; their helpers are above them, setup and cleanup below.
 */

#define WARM_UP_NS	(100 * NS_PER_MS)
#define RUN_ON_LIMIT_NS (10 * NS_PER_S)
#define MIN_RATE_BYTES	(1 << 20) /* enough to measure the wire's speed */

enum { RUNS_PER_READ = 64 };

static volatile sig_atomic_t cancelled;

static void on_cancel(int number)
{
	(void)number;
	cancelled = 1;
}

/* Reports a failure other than one of the wire. */
static int fail(struct source *source, int failure, const char *what)
{
	if (*source->report.error)
		return failure;
	snprintf(source->report.error, sizeof(source->report.error), "%s: %s", what,
		 strerror(-failure));
	return failure;
}

/* The bytes that can be sent within the downtime limit at the measured speed of the wire. */
static uint64_t downtime_budget_bytes(const struct source *source)
{
	return (uint64_t)(source->bytes_per_ns * (double)source->options->downtime_limit_ns);
}

static int send_pending(struct source *source)
{
	struct dl_run runs[RUNS_PER_READ];
	struct dl_iter *iter;
	int n, r;

	r = dl_iter_new(source->log, 0, &iter);
	if (r)
		return fail(source, r, "dl_iter_new");
	while ((n = dl_iter_read(iter, runs, RUNS_PER_READ)) > 0) {
		r = sender_send_runs(&source->sender, runs, n);
		if (r)
			break;
		r = dl_iter_ack(iter, runs, (uint32_t)n);
		if (r) {
			fail(source, r, "dl_iter_ack");
			break;
		}
	}
	dl_iter_free(iter); /* unacknowledged pages become pending again */
	return n < 0 ? fail(source, n, "dl_iter_read") : r;
}

static struct pass_row *begin_row(struct source *source, bool final)
{
	struct pass_row *row = report_next_row(&source->report);

	row->final = final;
	source->pass_stats.size = sizeof(source->pass_stats);
	if (dl_log_stats(source->log, &source->pass_stats))
		memset(&source->pass_stats, 0, sizeof(source->pass_stats));
	sender_begin_pass(&source->sender, row);
	return row;
}

static void end_row(struct source *source, struct pass_row *row)
{
	struct dl_stats now = { .size = sizeof(now) };

	if (row->wire_bytes >= MIN_RATE_BYTES && row->ns)
		source->bytes_per_ns = (double)row->wire_bytes / (double)row->ns;
	if (!dl_log_stats(source->log, &now)) {
		row->full_exits = now.full_exits - source->pass_stats.full_exits;
		row->overflows = now.overflows - source->pass_stats.overflows;
	}
	report_row(&source->report, row);
}

static int harvest(struct source *source, uint32_t flags, uint64_t *pending_bytes)
{
	int r = dl_harvest(source->log, flags, pending_bytes);

	return r ? fail(source, r, "dl_harvest") : 0;
}

/*
 * One pass: harvest the dirty pages, send them, wait until the destination has them in place. A
 * pass is in place before the next one begins, so that older contents never overwrite newer ones.
 * The second harvest counts the pages written meanwhile; the next pass sends them, along with the
 * pages written until it begins.
 */
static int pass(struct source *source, uint32_t flags, uint64_t *remaining_bytes)
{
	bool final = flags & DL_HARVEST_FINAL;
	struct pass_row *row = begin_row(source, final);
	int r;

	if (!final)
		saboteur_snapshot(&source->sender.saboteur);
	r = harvest(source, flags, &row->dirty_bytes);
	if (!r)
		r = send_pending(source);
	if (!r)
		r = sender_end_pass(&source->sender);
	if (!r && !final)
		r = harvest(source, 0, &row->remaining_bytes);
	if (r)
		return r;
	*remaining_bytes = row->remaining_bytes;
	end_row(source, row);
	return source_guest_failure(source);
}

/*
 * Stops everything that writes guest memory: first the vCPUs, completing their pending I/O, then
 * the devices, which may have to serve that I/O. What saving a device writes is marked as well.
 */
static int stop_guest(struct source *source)
{
	int r;

	saboteur_snapshot(&source->sender.saboteur);
	source->stopped_ns = clock_ns();
	r = machine_pause(&source->machine);
	if (r)
		return fail(source, r, source->machine.why);
	/* The sabotaged device keeps writing, unmarked, until the final pass is over. */
	if (source->options->sabotage == SABOTAGE_MARK)
		return 0;
	device_stop(&source->device);
	r = device_save(&source->device, &source->device_state);
	if (r)
		return fail(source, r, "dl_mark_gpa");
	return 0;
}

static int final_pass(struct source *source)
{
	uint64_t none;
	int r = 0;

	if (source->options->sabotage != SABOTAGE_FINAL)
		r = pass(source, DL_HARVEST_FINAL, &none);
	if (source->options->sabotage == SABOTAGE_MARK) {
		device_stop(&source->device);
		(void)device_save(&source->device, &source->device_state);
	}
	return r;
}

static int migrate(struct source *source)
{
	uint64_t remaining_bytes;
	uint32_t passes = 0;
	int r;

	r = dl_log_start(source->log, 0); /* every page is dirty at the start */
	if (r)
		return fail(source, r, "dl_log_start");
	do {
		r = pass(source, 0, &remaining_bytes);
	} while (!r && remaining_bytes > downtime_budget_bytes(source) &&
		 ++passes < source->options->passes);
	if (!r)
		r = stop_guest(source);
	if (!r)
		r = final_pass(source);
	if (!r)
		r = handover_state(source);
	return r;
}

/*
 * The migration failed before the switch-over: stop logging and resume the guest on the source. A
 * round over all of its pages shows that it is intact.
 */
static void resume_on_source(struct source *source)
{
	struct report *report = &source->report;
	int r = dl_log_stop(source->log);

	if (r)
		report_field(report, "log", "dl_log_stop: %s", strerror(-r));
	report->logging_off = dl_harvest(source->log, 0, NULL) == -ECANCELED;
	report_line(report, "Migration cancelled; the guest keeps running on the source.");
	if (!machine_pause(&source->machine))
		machine_check(&source->machine, RUN_ON_LIMIT_NS, &report->resumed_check);
	else
		snprintf(report->resumed_check.why, sizeof(report->resumed_check.why), "%.150s",
			 source->machine.why);
	report->resumed = true;
}

/* Runs the guest and migrates it. If that fails, the guest stays on the source. */
static void run_migration(struct source *source)
{
	struct report *report = &source->report;
	struct timespec warm_up = clock_timespec(WARM_UP_NS);
	uint64_t start_ns;
	int r;

	machine_resume(&source->machine);
	r = device_start(&source->device);
	if (r)
		snprintf(report->error, sizeof(report->error), "cannot start the device thread: %s",
			 strerror(-r));
	/* Let the guest map its pages writable before logging starts: the harder case. */
	nanosleep(&warm_up, NULL);
	start_ns = clock_ns();
	r = migrate(source);
	report->total_ns = clock_ns() - start_ns;
	report->stats.size = sizeof(report->stats);
	if (dl_log_stats(source->log, &report->stats))
		memset(&report->stats, 0, sizeof(report->stats));
	report->records = machine_records(&source->machine);
	if (!r) {
		/* The guest is stopped and completely sent, so logging is no longer needed. */
		if (dl_log_stop(source->log))
			report_field(report, "log", "cannot stop logging");
		r = handover_prove(source);
	}
	if (!r) {
		/* From here on the guest belongs to the destination and must not run here again. */
		handover_run(source);
		return;
	}
	source_wire_error(source);
	report_error(report);
	resume_on_source(source);
}

static int open_log(struct source *source)
{
	const struct options *options = source->options;
	struct report *report = &source->report;
	struct dl_options wanted = { .size = sizeof(wanted),
				     .mode = options->mode,
				     .backup = options->backup,
				     .ring_entries = options->ring_entries,
				     .os = source->machine.os };
	int r;

	r = dl_log_open(source->machine.vm_fd, &wanted, &source->log, report->reason,
			sizeof(report->reason));
	if (r) {
		snprintf(report->error, sizeof(report->error), "cannot open the dirty log: %.280s",
			 *report->reason ? report->reason : strerror(-r));
		return r;
	}
	report->config.size = sizeof(report->config);
	r = dl_log_config(source->log, &report->config);
	return r ? fail(source, r, "dl_log_config") : 0;
}

static void run_machine(struct source *source)
{
	const struct options *options = source->options;
	struct report *report = &source->report;
	int r;

	r = open_log(source);
	if (r)
		return;
	r = machine_plug(&source->machine, source->log);
	if (!r)
		r = machine_boot(&source->machine, options->pattern, options->dirty_bytes_per_s);
	if (!r)
		r = machine_start(&source->machine);
	if (r)
		snprintf(report->error, sizeof(report->error), "%s", source->machine.why);
	if (!r)
		r = saboteur_init(&source->sender.saboteur, options->sabotage, &source->machine);
	device_init(&source->device, &source->machine, source->log);
	source->device.skip_marks = options->sabotage == SABOTAGE_MARK;
	if (!r && !handover_hello(source)) {
		report_begin(report);
		run_migration(source);
	}
	source_wire_error(source);
	device_stop(&source->device);
	saboteur_free(&source->sender.saboteur);
}

static void open_machine(struct source *source)
{
	const struct options *options = source->options;
	struct report *report = &source->report;
	const struct machine_kind *kind;
	char why[200];

	kind = machine_choose(options->backend, report->backend_note, sizeof(report->backend_note));
	if (!kind) {
		snprintf(report->error, sizeof(report->error), "%s", report->backend_note);
		return;
	}
	snprintf(report->backend, sizeof(report->backend), "%s", kind->name);
	if (layout_make(&report->layout, options->memory_bytes, options->working_set_bytes,
			options->vcpus, (uint32_t)sysconf(_SC_PAGESIZE), why, sizeof(why))) {
		snprintf(report->error, sizeof(report->error), "%s", why);
		return;
	}
	if (machine_open(&source->machine, kind, &report->layout, options->guest_user)) {
		snprintf(report->error, sizeof(report->error), "%s", source->machine.why);
		return;
	}
	source->sender.machine = &source->machine;
	run_machine(source);
	dl_log_close(source->log); /* before the VM is closed */
	machine_close(&source->machine);
}

int source_run(const struct options *options, int fd, pid_t destination_pid)
{
	struct source source = { .options = options };
	struct sigaction action = { .sa_handler = on_cancel, .sa_flags = (int)SA_RESETHAND };
	int status;

	if (report_init(&source.report, options))
		return STATUS_FAILED;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	wire_init(&source.wire, fd);
	source.report.destination_pid = destination_pid;
	source.sender.wire = &source.wire;
	source.sender.report = &source.report;
	source.sender.zero_pages = options->zero_pages;
	source.sender.bandwidth_bytes_per_s = options->bandwidth_bytes_per_s;
	source.sender.cancelled = &cancelled;
	open_machine(&source);
	close(fd);
	status = report_end(&source.report);
	report_free(&source.report);
	return status;
}
