/* SPDX-License-Identifier: MIT */
#include "../clock.h"
#include "beside.h"
#include "commands.h"
#include "image.h"
#include "proof.h"
#include "reaper.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A VMM that takes points of its guest while that runs. How a point is taken is in take.c. */

enum { MAX_LOST = 10 /* points in a row, where a number of them is wanted */ };

struct run {
	struct options *options;
	struct report *report;
	int dir_fd;
	struct chain chain;
	const struct point *parent; /* the point that the guest continues, or NULL */
	struct host host;
	struct device device;
	struct reaper reaper;
	struct beside beside;
	struct writer writer;
	struct taker taker;
	sigset_t signals;
	uint64_t start_ns, start_records;
	bool base_is_due; /* until one is complete */
	bool last_complete;
};

static int fail(struct run *run, int status, const char *why)
{
	return report_error(run->report, status, "%s", why);
}

/*
 * The guest must not fall back to an older point without being asked: what is wrong with a newer
 * one may be over tomorrow.
 */
static int find_parent(struct run *run)
{
	struct chain *chain = &run->chain;
	const struct point *last, **path = NULL;
	uint64_t number = run->options->point;
	uint32_t n;
	int r = chain_find(chain, number, &run->parent);

	if (r)
		return fail(run, STATUS_FAILED, chain->why);
	last = number ? run->parent : &chain->points[chain->n - 1];
	r = chain_path(chain, last, &path, &n);
	free(path);
	if (r && number)
		return fail(run, r == -EBADMSG ? STATUS_CORRUPT : STATUS_FAILED, chain->why);
	if (r)
		return report_error(run->report, STATUS_FAILED,
				    "%s; --point %" PRIu64 " goes on from the last point before it "
				    "that can be restored",
				    chain->why, run->parent->number);
	return STATUS_DONE;
}

static int open_directory(struct run *run)
{
	const struct fault no_fault = { 0 };
	struct options *options = run->options;
	struct disk disk;
	char why[200];
	int r = disk_make_dir(options->directory);

	if (r)
		return report_error(run->report, STATUS_FAILED, "cannot make %.120s: %s",
				    options->directory, strerror(-r));
	run->dir_fd = chain_open_dir(options->directory, true, why, sizeof(why));
	if (run->dir_fd < 0)
		return fail(run, STATUS_FAILED, why);
	disk_init(&disk, run->dir_fd, &no_fault);
	if (finish_merge(&disk, run->report))
		return STATUS_FAILED;
	if (chain_load(&run->chain, run->dir_fd))
		return fail(run, STATUS_FAILED, run->chain.why);
	if (!options->go_on && run->chain.n)
		return fail(run, STATUS_FAILED,
			    "there are points in the directory: --continue, or take another one");
	return options->go_on ? find_parent(run) : STATUS_DONE;
}

static int open_log(struct run *run)
{
	const struct dl_options wanted = { .size = sizeof(wanted),
					   .mode = run->options->mode,
					   .ring_entries = run->options->ring_entries };
	char why[320];

	if (host_open_log(&run->host, &wanted, why, sizeof(why)))
		return fail(run, STATUS_FAILED, why);
	return STATUS_DONE;
}

/* A new guest, as the options describe it. */
static int create(struct run *run)
{
	const struct options *options = run->options;
	const struct machine_kind *kind;
	struct layout layout;
	char why[320];

	kind = machine_choose(options->backend, why, sizeof(why));
	if (!kind || layout_make(&layout, options->memory_bytes, options->working_set_bytes,
				 options->vcpus, (uint32_t)sysconf(_SC_PAGESIZE), why, sizeof(why)))
		return fail(run, STATUS_FAILED, why);
	if (*why)
		report_field(run->report, "kernel", "model kernel: %s", why);
	if (host_open(&run->host, kind, &layout, options->guest_user))
		return fail(run, STATUS_FAILED, run->host.machine.why);
	return open_log(run);
}

