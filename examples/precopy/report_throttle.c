/* SPDX-License-Identifier: MIT */
#include "report_throttle.h"

#include <inttypes.h>
#include <stdio.h>

static const char *verdict_name(uint32_t verdict)
{
	switch (verdict) {
	case DL_VERDICT_SWITCHOVER:
		return "switchover";
	case DL_VERDICT_THROTTLED:
		return "throttled";
	case DL_VERDICT_LATE:
		return "late";
	case DL_VERDICT_DIVERGING:
		return "diverging";
	default:
		return "continue";
	}
}

static const char *bound_name(uint32_t bound)
{
	switch (bound) {
	case DL_BOUND_STALL:
		return "stall";
	case DL_BOUND_DEADLINE:
		return "deadline";
	case DL_BOUND_FLOOR:
		return "floor";
	case DL_BOUND_PAUSE:
		return "pause";
	case DL_BOUND_IGNORED:
		return "ignored";
	default:
		return "none";
	}
}

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

/* Writes the vCPUs of a mask as "0-2,5". */
static void list_vcpus(char *text, size_t text_bytes, uint32_t mask)
{
	size_t used = 0;

	text[0] = '\0';
	for (uint32_t id = 0, last; id < LAYOUT_MAX_VCPUS; id = last + 1) {
		last = id;
		if (!(mask & 1u << id))
			continue;
		while (mask & 2u << last)
			last++;
		used += (size_t)snprintf(text + used, text_bytes - used, "%s%u", used ? "," : "",
					 id);
		if (last > id)
			used += (size_t)snprintf(text + used, text_bytes - used, "%c%u",
						 last > id + 1 ? '-' : ',', last);
	}
}

void report_throttle_header(struct report *report)
{
	report_line(report, "\n%5s %9s %9s %7s %8s %9s  %s", "pass", "dirty MiB", "sent MiB",
		    "MiB/s", "ms", "left MiB", "held vCPUs, free to run");
}

void report_throttle_row(struct report *report, const struct pass_row *row, const char *name)
{
	char held[40] = "", vcpus[24];
	double seconds = (double)row->ns / 1e9;

	list_vcpus(vcpus, sizeof(vcpus), row->limited);
	if (row->limited)
		snprintf(held, sizeof(held), "%s: %u%%", vcpus, row->run_percent);
	report_line(report, "%5s %9.1f %9.1f %7.0f %8.0f %9.1f%s%s%s%s", name,
		    mib(row->dirty_bytes), mib(row->sent_pages * report->layout.page_bytes),
		    seconds > 0 ? mib(row->wire_bytes) / seconds : 0, (double)row->ns / 1e6,
		    mib(row->remaining_bytes), *held || row->verdict ? "  " : "", held,
		    *held && row->verdict ? ", " : "",
		    row->verdict ? verdict_name(row->verdict) : "");
	if (row->verdict == DL_VERDICT_LATE && !report->throttling.said_late) {
		report_line(report, "      The budget is over; what is left still shrinks.");
		report->throttling.said_late = true;
	} else if (row->verdict == DL_VERDICT_DIVERGING) {
		report_line(report, "      This does not converge, however hard vCPUs are held.");
	}
}

/* The share of the vCPUs' time in which they were not held. */
static double free_percent(const struct throttling *result, uint32_t vcpus, uint64_t held_ns)
{
	double all_ns = (double)result->ns * vcpus;

	return all_ns > 0 ? 100 - (double)held_ns * 100 / all_ns : 100;
}

static double percent(double part, double whole)
{
	return whole > 0 ? part * 100 / whole : 0;
}

static void print_readers(struct report *report)
{
	const struct throttling *result = &report->throttling;

	if (result->readers)
		report_field(report, "",
			     "readers were free to run for %.0f%% of the time, and read %.0f%% of "
			     "what they had read in the same CPU time before anything was logged",
			     free_percent(result, result->readers, result->readers_held_ns),
			     percent(result->during.per_cpu_s, result->before.per_cpu_s));
}

void report_throttle_summary(struct report *report)
{
	const struct options *options = report->options;
	const struct throttling *result = &report->throttling;
	char vcpus[24];

	if (options->throttle) {
		list_vcpus(vcpus, sizeof(vcpus), result->ever_limited);
		report_field(report, "throttle",
			     "%s: %s%s; writers were free to run for %.0f%% of the time; the "
			     "longest pause took %.0f ms",
			     options_throttle_name(options->throttle),
			     result->ever_limited ? "held vCPUs " : "held no vCPU", vcpus,
			     free_percent(result, result->writers, result->writers_held_ns),
			     (double)result->longest_pause_ns / 1e6);
	}
	print_readers(report);
	if (options->budget_ns)
		report_field(report, "budget", "%.0f s; the guest was stopped after %.2f s",
			     (double)options->budget_ns / 1e9, (double)report->stop_ns / 1e9);
}

static void print_verdicts(const struct throttling *result)
{
	printf("  \"verdicts\": [");
	for (uint32_t i = 0; i < result->verdict_count; i++) {
		const struct verdict_change *change = &result->verdicts[i];

		printf("%s\n    { \"start_ns\": %" PRIu64
		       ", \"verdict\": \"%s\", \"bound_by\": \"%s\", "
		       "\"limited_vcpus\": %u }",
		       i ? "," : "", change->ns, verdict_name(change->verdict),
		       bound_name(change->bound_by), change->limited_vcpus);
	}
	printf("%s],\n", result->verdict_count ? "\n  " : "");
}

static void print_limited(const struct throttling *result)
{
	const char *comma = "";

	printf("  \"limited_vcpus\": [");
	for (uint32_t id = 0; id < LAYOUT_MAX_VCPUS; id++)
		if (result->ever_limited & 1u << id) {
			printf("%s%u", comma, id);
			comma = ", ";
		}
	printf("],\n");
}

static void print_percent(const char *name, double part, double whole)
{
	if (whole > 0)
		printf("  \"%s\": %.1f,\n", name, percent(part, whole));
	else
		printf("  \"%s\": null,\n", name);
}

static void print_budget(const struct report *report)
{
	uint64_t budget_ns = report->options->budget_ns;

	printf("  \"budget_ns\": %" PRIu64 ",\n", budget_ns);
	printf("  \"stop_ns\": %" PRIu64 ",\n", report->stop_ns);
	if (!budget_ns || !report->downtime_ns)
		printf("  \"budget_met\": null,\n");
	else
		printf("  \"budget_met\": %s,\n", report->stop_ns <= budget_ns ? "true" : "false");
}

void report_json_throttling(const struct report *report)
{
	const struct throttling *result = &report->throttling;

	printf("  \"throttle\": \"%s\",\n", options_throttle_name(report->options->throttle));
	print_budget(report);
	print_verdicts(result);
	print_limited(result);
	printf("  \"guest_run_percent\": { \"writers\": %.1f, \"readers\": %.1f },\n",
	       free_percent(result, result->writers, result->writers_held_ns),
	       free_percent(result, result->readers, result->readers_held_ns));
	printf("  \"held_ns\": { \"writers\": %" PRIu64 ", \"readers\": %" PRIu64 " },\n",
	       result->writers_held_ns, result->readers_held_ns);
	printf("  \"longest_pause_ns\": %" PRIu64 ",\n", result->longest_pause_ns);
	print_percent("reader_speed_percent", result->during.per_s, result->before.per_s);
	print_percent("reader_cpu_speed_percent", result->during.per_cpu_s,
		      result->before.per_cpu_s);
}
