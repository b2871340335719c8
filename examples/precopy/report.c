/* SPDX-License-Identifier: MIT */
#include "report.h"
#include "../output.h"
#include "../clock.h"
#include "report_json.h"
#include "report_throttle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_NS (100 * NS_PER_MS)

static char early_error[640];

enum { LABEL_COLUMNS = 9 };

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
	/* One more than --passes, for the final pass. */
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
	if (report->has_progress)
		fputs("\r\033[K", stdout);
	report->has_progress = false;
}

void report_field(struct report *report, const char *label, const char *format, ...)
{
	char text[640];
	va_list args;

	if (report->options->json)
		return;
	clear_line(report);
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	output_wrapped(stdout, printf("%-*s", LABEL_COLUMNS, label), LABEL_COLUMNS, text);
	output_flush();
}

void report_print_error(const char *format, ...)
{
	char text[640];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	output_wrapped(stderr, fprintf(stderr, "precopy: "), 0, text);
}

int report_early_failure(const struct options *options, int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(early_error, sizeof(early_error), format, args);
	va_end(args);
	report_print_error("%s", early_error);
	if (options->json)
		report_json_early(early_error, status);
	return status;
}

const char *report_early_error(void)
{
	return early_error;
}

void report_line(struct report *report, const char *format, ...)
{
	va_list args;

	if (report->options->json)
		return;
	clear_line(report);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	output_flush();
}

static void print_guest(struct report *report)
{
	const struct options *options = report->options;
	const struct layout *layout = &report->layout;
	uint64_t working_bytes = layout->share_pages * layout->vcpus * layout->page_bytes;
	char rate[64] = "no rate limit";

	if (options->dirty_bytes_per_s)
		snprintf(rate, sizeof(rate), "at most %.1f MiB/s of pages",
			 mib(options->dirty_bytes_per_s));
	report_field(report, "guest",
		     "%u vCPU%s in %s mode, %.0f MiB in %u memslots; dirties %.0f MiB (%s, %s)",
		     layout->vcpus, layout->vcpus > 1 ? "s" : "",
		     report->guest_user ? "user" : "kernel", mib(layout->memory_bytes),
		     LAYOUT_SLOTS, mib(working_bytes), options_pattern_name(options->pattern),
		     rate);
}

void report_begin(struct report *report)
{
	const struct options *options = report->options;
	char bandwidth[48] = "no bandwidth limit", budget[32] = "", passes[32] = "";

	if (*report->backend_note)
		report_field(report, "kernel", "model kernel: %s", report->backend_note);
	else if (!strcmp(report->backend, "model"))
		report_field(report, "kernel", "model kernel, as requested");
	print_guest(report);
	report_field(report, "log", "%s", report->reason);
	if (options->bandwidth_bytes_per_s)
		snprintf(bandwidth, sizeof(bandwidth), "at most %.0f MiB/s",
			 mib(options->bandwidth_bytes_per_s));
	if (options->passes_given || !(options->throttle || options->budget_ns))
		snprintf(passes, sizeof(passes), ", at most %u passes", options->passes);
	if (options->budget_ns)
		snprintf(budget, sizeof(budget), ", budget %" PRIu64 " s",
			 options->budget_ns / NS_PER_S);
	report_field(report, "send", "%s, downtime limit %" PRIu64 " ms%s%s", bandwidth,
		     options->downtime_limit_ns / NS_PER_MS, budget, passes);
	if (report->destination_pid)
		report_field(report, "peer", "destination process %d", report->destination_pid);
	if (report->process.pid)
		report_field(report, "process", "device process %d, with a shared log",
			     report->process.pid);
	if (options->sabotage)
		report_field(report, "sabotage", "%s", options_sabotage_name(options->sabotage));
	if (options->throttle) {
		report_throttle_header(report);
		return;
	}
	report_line(report, "\n%5s %10s %10s %10s %7s %9s %10s %10s", "pass", "dirty MiB",
		    "sent MiB", "zero MiB", "MiB/s", "ms", "left MiB", "full exits");
}