/* Memory that the guest does not write to gets contents that no two pages share. */
static void fill(struct machine *machine)
{
	const struct layout *layout = &machine->layout;
	uint64_t at = layout->slots[1].offset_bytes;
	uint64_t working_end =
		layout->working_offset + layout->vcpus * layout->share_pages * layout->page_bytes;

	for (; at < layout->device_offset; at += layout->page_bytes)
		if (at < layout->working_offset || at >= working_end)
			memset(machine->memory + at, (int)(at / layout->page_bytes % 255) + 1,
			       layout->page_bytes);
}

static int boot(struct run *run)
{
	const struct options *options = run->options;
	struct machine *machine = &run->host.machine;
	int r = machine_plug(machine, run->host.log);

	if (!r)
		r = machine_boot(machine, options->pattern, options->dirty_bytes_per_s);
	if (!r && options->fill)
		fill(machine);
	if (!r)
		r = machine_start(machine);
	device_init(&run->device, machine, run->host.log);
	return r ? fail(run, STATUS_FAILED, machine->why) : STATUS_DONE;
}

/* The guest of the last point goes on; what is pending for its cursor is what it writes now. */
static int go_on(struct run *run)
{
	const struct snap_header *header = &run->parent->header;
	struct machine *machine = &run->host.machine;
	struct snap_state state;
	char why[256];
	int r;

	run->options->working_set_bytes = header->working_set_bytes;
	if (restore_open(&run->host, header, why, sizeof(why)))
		return fail(run, STATUS_FAILED, why);
	if (open_log(run))
		return STATUS_FAILED;
	r = image_restore(&run->chain, run->parent, machine->memory, &state);
	if (r)
		return fail(run, r == -EBADMSG ? STATUS_CORRUPT : STATUS_FAILED, run->chain.why);
	r = machine_plug(machine, run->host.log);
	if (!r)
		r = machine_start(machine);
	if (!r)
		r = machine_load(machine, state.vcpus);
	if (r)
		return fail(run, STATUS_FAILED, machine->why);
	device_init(&run->device, machine, run->host.log);
	if (!device_load(&run->device, &state.device, why, sizeof(why)))
		return fail(run, STATUS_CORRUPT, why);
	return STATUS_DONE;
}

static int start_guest(struct run *run)
{
	int status = run->parent ? go_on(run) : create(run);

	if (!status && !run->parent)
		status = boot(run);
	if (status)
		return status;
	run->device.skip_marks = run->options->sabotage == SABOTAGE_MARK;
	run->device.skip_discards = run->options->sabotage == SABOTAGE_DISCARD;
	run->device.moves_slot = run->options->slot_moves;
	return STATUS_DONE;
}

/* The cursors come before anything runs: they see all that is written. */
static int start_logging(struct run *run)
{
	const struct options *options = run->options;
	char why[256];

	if (options->no_log)
		return STATUS_DONE;
	if (taker_init(&run->taker, options, &run->host, &run->device, &run->writer,
		       run->parent ? &run->parent->header : NULL, why, sizeof(why)))
		return fail(run, STATUS_FAILED, why);
	if (run->chain.n)
		run->taker.last_number = run->chain.points[run->chain.n - 1].number;
	if (reaper_start(&run->reaper, &run->host.machine, run->host.log))
		return fail(run, STATUS_FAILED, "cannot serve the log's descriptor");
	if (options->beside && beside_start(&run->beside, &run->host, why, sizeof(why)))
		return fail(run, STATUS_FAILED, why);
	return STATUS_DONE;
}

static int start(struct run *run)
{
	int status = start_guest(run);

	if (!status && writer_start(&run->writer))
		status = fail(run, STATUS_FAILED, run->writer.why);
	if (!status)
		status = start_logging(run);
	if (!status && device_start(&run->device))
		status = fail(run, STATUS_FAILED, "cannot start the device thread");
	return status;
}

