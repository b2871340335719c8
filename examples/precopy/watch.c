/* SPDX-License-Identifier: MIT */
#include "watch.h"
#include "html_report.h"
#include "page_file.h"

#include <stdio.h>
#include <stdlib.h>

#include <string.h>

int watch_open(struct watch *watch, const struct options *options)
{
	char why[256];

	memset(watch, 0, sizeof(*watch));
	watch->options = options;
	if (options->status) {
		watch->status = status_open(options->status, why, sizeof(why));
		if (!watch->status) {
			report_early_failure(options, STATUS_FAILED, "%s", why);
			return -1;
		}
	}
	if (options->report && page_file_check(options->report, why, sizeof(why))) {
		report_early_failure(options, STATUS_FAILED, "%s", why);
		status_close(watch->status);
		return -1;
	}
	return 0;
}

int watch_begin(struct watch *watch, const struct machine *machine, const struct dl_log *log)
{
	const struct layout *layout = &machine->layout;
	struct status_source source = {
		.program = "precopy",
		.log = log,
		.activity = &watch->activity,
	};

	heat_init(&watch->activity.heat, layout->page_bytes);
	for (uint32_t i = 0; i < LAYOUT_SLOTS; i++)
		heat_add_slot(&watch->activity.heat, i, layout->slots[i].gpa,
			      layout->slots[i].bytes);
	for (uint32_t i = 0; i < layout->vcpus; i++)
		source.vcpus[source.n_vcpus++] =
			(struct status_vcpu){ machine->vcpus[i].log_vcpu, i };
	return status_start(watch->status, &source);
}

void watch_cursor(struct watch *watch, const struct dl_cursor *cursor)
{
	status_set_cursor(watch->status, cursor);
}

void watch_state(struct watch *watch, enum activity_state state)
{
	atomic_store_explicit(&watch->activity.state, state, memory_order_relaxed);
}

void watch_end(struct watch *watch, int status)
{
	status_end(watch->status, options_status_name(status));
}

void watch_copied(struct watch *watch)
{
	for (uint32_t i = 0; i < watch->activity.heat.n_cells; i++)
		watch->copied[i] = watch->activity.heat.pages[i];
	watch->has_copied = true;
}

void watch_timeline(struct watch *watch, const struct dl_log *log)
{
	/* Without it, the page lacks a chart. */
	if (watch->options->report)
		(void)timeline_start(&watch->timeline, log, &watch->activity);
}

void watch_timeline_end(struct watch *watch)
{
	timeline_stop(&watch->timeline);
}

void watch_report(struct watch *watch, struct report *report)
{
	char why[256], *text;
	size_t bytes;

	if (!watch->options->report || watch->reported)
		return;
	watch->reported = true;
	text = html_report_make(report, watch, &bytes);
	if (!text || page_file_write(watch->options->report, text, bytes, why, sizeof(why))) {
		report->unwritten = true;
		report_print_error("%s", text ? why : "no memory for the page of --report");
	}
	free(text);
}

/* The page of a migration that never began. */
static void report_early(struct watch *watch)
{
	struct report report;

	if (!watch->options->report || watch->reported || report_init(&report, watch->options))
		return;
	snprintf(report.error, sizeof(report.error), "%.300s", report_early_error());
	watch_report(watch, &report);
	report_free(&report);
}

int watch_close(struct watch *watch, int status)
{
	report_early(watch);
	status_close(watch->status);
	return status;
}
