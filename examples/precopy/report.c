/* SPDX-License-Identifier: MIT */
#include "report.h"
#include "clock.h"
#include "report_json.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_NS (100 * NS_PER_MS)

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static double mib_per_s(uint64_t bytes, uint64_t ns)
{
	return ns ? mib(bytes) * 1e9 / (double)ns : 0;
}

int report_init(struct report *report, const struct options *options)
{
	memset(report, 0, sizeof(*report));
	report->options = options;
	report->terminal = !options->json && isatty(STDOUT_FILENO);
	/* The passes, and the final one. */
	report->rows = calloc(options->passes + 1, sizeof(*report->rows));
	return report->rows ? 0 : -ENOMEM;
}

void report_free(struct report *report)
{
	free(report->rows);
}

struct pass_row *report_next_row(struct report *report)
{
	return &report->rows[report->row_count++];
}

static void clear_line(struct report *report)
{
	if (report->live)
		fputs("\r\033[K", stdout);
	report->live = false;
}

void report_say(struct report *report, const char *format, ...)
{
	va_list args;

	if (report->options->json)
		return;
	clear_line(report);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

static void say_guest(struct report *report)
{
	const struct options *options = report->options;
	const struct layout *layout = &report->layout;
	uint64_t working_bytes = layout->share_pages * layout->vcpus * layout->page_bytes;
	char rate[64] = "as fast as it can";

	if (options->dirty_bytes_per_s)
		snprintf(rate, sizeof(rate), "%.1f MiB of pages a second",
			 mib(options->dirty_bytes_per_s));
	report_say(report,
		   "guest    %u vCPU%s in %s mode, %.0f MiB in %u memslots; writes to %.0f MiB of "
		   "it, %s, %s",
		   layout->vcpus, layout->vcpus > 1 ? "s" : "",
		   options->guest_user ? "user" : "kernel", mib(layout->memory_bytes), LAYOUT_SLOTS,
		   mib(working_bytes), options_pattern_name(options->pattern), rate);
}

void report_begin(struct report *report)
{
	const struct options *options = report->options;
	char bandwidth[48] = "no bandwidth limit", destination[64] = "";

	if (*report->backend_note)
		report_say(report, "kernel   %s: this runs on the model kernel",
			   report->backend_note);
	else if (!strcmp(report->backend, "model"))
		report_say(report, "kernel   the model kernel, as asked for");
	say_guest(report);
	report_say(report, "log      %s", report->reason);
	if (options->bandwidth_bytes_per_s)
		snprintf(bandwidth, sizeof(bandwidth), "at most %.0f MiB/s",
			 mib(options->bandwidth_bytes_per_s));
	if (report->destination_pid)
		snprintf(destination, sizeof(destination), "; destination is process %d",
			 report->destination_pid);
	report_say(report, "send     %s, downtime limit %" PRIu64 " ms, %u passes at most%s",
		   bandwidth, options->downtime_limit_ns / NS_PER_MS, options->passes, destination);
	if (options->sabotage)
		report_say(report, "sabotage %s", options_sabotage_name(options->sabotage));
	report_say(report, "\n%6s %12s %12s %10s %9s %9s %12s %11s", "pass", "dirty", "sent",
		   "zeros", "MiB/s", "time", "remaining", "full exits");
}

void report_progress(struct report *report, const struct pass_row *row)
{
	uint64_t now_ns, page_bytes = report->layout.page_bytes;

	if (!report->terminal)
		return;
	now_ns = clock_ns();
	if (now_ns - report->progress_ns < PROGRESS_NS)
		return;
	report->progress_ns = now_ns;
	clear_line(report);
	printf("  pass %u: %.1f of %.1f MiB, %.0f MiB/s", report->row_count,
	       mib(row->sent_pages * page_bytes), mib(row->dirty_bytes),
	       mib_per_s(row->wire_bytes, row->ns));
	fflush(stdout);
	report->live = true;
}

void report_row(struct report *report, const struct pass_row *row)
{
	uint64_t page_bytes = report->layout.page_bytes;
	char name[16];

	snprintf(name, sizeof(name), row->final ? "final" : "%u", report->row_count);
	report_say(report,
		   "%6s %8.1f MiB %8.1f MiB %6.1f MiB %9.0f %6.0f ms %8.1f MiB %11" PRIu64 "%s",
		   name, mib(row->dirty_bytes), mib(row->sent_pages * page_bytes),
		   mib(row->zero_pages * page_bytes), mib_per_s(row->wire_bytes, row->ns),
		   (double)row->ns / 1e6, mib(row->remaining_bytes), row->full_exits,
		   row->overflows ? "  (overflow: everything again)" : "");
}

static int status_of(const struct report *report)
{
	if (report->proved && report->proof.differing_pages)
		return STATUS_CORRUPT;
	if (report->has_result && (!report->result.guest_healthy || !report->result.device_healthy))
		return STATUS_CORRUPT;
	if (*report->error || !report->proved || !report->has_result)
		return STATUS_FAILED;
	return STATUS_MOVED;
}

static void say_moved(struct report *report)
{
	uint64_t sent_pages = 0, zero_pages = 0, wire_bytes = 0;
	uint32_t i;

	for (i = 0; i < report->row_count; i++) {
		sent_pages += report->rows[i].sent_pages;
		zero_pages += report->rows[i].zero_pages;
		wire_bytes += report->rows[i].wire_bytes;
	}
	report_say(report, "\ntotal    %.2f s, of which the guest stood still %.1f ms",
		   (double)report->total_ns / 1e9, (double)report->downtime_ns / 1e6);
	report_say(report,
		   "sent     %" PRIu64 " pages, %" PRIu64 " of them zero; %.1f MiB on the wire",
		   sent_pages, zero_pages, mib(wire_bytes));
	report_say(report, "log      %s", report->reason);
	report_say(report,
		   "         %" PRIu64 " pages reported, %" PRIu64 " full exits, %" PRIu64
		   " overflows",
		   report->stats.new_pages, report->stats.full_exits, report->stats.overflows);
}

static void say_proof(struct report *report)
{
	const struct wire_proof *proof = &report->proof;
	uint64_t i;

	report_say(report, "proof    %" PRIu64 " pages compared, %" PRIu64 " differ",
		   proof->compared_pages, proof->differing_pages);
	for (i = 0; i < 4 && i < proof->differing_pages; i++)
		report_say(report, "         for one, the page at %#" PRIx64,
			   layout_gpa(&report->layout, proof->first_differing[i]));
}

static void say_result(struct report *report)
{
	const struct wire_result *result = &report->result;

	if (!result->guest_healthy || !result->device_healthy)
		report_say(report, "guest    DAMAGED on the other side: %s", result->why);
	else
		report_say(report,
			   "guest    healthy on the other side: it checked %" PRIu64
			   " pages there and wrote %" PRIu64 " records in %.0f ms",
			   result->checked_pages, result->records, (double)result->ns / 1e6);
}

static void say_run_on(struct report *report)
{
	const struct machine_check *run_on = &report->run_on;

	if (!run_on->healthy) {
		report_say(report, "guest    DAMAGED on this side: %s", run_on->why);
		return;
	}
	report_say(report,
		   "guest    runs on here, logging is %s: it checked %" PRIu64
		   " pages and wrote %" PRIu64 " records in %.0f ms",
		   report->logging_off ? "off" : "STILL ON", run_on->checked_pages, run_on->records,
		   (double)run_on->ns / 1e6);
}

void report_error(struct report *report)
{
	clear_line(report);
	fflush(stdout);
	if (*report->error && !report->error_told)
		fprintf(stderr, "precopy: %s\n", report->error);
	report->error_told = *report->error;
}

int report_end(struct report *report)
{
	int status = status_of(report);

	report_error(report);
	if (report->options->json) {
		report_json(report, status);
		return status;
	}
	if (report->proved) {
		say_moved(report);
		say_proof(report);
	}
	if (report->has_result)
		say_result(report);
	if (report->ran_on)
		say_run_on(report);
	if (status == STATUS_MOVED)
		report_say(report, "\nNo write was lost.");
	else if (status == STATUS_CORRUPT)
		report_say(report, "\nCORRUPTION.");
	else
		report_say(report, "\nThe migration did not take place.");
	return status;
}