static void describe(struct run *run)
{
	const struct layout *layout = &run->host.machine.layout;
	const struct options *options = run->options;
	uint64_t working_bytes = layout->share_pages * layout->vcpus * layout->page_bytes;
	char from[64] = "a new guest";

	if (run->parent)
		snprintf(from, sizeof(from), "continues point %" PRIu64, run->parent->number);
	report_field(run->report, "guest",
		     "%s: %u vCPU%s, %" PRIu64 " MiB, dirties %" PRIu64 " MiB; %s", from,
		     layout->vcpus, layout->vcpus > 1 ? "s" : "", layout->memory_bytes >> 20,
		     working_bytes >> 20, run->host.machine.kind->name);
	report_field(run->report, "log", "%s", run->host.reason);
	if (options->passes)
		report_field(run->report, "pause", "after %u pass%s beside the guest; %s",
			     options->passes, options->passes > 1 ? "es" : "",
			     options->pause_copy ? "what is left is copied, and written later"
						 : "what is left is written in it");
	else
		report_field(run->report, "pause", "for all of a point: %s",
			     options->pause_copy ? "copied, and written later" : "written in it");
	if (options->sabotage)
		report_field(run->report, "sabotage", "%s",
			     options_sabotage_name(options->sabotage));
}

/* Waits until a point is due. Returns true if a signal says that it is the last. */
static bool wait_until(struct run *run, uint64_t due_ns)
{
	for (;;) {
		uint64_t now_ns = clock_ns();
		struct timespec left = clock_timespec(due_ns > now_ns ? due_ns - now_ns : 0);

		if (sigtimedwait(&run->signals, NULL, &left) >= 0)
			return true;
		if (errno == EAGAIN)
			return false;
	}
}

static int guest_failure(struct run *run)
{
	char why[200];

	if (machine_failure(&run->host.machine, why, sizeof(why)))
		return report_error(run->report, STATUS_CORRUPT, "%s", why);
	return STATUS_DONE;
}

/* complete: the number of complete points before this one. */
static int take_one(struct run *run, uint32_t complete, bool last, struct taken *taken)
{
	uint32_t every = run->options->full_every;
	int r;

	report_progress(run->report, "  point %" PRIu64 " ...", run->taker.last_number + 1);
	if (every && complete % every == 0)
		run->base_is_due = true;
	r = taker_take(&run->taker, run->base_is_due, last, taken);
	report_taken(run->report, taken);
	run->last_complete = taken->complete;
	if (taken->complete)
		run->base_is_due = false;
	if (r)
		return report_error(run->report, STATUS_FAILED, "%s", taken->why);
	return guest_failure(run);
}

/* A guest without points, for what logging costs it. */
static int only_run(struct run *run)
{
	(void)wait_until(run, clock_ns() + run->options->count * run->options->interval_ns);
	if (machine_pause(&run->host.machine))
		return fail(run, STATUS_FAILED, run->host.machine.why);
	return guest_failure(run);
}

/*
 * A lost point is taken again, and does not count. Where all are lost, a number of points would
 * never be reached; a run that waits for a signal goes on, as the disk may have room tomorrow.
 */
static int count_lost(struct run *run, const struct taken *taken, uint32_t *lost)
{
	*lost = taken->complete ? 0 : *lost + 1;
	if (*lost == MAX_LOST && run->options->count)
		return report_error(run->report, STATUS_FAILED,
				    "%u points in a row were lost: %.160s", *lost, taken->why);
	return STATUS_DONE;
}

static int take_all(struct run *run)
{
	const struct options *options = run->options;
	uint32_t complete = 0, lost = 0;
	uint64_t due_ns = clock_ns();
	int status = STATUS_DONE;
	struct taken taken;
	bool ends = false;

	report_taken_head(run->report);
	report_rows(run->report, "points");
	while (!status && !ends && (!options->count || complete < options->count)) {
		due_ns += options->interval_ns;
		taker_resume(&run->taker);
		ends = wait_until(run, due_ns);
		status = take_one(run, complete, ends || complete + 1 == options->count, &taken);
		complete += taken.complete;
		if (!status)
			status = count_lost(run, &taken, &lost);
		/* No catching up: what took longer than the interval is followed by a whole one. */
		if (due_ns + options->interval_ns < clock_ns())
			due_ns = clock_ns();
	}
	report_rows_end(run->report);
	return status;
}

