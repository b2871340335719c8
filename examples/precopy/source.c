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
 * The source: a VMM that runs a guest, and moves it while it runs. The way of the migration is
 * migrate() and pass(); what is above them is theirs, what is below sets up and cleans up.
 */

#define WARM_UP_NS	(100 * NS_PER_MS)
#define RUN_ON_LIMIT_NS (10 * NS_PER_S)
#define MIN_RATE_BYTES	(1 << 20) /* what says something about the wire's speed */

enum { RUNS_AT_ONCE = 64 };

static volatile sig_atomic_t cancelled;

static void on_cancel(int number)
{
	(void)number;
	cancelled = 1;
}

/* A failure that is not the wire's own. */
static int failed(struct source *source, int failure, const char *what)
{
	if (*source->report.error)
		return failure;
	snprintf(source->report.error, sizeof(source->report.error), "%s: %s", what,
		 strerror(-failure));
	return failure;
}

/* How much can be sent while the guest stands still, at the speed seen so far. */
static uint64_t fits_bytes(const struct source *source)
{
	return (uint64_t)(source->bytes_per_ns * (double)source->options->downtime_limit_ns);
}

static int send_pending(struct source *source)
{
	struct dl_run runs[RUNS_AT_ONCE];
	struct dl_iter *iter;
	int n, r;

	r = dl_iter_new(source->log, 0, &iter);
	if (r)
		return failed(source, r, "dl_iter_new");
	while ((n = dl_iter_read(iter, runs, RUNS_AT_ONCE)) > 0) {
		r = sender_send_runs(&source->sender, runs, n);
		if (r)
			break;
		r = dl_iter_ack(iter, runs, (uint32_t)n);
		if (r) {
			failed(source, r, "dl_iter_ack");
			break;
		}
	}
	dl_iter_free(iter); /* what was not acknowledged is pending again */
	return n < 0 ? failed(source, n, "dl_iter_read") : r;
}

static struct pass_row *begin_row(struct source *source, bool final)
{
	struct pass_row *row = report_next_row(&source->report);

	row->final = final;
	source->at_pass.size = sizeof(source->at_pass);
	if (dl_log_stats(source->log, &source->at_pass))
		memset(&source->at_pass, 0, sizeof(source->at_pass));
	sender_begin_pass(&source->sender, row);
	return row;
}

static void end_row(struct source *source, struct pass_row *row)
{
	struct dl_stats now = { .size = sizeof(now) };

	if (row->wire_bytes >= MIN_RATE_BYTES && row->ns)
		source->bytes_per_ns = (double)row->wire_bytes / (double)row->ns;
	if (!dl_log_stats(source->log, &now)) {
		row->full_exits = now.full_exits - source->at_pass.full_exits;
		row->overflows = now.overflows - source->at_pass.overflows;
	}
	report_row(&source->report, row);
}

static int harvest(struct source *source, uint32_t flags, uint64_t *pending_bytes)
{
	int r = dl_harvest(source->log, flags, pending_bytes);

	return r ? failed(source, r, "dl_harvest") : 0;
}

/*
 * One pass: learn what is dirty, send it, know that it has arrived. Between two passes everything
 * is in place on the other side, so no page can overtake its older contents. The second harvest
 * tells what was written meanwhile; the next pass takes that, and what is written until then.
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
 * Stops whatever writes guest memory. The vCPUs first, their pending I/O completed, then the
 * devices, which may have to answer it; what saving a device writes is marked like its other writes.
 */
static int stop_guest(struct source *source)
{
	int r;

	saboteur_snapshot(&source->sender.saboteur);
	source->stopped_ns = clock_ns();
	r = machine_pause(&source->machine);
	if (r)
		return failed(source, r, source->machine.why);
	/* Sabotaged, it goes on unmarked, until even a final pass that sends everything is over. */
	if (source->options->sabotage == SABOTAGE_MARK)
		return 0;
	device_stop(&source->device);
	r = device_save(&source->device, &source->device_state);
	if (r)
		return failed(source, r, "dl_mark");
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

	r = dl_log_start(source->log, 0); /* every page counts as dirty */
	if (r)
		return failed(source, r, "dl_log_start");
	do {
		r = pass(source, 0, &remaining_bytes);
	} while (!r && remaining_bytes > fits_bytes(source) && ++passes < source->options->passes);
	if (!r)
		r = stop_guest(source);
	if (!r)
		r = final_pass(source);
	if (!r)
		r = handover_state(source);
	return r;
}

/*
 * The migration failed and the guest is still here: it runs on as if nothing had been. That it does
 * is shown by a round over all of its pages.
 */
static void run_on(struct source *source)
{
	struct report *report = &source->report;
	int r = dl_log_stop(source->log);

	if (r)
		report_say(report, "log      dl_log_stop: %s", strerror(-r));
	report->logging_off = dl_harvest(source->log, 0, NULL) == -ECANCELED;
	report_say(report, "The migration is cancelled, the guest goes on here.");
	if (!machine_pause(&source->machine))
		machine_check(&source->machine, RUN_ON_LIMIT_NS, &report->run_on);
	else
		snprintf(report->run_on.why, sizeof(report->run_on.why), "%.150s",
			 source->machine.why);
	report->ran_on = true;
}

/* With the guest in place: moves it, or keeps it. */
static void move(struct source *source)
{
	struct report *report = &source->report;
	struct timespec warm_up = clock_timespec(WARM_UP_NS);
	uint64_t start_ns;
	int r;

	machine_resume(&source->machine);
	if (device_start(&source->device))
		snprintf(report->error, sizeof(report->error), "no thread for the device");
	/* Its pages are to be mapped, and writable, before logging begins: the harder case. */
	nanosleep(&warm_up, NULL);
	start_ns = clock_ns();
	r = migrate(source);
	report->total_ns = clock_ns() - start_ns;
	report->stats.size = sizeof(report->stats);
	if (dl_log_stats(source->log, &report->stats))
		memset(&report->stats, 0, sizeof(report->stats));
	report->records = machine_records(&source->machine);
	if (!r) {
		/* The guest stands still and has been sent. Logging has nothing more to do. */
		if (dl_log_stop(source->log))
			report_say(report, "log      it could not be stopped");
		r = handover_prove(source);
	}
	if (!r) {
		/* From here on the guest is the destination's. It must never run here again. */
		handover_run(source);
		return;
	}
	source_wire_error(source);
	report_error(report);
	run_on(source);
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
		snprintf(report->error, sizeof(report->error), "the dirty log: %.280s",
			 *report->reason ? report->reason : strerror(-r));
		return r;
	}
	report->config.size = sizeof(report->config);
	r = dl_log_config(source->log, &report->config);
	return r ? failed(source, r, "dl_log_config") : 0;
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
		move(source);
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
	dl_log_close(source->log); /* before the VM goes */
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
