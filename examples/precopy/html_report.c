/* SPDX-License-Identifier: MIT */
#include "html_report.h"
#include "../output.h"
#include "html.h"
#include "html_chart.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static const char *outcome(const struct report *report)
{
	switch (report_status(report)) {
	case STATUS_MOVED:
		return "The guest has moved, and no write was lost.";
	case STATUS_CORRUPT:
		return "Corruption: writes were lost.";
	case STATUS_UNKNOWN:
		return "It is unknown whether the guest runs at the destination.";
	default:
		return "The migration failed.";
	}
}

static const char *stop_reason(const struct report *report)
{
	switch (report->stop_reason) {
	case STOP_FITS:
		return "what was left could be sent within the limit";
	case STOP_NO_PROGRESS:
		return "passes left no less any more";
	case STOP_PASSES:
		return "--passes allowed no more passes";
	default:
		return "";
	}
}

static void begin_section(FILE *to, const char *id, const char *title)
{
	fprintf(to, "<section id=\"%s\">\n<h2>%s</h2>\n", id, title);
}

static void print_time(FILE *to)
{
	time_t now = time(NULL);
	char text[64] = "";
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &tm);
	fprintf(to, "<p class=\"mute\">precopy, %s</p>\n", text);
}

/* A row whose value is a number that programs may want. */
static void number_row(FILE *to, const char *id, const char *name, uint64_t value, const char *text)
{
	fprintf(to, "<tr><th scope=\"row\">%s</th><td>", name);
	html_data(to, id, value, "%s", text);
	fputs("</td></tr>\n", to);
}

static void count_row(FILE *to, const char *id, const char *name, uint64_t value)
{
	char text[HTML_NUMBER_BYTES];

	number_row(to, id, name, value, output_grouped(text, value));
}

static void bytes_row(FILE *to, const char *id, const char *name, uint64_t value)
{
	char text[HTML_NUMBER_BYTES];

	number_row(to, id, name, value, html_bytes(text, value));
}

static void time_row(FILE *to, const char *id, const char *name, uint64_t ns, bool met,
		     const char *note)
{
	fprintf(to, "<tr><th scope=\"row\">%s</th><td>", name);
	if (ns < 1000000000)
		html_data(to, id, ns, "%.1f ms", (double)ns / 1e6);
	else
		html_data(to, id, ns, "%.2f s", (double)ns / 1e9);
	if (*note)
		fprintf(to, " <span class=\"%s\">%s</span>", met ? "good" : "bad", note);
	fputs("</td></tr>\n", to);
}

static void print_sums(FILE *to, const struct report *report)
{
	uint64_t sent_pages = 0, zero_pages = 0, wire_bytes = 0;

	for (uint32_t i = 0; i < report->row_count; i++) {
		sent_pages += report->rows[i].sent_pages;
		zero_pages += report->rows[i].zero_pages;
		wire_bytes += report->rows[i].wire_bytes;
	}
	count_row(to, "pages_sent", "pages sent", sent_pages);
	count_row(to, "zero_pages", "of them zero", zero_pages);
	bytes_row(to, "wire_bytes", "bytes on the wire", wire_bytes);
}

static void print_downtime(FILE *to, const struct report *report)
{
	uint64_t limit_ns = report->options->downtime_limit_ns;
	bool met = report->downtime_ns <= limit_ns;

	if (report->downtime_ns)
		time_row(to, "downtime_ns", "downtime", report->downtime_ns, met,
			 met ? "within the limit" : "above the limit");
	else
		number_row(to, "downtime_ns", "downtime", 0, "none: the guest was not handed over");
	time_row(to, "downtime_limit_ns", "downtime limit", limit_ns, true, "");
	if (!report->stop_reason)
		return;
	html_row(to, "the guest was stopped because", "%s", stop_reason(report));
	bytes_row(to, "left_bytes", "left to send then", report->left_bytes);
}

static void print_proof(FILE *to, const struct report *report)
{
	const struct wire_result *result = &report->result;

	if (report->proved) {
		count_row(to, "compared_pages", "pages compared", report->proof.compared_pages);
		count_row(to, "differing_pages", "pages that differ",
			  report->proof.differing_pages);
	}
	if (report->has_result)
		html_row(to, "at the destination", "%s%s",
			 result->guest_healthy && result->device_healthy ? "healthy" : "DAMAGED: ",
			 result->guest_healthy && result->device_healthy ? "" : result->why);
	if (report->resumed)
		html_row(to, "on the source", "%s%s",
			 report->resumed_check.healthy ? "the guest keeps running" : "DAMAGED: ",
			 report->resumed_check.healthy ? "" : report->resumed_check.why);
}

static void print_process(FILE *to, const struct report *report)
{
	if (!report->process.pid)
		return;
	count_row(to, "process_writes", "writes of the device process", report->process.writes);
	count_row(to, "process_logged_pages", "pages found in its log",
		  report->process.logged_pages);
}

