/* SPDX-License-Identifier: MIT */
#include "report.h"
#include "../output.h"
#include "../clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LABEL_COLUMNS = 9 };

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

void report_init(struct report *report, const struct options *options)
{
	memset(report, 0, sizeof(*report));
	report->options = options;
	report->terminal = !options->json && isatty(STDOUT_FILENO);
	if (options->json)
		printf("{\n  \"format\": %d", SNAP_VERSION);
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

void report_progress(struct report *report, const char *format, ...)
{
	va_list args;

	if (!report->terminal)
		return;
	clear_line(report);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	output_flush();
	report->has_progress = true;
}

void report_print_error(const char *format, ...)
{
	char text[640];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	output_wrapped(stderr, fprintf(stderr, "snapshot: "), 0, text);
}

int report_error(struct report *report, int status, const char *format, ...)
{
	va_list args;

	if (*report->error)
		return status;
	va_start(args, format);
	vsnprintf(report->error, sizeof(report->error), format, args);
	va_end(args);
	return status;
}

void report_rows(struct report *report, const char *name)
{
	if (report->options->json)
		printf(",\n  \"%s\": [", name);
	report->first_row = true;
}

bool report_row(struct report *report)
{
	if (!report->options->json)
		return false;
	printf(report->first_row ? "\n    " : ",\n    ");
	report->first_row = false;
	return true;
}

void report_rows_end(struct report *report)
{
	if (report->options->json)
		printf(report->first_row ? "]" : "\n  ]");
}

void report_taken_head(struct report *report)
{
	report_line(report, "\n%6s %-9s %9s %9s %9s %9s %9s %9s", "point", "", "live MiB",
		    "pause MiB", "pause ms", "total ms", "file MiB", "zero MiB");
}

static void print_taken_json(const struct taken *taken)
{
	const struct cost *cost = &taken->cost;

	printf("{ \"number\": %" PRIu64 ", \"base\": %s, \"complete\": %s, \"live_bytes\": %" PRIu64
	       ", \"paused_bytes\": %" PRIu64 ", \"written_paused_bytes\": %" PRIu64,
	       taken->number, taken->base ? "true" : "false", taken->complete ? "true" : "false",
	       cost->live_bytes, cost->paused_bytes, cost->written_paused_bytes);
	printf(", \"pause_ms\": %.3f, \"vcpus_ms\": %.3f, \"devices_ms\": %.3f, \"harvest_ms\": "
	       "%.3f, \"copy_ms\": %.3f, \"state_ms\": %.3f, \"proof_ms\": %.3f, \"ms\": %.3f",
	       ms(cost->pause_ns), ms(cost->vcpus_ns), ms(cost->devices_ns), ms(cost->harvest_ns),
	       ms(cost->copy_ns), ms(cost->state_ns), ms(cost->proof_ns), ms(cost->ns));
	printf(", \"file_bytes\": %" PRIu64 ", \"data_pages\": %" PRIu64
	       ", \"zero_pages\": %" PRIu64 ", \"extents\": %" PRIu64 ", \"writes\": %" PRIu64
	       ", \"why\": ",
	       cost->file_bytes, cost->data_pages, cost->zero_pages, cost->extents, cost->writes);
	output_json_string(taken->why);
	printf(" }");
}

void report_taken(struct report *report, const struct taken *taken)
{
	const struct cost *cost = &taken->cost;
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);

	if (report_row(report)) {
		print_taken_json(taken);
		return;
	}
	report_line(report, "%6" PRIu64 " %-9s %9.1f %9.1f %9.2f %9.0f %9.1f %9.1f", taken->number,
		    !taken->complete ? "LOST"
		    : taken->base    ? "base"
				     : "increment",
		    mib(cost->live_bytes), mib(cost->paused_bytes), ms(cost->pause_ns),
		    ms(cost->ns), mib(cost->file_bytes), mib(cost->zero_pages * page_bytes));
	if (!taken->complete)
		report_field(report, "", "%s; a next point has these pages too", taken->why);
}

void report_member(struct report *report, const char *name, const char *format, ...)
{
	va_list args;

	if (!report->options->json)
		return;
	printf(",\n  \"%s\": ", name);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
}

int report_end(struct report *report, int status)
{
	clear_line(report);
	output_flush();
	if (*report->error)
		report_print_error("%s", report->error);
	if (report->options->json) {
		printf(",\n  \"error\": ");
		output_json_string(report->error);
		printf(",\n  \"exit_status\": %d\n}\n", status);
	}
	return status;
}