void report_progress(struct report *report, const struct pass_progress *progress, uint64_t ns)
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
	       mib(progress->sent_pages * page_bytes), mib(progress->dirty_bytes),
	       mib_per_s(progress->wire_bytes, ns));
	output_flush();
	report->has_progress = true;
}

void report_row(struct report *report, const struct pass_row *row)
{
	uint64_t page_bytes = report->layout.page_bytes;
	char name[16];

	snprintf(name, sizeof(name), row->final ? "final" : "%u", report->row_count);
	if (report->options->throttle)
		report_throttle_row(report, row, name);
	else
		report_line(report, "%5s %10.1f %10.1f %10.1f %7.0f %9.0f %10.1f %10" PRIu64, name,
			    mib(row->dirty_bytes), mib(row->sent_pages * page_bytes),
			    mib(row->zero_pages * page_bytes), mib_per_s(row->wire_bytes, row->ns),
			    (double)row->ns / 1e6, mib(row->remaining_bytes), row->full_exits);
	if (row->overflows)
		report_line(report, "      a ring overflowed: every page is dirty again");
}

int report_status(const struct report *report)
{
	if (report->proved && report->proof.differing_pages)
		return STATUS_CORRUPT;
	if (report->has_result && (!report->result.guest_healthy || !report->result.device_healthy))
		return STATUS_CORRUPT;
	if (report->unknown)
		return STATUS_UNKNOWN;
	if (*report->error || !report->proved || !report->has_result)
		return STATUS_FAILED;
	return report->unwritten ? STATUS_UNREPORTED : STATUS_MOVED;
}

/* Says why the guest was stopped for longer than it should have been. */
static void print_excess(struct report *report)
{
	double left_mib = mib(report->left_bytes);
	uint32_t passes = report->row_count - 1;

	if (report->stop_reason == STOP_NO_PROGRESS)
		report_field(report, "",
			     "The limit was not met: %.1f MiB were left, and passes left no less "
			     "any more. The guest dirties memory as fast as it is sent.",
			     left_mib);
	else if (report->stop_reason == STOP_BUDGET)
		report_field(report, "",
			     "The limit was not met: %.1f MiB were left when twice the budget was "
			     "over.",
			     left_mib);
	else if (report->stop_reason == STOP_DIVERGING)
		report_field(report, "",
			     "The limit was not met: %.1f MiB were left. The guest dirties memory "
			     "as fast as it is sent, although vCPUs were held as much as they may "
			     "be.",
			     left_mib);
	else if (report->stop_reason == STOP_PASSES)
		report_field(report, "",
			     "The limit was not met: %.1f MiB were left after %u passes, and "
			     "--passes allows no more.",
			     left_mib, passes);
	else
		report_field(report, "",
			     "The limit was not met: %.1f MiB were left, and sending them took "
			     "longer than measured before.",
			     left_mib);
}

static void print_watch(struct report *report)
{
	const struct missed_marks *missed = &report->missed;

	if (!report->options->watch)
		return;
	report_field(report, "watch", "%" PRIu64 " pages found without a mark",
		     report->stats.watched_bytes / report->layout.page_bytes);
	if (report->options->sabotage != SABOTAGE_MARK)
		return;
	report_field(report, "", "%" PRIu64 " marks are missing, of %" PRIu64 " pages:",
		     report->stats.missed_bytes / report->layout.page_bytes, missed->pages);
	for (uint64_t i = 0; i < missed->pages && i < REPORT_MISSED; i++)
		report_field(report, "", "%#" PRIx64, missed->gpas[i]);
	if (missed->pages > REPORT_MISSED)
		report_field(report, "", "and %" PRIu64 " more", missed->pages - REPORT_MISSED);
}