static void print_summary(FILE *to, const struct report *report)
{
	int status = report_status(report);

	fprintf(to, "<p id=\"outcome\" class=\"%s\">%s</p>\n",
		status == STATUS_MOVED ? "good" : "bad", outcome(report));
	if (*report->error) {
		fputs("<p id=\"error\">", to);
		html_text(to, report->error);
		fputs("</p>\n", to);
	}
	fputs("<table class=\"pairs\">\n", to);
	count_row(to, "exit_status", "exit status", (uint64_t)status);
	if (report->layout.memory_bytes) {
		bytes_row(to, "memory_bytes", "memory", report->layout.memory_bytes);
		count_row(to, "vcpus", "vCPUs", report->layout.vcpus);
	}
	time_row(to, "total_ns", "total time", report->total_ns, true, "");
	print_downtime(to, report);
	print_sums(to, report);
	print_process(to, report);
	print_proof(to, report);
	fputs("</table>\n", to);
}

static void print_pass(FILE *to, const struct report *report, uint32_t i)
{
	const struct pass_row *row = &report->rows[i];
	char text[HTML_NUMBER_BYTES];
	const struct {
		uint64_t value;
		const char *format;
		double shown;
	} cells[] = {
		{ row->dirty_bytes, "%.1f", (double)row->dirty_bytes / (1 << 20) },
		{ row->sent_pages, NULL, 0 },
		{ row->zero_pages, NULL, 0 },
		{ row->wire_bytes, "%.1f", (double)row->wire_bytes / (1 << 20) },
		{ row->start_ns, "%.1f", (double)row->start_ns / 1e6 },
		{ row->ns, "%.1f", (double)row->ns / 1e6 },
		{ row->remaining_bytes, row->complete ? "%.1f" : "-",
		  (double)row->remaining_bytes / (1 << 20) },
		{ row->full_exits, NULL, 0 },
		{ row->overflows, NULL, 0 },
	};

	snprintf(text, sizeof(text), row->final ? "final" : "%u", i + 1);
	fprintf(to, "<tr><th scope=\"row\">%s%s</th>", text, row->complete ? "" : ", cut short");
	for (size_t j = 0; j < sizeof(cells) / sizeof(cells[0]); j++) {
		fputs("<td>", to);
		if (cells[j].format)
			snprintf(text, sizeof(text), cells[j].format, cells[j].shown);
		else
			output_grouped(text, cells[j].value);
		html_data(to, NULL, cells[j].value, "%s", text);
		fputs("</td>", to);
	}
	fputs("</tr>\n", to);
}

static void print_passes(FILE *to, const struct report *report)
{
	begin_section(to, "passes", "Passes");
	if (!report->row_count)
		fputs("<p class=\"mute\">No pass was begun.</p>\n", to);
	else
		fputs("<div class=\"wide\"><table class=\"passes\">\n<thead><tr><th>pass</th>"
		      "<th>dirty MiB</th><th>pages sent</th><th>zero</th><th>wire MiB</th>"
		      "<th>begin ms</th><th>sending ms</th><th>left MiB</th><th>full exits</th>"
		      "<th>overflows</th></tr></thead>\n<tbody>\n",
		      to);
	for (uint32_t i = 0; i < report->row_count; i++)
		print_pass(to, report, i);
	if (report->row_count)
		fputs("</tbody>\n</table></div>\n", to);
	fputs("</section>\n", to);
}

static void print_log(FILE *to, const struct report *report)
{
	const struct dl_stats *stats = &report->stats;

	if (!*report->reason)
		return;
	begin_section(to, "log", "Dirty log");
	fputs("<p>", to);
	html_text(to, report->reason);
	fputs("</p>\n<table class=\"pairs\">\n", to);
	count_row(to, "new_pages", "pages found dirty", stats->new_pages);
	count_row(to, "entries", "ring entries", stats->entries);
	count_row(to, "duplicates", "of pages that were dirty already", stats->duplicates);
	count_row(to, "resets", "ring resets", stats->resets);
	count_row(to, "full_exits", "full exits of vCPUs", stats->full_exits);
	count_row(to, "overflows", "ring overflows", stats->overflows);
	count_row(to, "high_water_entries", "most entries in one ring", stats->high_water_entries);
	time_row(to, "ioctl_ns", "time in ioctls of the log", stats->ioctl_ns, true, "");
	fputs("</table>\n</section>\n", to);
}

