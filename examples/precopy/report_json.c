/* SPDX-License-Identifier: MIT */
#include "report_json.h"
#include "../output.h"
#include "report_throttle.h"

#include <inttypes.h>
#include <stdio.h>

static void print_string(const char *name, const char *text)
{
	printf("  \"%s\": ", name);
	output_json_string(text);
	printf(",\n");
}

static void print_number(const char *name, uint64_t value)
{
	printf("  \"%s\": %" PRIu64 ",\n", name, value);
}

static void print_bool(const char *name, bool value)
{
	printf("  \"%s\": %s,\n", name, value ? "true" : "false");
}

static void print_row(const struct report *report, uint32_t i)
{
	const struct pass_row *row = &report->rows[i];
	double seconds = (double)row->ns / 1e9;

	printf("    { \"pass\": %u, \"final\": %s, \"dirty_bytes\": %" PRIu64
	       ", \"sent_pages\": %" PRIu64 ", \"zero_pages\": %" PRIu64
	       ", \"wire_bytes\": %" PRIu64 ", \"start_ns\": %" PRIu64 ", \"ns\": %" PRIu64
	       ", \"mib_per_s\": %.1f, \"remaining_bytes\": %" PRIu64 ", \"full_exits\": %" PRIu64
	       ", \"overflows\": %" PRIu64 ", \"logged_pages\": %" PRIu64 " }%s\n",
	       i + 1, row->final ? "true" : "false", row->dirty_bytes, row->sent_pages,
	       row->zero_pages, row->wire_bytes, row->start_ns, row->ns,
	       seconds > 0 ? (double)row->wire_bytes / (1 << 20) / seconds : 0,
	       row->remaining_bytes, row->full_exits, row->overflows, row->logged_pages,
	       i + 1 < report->row_count ? "," : "");
}

static void print_rows(const struct report *report)
{
	uint64_t sent_pages = 0, zero_pages = 0, wire_bytes = 0;
	uint32_t i;

	printf("  \"passes\": [\n");
	for (i = 0; i < report->row_count; i++) {
		sent_pages += report->rows[i].sent_pages;
		zero_pages += report->rows[i].zero_pages;
		wire_bytes += report->rows[i].wire_bytes;
		print_row(report, i);
	}
	printf("  ],\n");
	print_number("pages_sent", sent_pages);
	print_number("zero_pages", zero_pages);
	print_number("wire_bytes", wire_bytes);
}

static void print_setup(const struct report *report)
{
	const struct options *options = report->options;
	const struct layout *layout = &report->layout;

	print_string("mode", report->config.mode ? options_mode_name(report->config.mode) : "none");
	print_string("reason", report->reason);
	print_string("backend", report->backend);
	print_string("guest", report->guest_user ? "user" : "kernel");
	print_string("pattern", options_pattern_name(options->pattern));
	print_string("sabotage", options_sabotage_name(options->sabotage));
	print_number("vcpus", layout->vcpus);
	print_number("channels", options->channels);
	print_bool("skip_rewritten", options->skip_rewritten);
	print_bool("reaper", options->reaper);
	print_number("memory_bytes", layout->memory_bytes);
	print_number("working_set_bytes", layout->share_pages * layout->vcpus * layout->page_bytes);
	print_number("page_bytes", layout->page_bytes);
	print_number("ring_entries", report->config.ring_entries);
	print_bool("backup_bitmap", report->config.backup);
}

static void print_downtime(const struct report *report)
{
	static const char *const reasons[] = {
		[STOP_NEVER] = "",
		[STOP_FITS] = "fits",
		[STOP_NO_PROGRESS] = "no progress",
		[STOP_PASSES] = "passes",
		[STOP_BUDGET] = "budget",
		[STOP_DIVERGING] = "diverging",
	};
	uint64_t limit_ns = report->options->downtime_limit_ns;

	print_number("downtime_ns", report->downtime_ns);
	print_number("downtime_limit_ns", limit_ns);
	if (report->downtime_ns)
		print_bool("downtime_limit_met", report->downtime_ns <= limit_ns);
	else
		printf("  \"downtime_limit_met\": null,\n");
	print_number("downtime_vcpus_ns", report->stop.vcpus_ns);
	print_number("downtime_devices_ns", report->stop.devices_ns);
	print_number("downtime_harvest_ns", report->stop.harvest_ns);
	print_number("downtime_send_ns", report->stop.send_ns);
	print_number("downtime_state_ns", report->stop.state_ns);
	print_string("stopped_because", reasons[report->stop_reason]);
	print_number("left_bytes", report->left_bytes);
}

static void print_log(const struct report *report)
{
	const struct dl_stats *stats = &report->stats;

	print_number("entries", stats->entries);
	print_number("new_pages", stats->new_pages);
	print_number("duplicates", stats->duplicates);
	print_number("reaps", report->reaps);
	print_number("slot_changes", report->slot_changes);
	print_number("resets", stats->resets);
	print_number("short_resets", stats->short_resets);
	print_number("overflows", stats->overflows);
	print_number("full_exits", stats->full_exits);
	print_number("high_water_entries", stats->high_water_entries);
	print_number("ioctl_ns", stats->ioctl_ns);
	print_bool("watch", report->options->watch);
	print_number("watched_bytes", stats->watched_bytes);
	print_number("missed_bytes", stats->missed_bytes);
	print_number("missed_pages", report->missed.pages);
	print_bool("device_process", report->process.pid);
	print_bool("process_runs", report->process.runs);
	print_number("process_writes", report->process.writes);
	print_number("process_stopped_writes", report->process.stopped_writes);
	print_number("process_logged_pages", report->process.logged_pages);
	print_number("process_dropped_pages", report->process.dropped_pages);
	print_number("process_log_reads", report->process.takes);
}

/* Whether the guest is well where it runs now; null: that is unknown, or it runs nowhere. */
static void print_health(const struct report *report)
{
	if (report->has_result)
		print_bool("guest_healthy", report->result.guest_healthy);
	else if (report->resumed)
		print_bool("guest_healthy", report->resumed_check.healthy);
	else
		printf("  \"guest_healthy\": null,\n");
}

static void print_outcome(const struct report *report)
{
	const struct wire_result *result = &report->result;

	print_bool("proved", report->proved);
	if (report->proved) {
		print_number("compared_pages", report->proof.compared_pages);
		print_number("differing_pages", report->proof.differing_pages);
	} else {
		printf("  \"differing_pages\": null,\n");
	}
	print_health(report);
	if (report->has_result) {
		print_bool("device_healthy", result->device_healthy);
		print_number("destination_checked_pages", result->checked_pages);
		print_number("destination_records", result->records);
		print_string("damage", result->why);
	}
	print_bool("runs_on_source", report->resumed && report->resumed_check.healthy);
	if (report->unknown)
		printf("  \"ran_at_destination\": null,\n");
	else
		print_bool("ran_at_destination", report->has_result);
	if (report->resumed)
		print_bool("logging_off", report->logging_off);
	print_string("error", report->error);
}

void report_json_early(const char *error, int status)
{
	printf("{\n");
	print_string("error", error);
	printf("  \"exit_status\": %d\n}\n", status);
}

void report_json(const struct report *report, int status)
{
	printf("{\n");
	print_setup(report);
	print_rows(report);
	print_number("total_ns", report->total_ns);
	print_downtime(report);
	report_json_throttling(report);
	print_number("source_records", report->records);
	print_log(report);
	print_outcome(report);
	printf("  \"exit_status\": %d\n}\n", status);
	output_flush();
}