static void print_process(struct report *report)
{
	const struct process_report *process = &report->process;

	if (!process->pid)
		return;
	report_field(report, "process",
		     "%" PRIu64 " writes by the device process; %" PRIu64
		     " pages found in its log in %" PRIu64 " looks",
		     process->writes, process->logged_pages, process->takes);
	if (process->dropped_pages)
		report_field(report, "", "%" PRIu64 " pages of its log were dropped",
			     process->dropped_pages);
}

static void print_totals(struct report *report)
{
	uint64_t sent_pages = 0, zero_pages = 0, wire_bytes = 0;
	uint32_t i;

	for (i = 0; i < report->row_count; i++) {
		sent_pages += report->rows[i].sent_pages;
		zero_pages += report->rows[i].zero_pages;
		wire_bytes += report->rows[i].wire_bytes;
	}
	report_line(report, "%s", "");
	report_field(report, "total", "%.2f s, guest stopped for %.1f ms; the limit is %.0f ms",
		     (double)report->total_ns / 1e9, (double)report->downtime_ns / 1e6,
		     (double)report->options->downtime_limit_ns / 1e6);
	if (report->downtime_ns > report->options->downtime_limit_ns)
		print_excess(report);
	report_throttle_summary(report);
	report_field(report, "sent",
		     "%" PRIu64 " pages, %" PRIu64 " of them zero; %.1f MiB on the wire",
		     sent_pages, zero_pages, mib(wire_bytes));
	report_field(report, "log", "%s", report->reason);
	report_field(report, "",
		     "%" PRIu64 " pages reported, %" PRIu64 " full exits, %" PRIu64 " overflows",
		     report->stats.new_pages, report->stats.full_exits, report->stats.overflows);
	print_watch(report);
	print_process(report);
}

static void print_proof(struct report *report)
{
	const struct wire_proof *proof = &report->proof;
	uint64_t i;

	report_field(report, "verify", "%" PRIu64 " pages compared, %" PRIu64 " differ",
		     proof->compared_pages, proof->differing_pages);
	for (i = 0; i < 4 && i < proof->differing_pages; i++)
		report_field(report, "", "the page at %#" PRIx64 " differs",
			     layout_gpa(&report->layout, proof->first_differing[i]));
}

static void print_result(struct report *report)
{
	const struct wire_result *result = &report->result;

	if (!result->guest_healthy || !result->device_healthy)
		report_field(report, "guest", "DAMAGED at the destination: %s", result->why);
	else
		report_field(report, "guest",
			     "healthy at the destination: checked %" PRIu64
			     " pages and wrote %" PRIu64 " records in %.0f ms",
			     result->checked_pages, result->records, (double)result->ns / 1e6);
}

static void print_resumed(struct report *report)
{
	const struct machine_check *check = &report->resumed_check;

	if (!check->healthy) {
		report_field(report, "guest", "DAMAGED on the source: %s", check->why);
		return;
	}
	report_field(report, "guest",
		     "still runs on the source, logging is %s: checked %" PRIu64
		     " pages and wrote %" PRIu64 " records in %.0f ms",
		     report->logging_off ? "off" : "STILL ON", check->checked_pages, check->records,
		     (double)check->ns / 1e6);
}

void report_error(struct report *report)
{
	clear_line(report);
	output_flush();
	if (*report->error && !report->error_printed)
		report_print_error("%s", report->error);
	report->error_printed = *report->error;
}

int report_end(struct report *report)
{
	int status = report_status(report);

	report_error(report);
	if (report->options->json) {
		report_json(report, status);
		return status;
	}
	if (report->proved) {
		print_totals(report);
		print_proof(report);
	}
	if (report->has_result)
		print_result(report);
	if (report->resumed)
		print_resumed(report);
	if (status == STATUS_MOVED || status == STATUS_UNREPORTED)
		report_line(report, "\nNo write was lost.");
	else if (status == STATUS_CORRUPT)
		report_line(report, "\nCORRUPTION: writes were lost.");
	else if (status == STATUS_UNKNOWN)
		report_line(report, "\nIt is unknown whether the guest runs at the destination.");
	else
		report_line(report, "\nThe migration failed.");
	return status;
}