static void print_memory(FILE *to, const struct watch *watch)
{
	const struct heat *heat = &watch->activity.heat;
	char bytes[HTML_NUMBER_BYTES];

	begin_section(to, "memory", "Memory");
	html_map(to, watch);
	if (heat->n_slots)
		fputs("<table class=\"pairs\">\n<caption class=\"mute\">Memslots</caption>\n", to);
	for (uint32_t i = 0; i < heat->n_slots; i++)
		fprintf(to,
			"<tr><th scope=\"row\">%u</th><td><code>%#" PRIx64 "</code></td>"
			"<td>%s</td></tr>\n",
			heat->slots[i].slot, heat->slots[i].gpa,
			html_bytes(bytes, heat->slots[i].bytes));
	if (heat->n_slots)
		fputs("</table>\n", to);
	fputs("</section>\n", to);
}

static void print_command(FILE *to, const struct options *options)
{
	fputs("<p><code id=\"command\">precopy", to);
	for (int i = 1; i < options->argc; i++) {
		fputc(' ', to);
		html_text(to, options->argv[i]);
	}
	fputs("</code></p>\n", to);
}

static void print_rate(FILE *to, const char *name, uint64_t bytes_per_s)
{
	char text[HTML_NUMBER_BYTES];

	if (bytes_per_s)
		html_row(to, name, "%s/s", html_bytes(text, bytes_per_s));
	else
		html_row(to, name, "no limit");
}

static void print_options(FILE *to, const struct report *report)
{
	const struct options *options = report->options;
	char text[HTML_NUMBER_BYTES];

	begin_section(to, "options", "Options");
	print_command(to, options);
	fputs("<table class=\"pairs\">\n", to);
	html_row(to, "backend", "%s", *report->backend ? report->backend : "none was opened");
	html_row(to, "guest", "%s mode, %s", report->guest_user ? "user" : "kernel",
		 options_pattern_name(options->pattern));
	html_row(to, "working set", "%s", html_bytes(text, options->working_set_bytes));
	print_rate(to, "dirty rate", options->dirty_bytes_per_s);
	print_rate(to, "bandwidth", options->bandwidth_bytes_per_s);
	html_row(to, "passes, at most", "%u", options->passes);
	html_row(to, "channels", "%u", options->channels);
	html_row(to, "zero pages", "%s", options->zero_pages ? "sent as ranges" : "sent whole");
	html_row(to, "slot moves", "%s", options->slot_moves ? "yes" : "no");
	html_row(to, "destination", "%s",
		 options->connect ? options->connect : "a process of this host");
	if (options->sabotage)
		html_row(to, "sabotage", "%s", options_sabotage_name(options->sabotage));
	fputs("</table>\n</section>\n", to);
}

/* The processor's name, from a file that has another form on each architecture. */
static void print_processor(FILE *to)
{
	FILE *from = fopen("/proc/cpuinfo", "re");
	char text[256], *name = NULL;

	while (from && !name && fgets(text, sizeof(text), from))
		if (!strncmp(text, "model name", strlen("model name")))
			name = strchr(text, ':');
	if (from)
		fclose(from);
	if (!name)
		return;
	name[strcspn(name, "\n")] = '\0';
	html_row(to, "processor", "%s", name + strspn(name, ": "));
}

static void print_host(FILE *to)
{
	uint32_t version = dl_library_version();
	struct utsname host;

	begin_section(to, "host", "Host");
	fputs("<table class=\"pairs\">\n", to);
	if (!uname(&host)) {
		html_row(to, "name", "%s", host.nodename);
		html_row(to, "kernel", "%s %s, %s", host.sysname, host.release, host.machine);
	}
	print_processor(to);
	html_row(to, "processors", "%ld", sysconf(_SC_NPROCESSORS_ONLN));
	html_row(to, "page size", "%ld", sysconf(_SC_PAGESIZE));
	html_row(to, "libdirtylog", "%u.%u.%u", version >> 16, version >> 8 & 0xff, version & 0xff);
	fputs("</table>\n</section>\n", to);
}

static void print_page(FILE *to, const struct report *report, const struct watch *watch)
{
	html_begin(to, "Live migration");
	fputs("<h1>Live migration</h1>\n", to);
	print_time(to);
	print_summary(to, report);
	print_passes(to, report);
	begin_section(to, "time", "Rates");
	html_chart_rates(to, report, &watch->timeline);
	fputs("</section>\n", to);
	begin_section(to, "left", "Convergence");
	html_chart_convergence(to, report);
	fputs("</section>\n", to);
	begin_section(to, "downtime", "Downtime");
	html_chart_downtime(to, report);
	fputs("</section>\n", to);
	print_memory(to, watch);
	print_log(to, report);
	print_options(to, report);
	print_host(to);
	html_end(to);
}

char *html_report_make(const struct report *report, const struct watch *watch, size_t *bytes)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, bytes);
	bool failed;

	if (!to)
		return NULL;
	print_page(to, report, watch);
	failed = ferror(to);
	if (!fclose(to) && !failed)
		return text;
	free(text);
	return NULL;
}