static void print_guest(struct run *run)
{
	uint64_t ns = clock_ns() - run->start_ns;
	uint64_t records = machine_records(&run->host.machine) - run->start_records;
	struct dl_stats stats = { .size = sizeof(stats) };

	if (dl_log_stats(run->host.log, &stats))
		return;
	report_member(run->report, "records", "%" PRIu64, records);
	report_member(run->report, "guest_ms", "%.3f", (double)ns / 1e6);
	report_member(run->report, "full_exits", "%" PRIu64, stats.full_exits);
	report_member(run->report, "overflows", "%" PRIu64, stats.overflows);
	report_member(run->report, "mode", "\"%s\"", options_mode_name(run->host.config.mode));
	report_member(run->report, "slot_changes", "%" PRIu64, run->device.slot_changes);
	report_member(run->report, "steps", "%" PRIu64, run->writer.disk.steps);
	report_member(run->report, "faults", "%" PRIu64, run->writer.disk.injected);
	report_line(run->report, "%s", "");
	report_field(run->report, "guest",
		     "wrote %" PRIu64 " records in %.1f s; %" PRIu64 " full exits, %" PRIu64
		     " overflows",
		     records, (double)ns / 1e9, stats.full_exits, stats.overflows);
}

static int compare_beside(struct run *run)
{
	char why[160];
	int64_t differ = beside_end(&run->beside, why, sizeof(why));

	if (differ < 0)
		return fail(run, STATUS_FAILED, why);
	report_member(run->report, "beside_differing_pages", "%" PRId64, differ);
	report_member(run->report, "beside_passes", "[%" PRIu64 ", %" PRIu64 "]",
		      run->beside.consumers[0].passes, run->beside.consumers[1].passes);
	if (differ)
		return report_error(run->report, STATUS_CORRUPT,
				    "%" PRId64 " pages of the consumers beside differ", differ);
	report_field(run->report, "beside",
		     "a migration of %" PRIu64 " passes and a display of %" PRIu64
		     " have the same memory",
		     run->beside.consumers[0].passes, run->beside.consumers[1].passes);
	return STATUS_DONE;
}

static int verify(struct run *run)
{
	int status = STATUS_DONE;

	if (run->options->beside)
		status = compare_beside(run);
	if (!run->last_complete)
		return status ? status : fail(run, STATUS_FAILED, "the last point is not complete");
	if (!status && run->options->prove != PROVE_NONE)
		status = prove_last(&run->chain, run->dir_fd, &run->host.machine,
				    run->taker.parent.number, run->report);
	if (!status && run->options->prove == PROVE_ALL)
		status = prove_all(&run->chain, run->report);
	return status;
}

static int run_guest(struct run *run)
{
	int status;

	describe(run);
	run->start_ns = clock_ns();
	run->start_records = machine_records(&run->host.machine);
	machine_resume(&run->host.machine);
	if (run->options->log_only || run->options->no_log) {
		status = only_run(run);
		print_guest(run);
		return status;
	}
	status = take_all(run);
	print_guest(run);
	return status ? status : verify(run);
}

static void stop(struct run *run)
{
	/* After the last point it is paused still. Its thread ends while there is memory. */
	if (run->taker.stopped)
		device_resume(&run->device);
	device_stop(&run->device);
	writer_close(&run->writer);
	beside_free(&run->beside);
	reaper_stop(&run->reaper);
	taker_free(&run->taker);
	if (run->host.open)
		host_close(&run->host);
	chain_free(&run->chain);
	if (run->dir_fd >= 0)
		close(run->dir_fd);
}

int command_run(struct options *options, struct report *report)
{
	struct run run = {
		.options = options, .report = report, .dir_fd = -1, .writer = { .fd = -1 }
	};
	int status;

	/* They are waited for, in the main thread. */
	sigemptyset(&run.signals);
	sigaddset(&run.signals, SIGINT);
	sigaddset(&run.signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &run.signals, NULL);
	status = open_directory(&run);
	if (!status) {
		writer_init(&run.writer, run.dir_fd, options->own_process, &options->fault,
			    options->sabotage == SABOTAGE_IN_PLACE);
		status = start(&run);
		if (!status)
			status = run_guest(&run);
	}
	stop(&run);
	return status;
}
