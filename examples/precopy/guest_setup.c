/* SPDX-License-Identifier: MIT */
#include "guest_setup.h"
#include "device_alias.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Creates the guest, in its machine. */
static int boot(struct source *source)
{
	const struct options *options = source->options;
	int r = machine_plug(source->machine, source->log);

	source->machine->readers = options->readers;
	if (!r)
		r = machine_boot(source->machine, options->pattern, options->dirty_bytes_per_s);
	if (!r)
		r = machine_start(source->machine);
	if (r)
		snprintf(source->report.error, sizeof(source->report.error), "%s",
			 source->machine->why);
	return r;
}

static int watch_device(struct source *source)
{
	struct device *device = &source->device;
	char words[200] = "";
	int r = device_alias_map(device);

	if (r) {
		snprintf(source->report.error, sizeof(source->report.error),
			 "cannot map the device's memory twice: %s", strerror(-r));
		return r;
	}
	r = device_alias_watch(device);
	if (!r && device->audits)
		r = audit_begin(&source->audit, source->log);
	if (!r)
		return 0;
	(void)!dl_log_last_error(source->log, words, sizeof(words));
	snprintf(source->report.error, sizeof(source->report.error), "cannot watch: %s", words);
	return r;
}

static int start_process(struct source *source)
{
	struct device_process *process = &source->device_process;
	int r = device_process_start(process, source->machine, source->wire.cancelled,
				     &source->report.process);

	process->drops_log = source->options->sabotage == SABOTAGE_LOG;
	if (r)
		snprintf(source->report.error, sizeof(source->report.error), "%s", process->why);
	return r;
}

int guest_start_devices(struct source *source, const struct host *host)
{
	const struct options *options = source->options;
	struct device *device = &source->device;
	int r;

	device_init(device, source->machine, source->log);
	device->state = host->device_state;
	device->skip_marks = options->watch || options->sabotage == SABOTAGE_MARK;
	device->audits = options->watch && options->sabotage == SABOTAGE_MARK;
	device->skip_discards = options->sabotage == SABOTAGE_DISCARD;
	device->moves_slot = options->slot_moves;
	r = options->watch ? watch_device(source) : 0;
	if (r)
		return r;
	r = device_start(device);
	if (r)
		snprintf(source->report.error, sizeof(source->report.error),
			 "cannot start the device thread: %s", strerror(-r));
	return r || !options->device_process ? r : start_process(source);
}

void guest_describe(struct source *source, const struct host *host)
{
	struct report *report = &source->report;
	const struct machine *machine = &host->machine;

	snprintf(report->backend, sizeof(report->backend), "%s", machine->kind->name);
	snprintf(report->reason, sizeof(report->reason), "%s", host->reason);
	report->config = host->config;
	report->layout = machine->layout;
	report->guest_user = machine->guest_user;
}

int guest_create(struct source *source, struct host *host)
{
	const struct options *options = source->options;
	const struct dl_options wanted = { .size = sizeof(wanted),
					   .mode = options->mode,
					   .backup = options->backup,
					   .ring_entries = options->ring_entries };
	struct report *report = &source->report;
	const struct machine_kind *kind;
	struct layout layout;
	int r;

	kind = machine_choose(options->backend, report->backend_note, sizeof(report->backend_note));
	if (!kind) {
		snprintf(report->error, sizeof(report->error), "%s", report->backend_note);
		return -ENODEV;
	}
	r = layout_make(&layout, options->memory_bytes, options->working_set_bytes, options->vcpus,
			(uint32_t)sysconf(_SC_PAGESIZE), report->error, sizeof(report->error));
	if (r)
		return r;
	report->layout = layout;
	report->guest_user = options->guest_user;
	snprintf(report->backend, sizeof(report->backend), "%s", kind->name);
	r = host_open(host, kind, &layout, options->guest_user);
	if (!r && options->device_process)
		r = machine_share_memory(&host->machine);
	if (r) {
		snprintf(report->error, sizeof(report->error), "%s", host->machine.why);
		return r;
	}
	r = host_open_log(host, &wanted, report->error, sizeof(report->error));
	guest_describe(source, host);
	source->log = host->log;
	return r ? r : boot(source);
}
