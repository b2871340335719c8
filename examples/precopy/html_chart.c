/* SPDX-License-Identifier: MIT */
#include "html_chart.h"
#include "../output.h"
#include "html.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>

enum { WIDTH = 760, HEIGHT = 260, LEFT = 64, RIGHT = 60, TOP = 18, BOTTOM = 30 };
enum { SPANS = 60, TICKS = 5 };

/* The area of a chart, and what its edges mean. */
struct axes {
	double most_x, most_y;
};

static double x_of(const struct axes *axes, double x)
{
	return LEFT + x / axes->most_x * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axes *axes, double y)
{
	return HEIGHT - BOTTOM - y / axes->most_y * (HEIGHT - TOP - BOTTOM);
}

static void begin_figure(FILE *to, const char *id, const char *label, int height)
{
	fprintf(to,
		"<figure id=\"%s\">\n<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" "
		"aria-label=\"%s\" viewBox=\"0 0 %d %d\">\n",
		id, label, WIDTH, height);
}

static void nothing(FILE *to, const char *id, const char *why)
{
	fprintf(to, "<p id=\"%s\" class=\"mute\">%s</p>\n", id, why);
}

/* 1, 2 or 5 times a power of ten, so that there are about TICKS of them. */
static double tick_step(double most)
{
	double raw = most / TICKS, power = pow(10, floor(log10(raw))), part = raw / power;

	return power * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static void line(FILE *to, const char *class, double x1, double y1, double x2, double y2)
{
	fprintf(to, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class,
		x1, y1, x2, y2);
}

static void text(FILE *to, double x, double y, const char *anchor, const char *label)
{
	fprintf(to, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
		label);
}

static void draw_x_axis(FILE *to, const struct axes *axes)
{
	double step = tick_step(axes->most_x);

	for (double x = 0; x <= axes->most_x * 1.0001; x += step) {
		char label[32];

		snprintf(label, sizeof(label), "%g s", round(x / step) * step);
		text(to, x_of(axes, x), HEIGHT - BOTTOM + 16, "middle", label);
	}
	line(to, "axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM);
}

static void draw_y_axis(FILE *to, struct axes *axes)
{
	double step = tick_step(axes->most_y > 0 ? axes->most_y : 1);

	axes->most_y = ceil(axes->most_y / step) * step;
	if (!(axes->most_y > 0))
		axes->most_y = step;
	for (double y = 0; y <= axes->most_y * 1.0001; y += step) {
		char label[HTML_NUMBER_BYTES];

		line(to, "axis", LEFT, y_of(axes, y), WIDTH - RIGHT, y_of(axes, y));
		text(to, LEFT - 6, y_of(axes, y) + 4, "end",
		     output_grouped(label, (uint64_t)llround(y)));
	}
}

/* The time between two samples, and how much a counter grew meanwhile. */
struct span {
	double from_s, to_s, per_s;
};

static uint64_t counter(const struct sample *sample, bool sent)
{
	return sent ? sample->sent_pages : sample->new_pages;
}

/*
 * Cuts the time into spans of some length. What is dirtied shows only when it is harvested: such a
 * span lasts until the counter has grown.
 */
static unsigned int make_spans(const struct timeline *timeline, bool sent, struct span *spans)
{
	const struct sample *samples = timeline->samples;
	uint64_t least_ns = samples[timeline->n - 1].ns / SPANS + 1;
	unsigned int n = 0;

	for (uint32_t i = 1, from = 0; i < timeline->n; i++) {
		uint64_t ns = samples[i].ns - samples[from].ns;
		uint64_t grown = counter(&samples[i], sent) - counter(&samples[from], sent);

		if (i + 1 < timeline->n && (ns < least_ns || (!grown && !sent)))
			continue;
		if (!ns || n == SPANS)
			break;
		spans[n++] =
			(struct span){ (double)samples[from].ns / 1e9, (double)samples[i].ns / 1e9,
				       (double)grown * 1e9 / (double)ns };
		from = i;
	}
	return n;
}

static double most_per_s(const struct span *spans, unsigned int n, double most)
{
	for (unsigned int i = 0; i < n; i++)
		most = spans[i].per_s > most ? spans[i].per_s : most;
	return most;
}

static void draw_spans(FILE *to, const char *class, const struct axes *axes,
		       const struct span *spans, unsigned int n)
{
	fprintf(to, "<path class=\"%s\" d=\"", class);
	for (unsigned int i = 0; i < n; i++)
		fprintf(to, "%s%.1f %.1fH%.1f", i ? "L" : "M", x_of(axes, spans[i].from_s),
			y_of(axes, spans[i].per_s), x_of(axes, spans[i].to_s));
	fputs("\"/>\n", to);
}

/* Where passes begin, and the time in which the guest stood still. */
static void draw_passes(FILE *to, const struct axes *axes, const struct report *report)
{
	double free_at = 0;

	if (report->downtime_ns) {
		double from = x_of(axes, (double)report->stop_ns / 1e9);
		double width = x_of(axes, (double)(report->stop_ns + report->downtime_ns) / 1e9);

		fprintf(to,
			"<rect class=\"stop\" x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n",
			from, TOP, width - from, HEIGHT - TOP - BOTTOM);
	}
	for (uint32_t i = 0; i < report->row_count; i++) {
		double x = x_of(axes, (double)report->rows[i].start_ns / 1e9);
		char label[24];

		snprintf(label, sizeof(label), report->rows[i].final ? "final" : "%u", i + 1);
		line(to, "pass", x, TOP, x, HEIGHT - BOTTOM);
		/* Short passes would have their numbers one over another. */
		if (x < free_at)
			continue;
		text(to, x + 2, TOP - 5, report->rows[i].final ? "middle" : "start", label);
		free_at = x + 22;
	}
}

void html_chart_rates(FILE *to, const struct report *report, const struct timeline *timeline)
{
	struct span dirtied[SPANS], sent[SPANS];
	struct axes axes = { 0 };
	unsigned int n_dirtied, n_sent;

	if (timeline->n < 3 || !report->total_ns) {
		nothing(to, "rates", "There are too few samples to show rates.");
		return;
	}
	n_dirtied = make_spans(timeline, false, dirtied);
	n_sent = make_spans(timeline, true, sent);
	axes.most_x = (double)report->total_ns / 1e9;
	axes.most_y = most_per_s(sent, n_sent, most_per_s(dirtied, n_dirtied, 0));
	begin_figure(to, "rates", "pages a second that were dirtied and sent, over time", HEIGHT);
	draw_passes(to, &axes, report);
	draw_y_axis(to, &axes);
	draw_x_axis(to, &axes);
	draw_spans(to, "sent", &axes, sent, n_sent);
	draw_spans(to, "dirty", &axes, dirtied, n_dirtied);
	fputs("</svg>\n<figcaption>Pages a second:"
	      "<svg class=\"key\" viewBox=\"0 0 20 10\" aria-hidden=\"true\">"
	      "<line class=\"dirty\" x1=\"0\" y1=\"5\" x2=\"20\" y2=\"5\"/></svg>found dirty"
	      "<svg class=\"key\" viewBox=\"0 0 20 10\" aria-hidden=\"true\">"
	      "<line class=\"sent\" x1=\"0\" y1=\"5\" x2=\"20\" y2=\"5\"/></svg>sent, zero pages "
	      "too. Numbers at the top: passes; shaded: the guest was stopped. What is dirtied "
	      "becomes known at a harvest, and is spread over the time since the one before."
	      "</figcaption>\n</figure>\n",
	      to);
}

/* On a scale of logarithms, from less than a page to all of memory; nothing is at the bottom. */
static double level(const struct report *report, uint64_t bytes)
{
	double page = report->layout.page_bytes;

	return (double)bytes < page ? 0 : log2((double)bytes / page) + 2;
}

static void draw_levels(FILE *to, const struct axes *axes, const struct report *report)
{
	uint64_t bytes = report->layout.page_bytes, memory = report->layout.memory_bytes;

	line(to, "axis", LEFT, y_of(axes, 0), WIDTH - RIGHT, y_of(axes, 0));
	text(to, LEFT - 6, y_of(axes, 0) + 4, "end", "0");
	for (; bytes <= memory; bytes *= 16) {
		double y = y_of(axes, level(report, bytes));
		char label[HTML_NUMBER_BYTES];

		line(to, "axis", LEFT, y, WIDTH - RIGHT, y);
		text(to, LEFT - 6, y + 4, "end", html_bytes(label, bytes));
	}
}

static void draw_point(FILE *to, const struct axes *axes, const struct report *report, uint32_t n,
		       uint32_t i, uint64_t bytes)
{
	double x = x_of(axes, i), y = y_of(axes, level(report, bytes));
	bool last = i == n;
	char label[HTML_NUMBER_BYTES];

	fprintf(to, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n", x, y);
	if (n <= 16 || last)
		text(to, x + 6, y - 6, "start", html_bytes(label, bytes));
	if (!i) {
		text(to, x, HEIGHT - BOTTOM + 16, "middle", "start");
	} else if (n <= 24 || last || !(i % (n / 12))) {
		snprintf(label, sizeof(label), report->rows[i - 1].final ? "final" : "pass %u", i);
		text(to, x, HEIGHT - BOTTOM + 16, "middle", label);
	}
}

/* The last one may have been cut short. */
static uint32_t complete_rows(const struct report *report)
{
	uint32_t n = report->row_count;

	return n && !report->rows[n - 1].complete ? n - 1 : n;
}

void html_chart_convergence(FILE *to, const struct report *report)
{
	uint32_t n = complete_rows(report), i;
	struct axes axes = { n, 1 };

	if (!n) {
		nothing(to, "convergence", "No pass was completed.");
		return;
	}
	axes.most_y = level(report, report->layout.memory_bytes) + 1;
	begin_figure(to, "convergence", "what was left after each pass", HEIGHT);
	draw_levels(to, &axes, report);
	if (report->fits_bytes) {
		double fits = level(report, report->fits_bytes);
		double y = y_of(&axes, fits < axes.most_y ? fits : axes.most_y);

		line(to, "limit", LEFT, y, WIDTH - RIGHT, y);
	}
	fprintf(to, "<path class=\"dirty\" d=\"M%.1f %.1f", x_of(&axes, 0),
		y_of(&axes, level(report, report->rows[0].dirty_bytes)));
	for (i = 0; i < n; i++)
		fprintf(to, "L%.1f %.1f", x_of(&axes, i + 1),
			y_of(&axes, level(report, report->rows[i].remaining_bytes)));
	fputs("\"/>\n", to);
	draw_point(to, &axes, report, n, 0, report->rows[0].dirty_bytes);
	for (i = 0; i < n; i++)
		draw_point(to, &axes, report, n, i + 1, report->rows[i].remaining_bytes);
	fputs("</svg>\n<figcaption>Memory that was left to send after each pass, on a scale of "
	      "logarithms. The dashed line is what could be sent within the downtime limit: the "
	      "guest is stopped when no more is left.</figcaption>\n</figure>\n",
	      to);
}

static const struct {
	const char *id, *name, *class;
	size_t offset;
} parts[] = {
	{ "downtime_vcpus_ns", "stop the vCPUs", "h4", offsetof(struct stop_times, vcpus_ns) },
	{ "downtime_devices_ns", "stop and save the devices", "h3",
	  offsetof(struct stop_times, devices_ns) },
	{ "downtime_harvest_ns", "collect the last dirty pages", "h2",
	  offsetof(struct stop_times, harvest_ns) },
	{ "downtime_send_ns", "send them", "h1", offsetof(struct stop_times, send_ns) },
	{ "downtime_state_ns", "hand over the state of vCPUs and devices", "state",
	  offsetof(struct stop_times, state_ns) },
};

enum { PARTS = sizeof(parts) / sizeof(parts[0]), BAR_HEIGHT = 26 };

static uint64_t part_ns(const struct report *report, int i)
{
	const char *stop = (const char *)&report->stop;

	return *(const uint64_t *)(const void *)(stop + parts[i].offset);
}

static void draw_parts(FILE *to, const struct report *report)
{
	uint64_t limit_ns = report->options->downtime_limit_ns;
	double whole = (double)report->downtime_ns, x = 0, scale;

	/* A limit far away would leave nothing of the parts. */
	if (limit_ns > report->downtime_ns && limit_ns < 4 * report->downtime_ns)
		whole = (double)limit_ns;
	scale = (WIDTH - 2) / whole;
	begin_figure(to, "downtime-parts", "parts of the downtime", BAR_HEIGHT + 4);
	for (int i = 0; i < PARTS; i++) {
		double width = (double)part_ns(report, i) * scale;

		fprintf(to,
			"<rect class=\"%s\" x=\"%.1f\" y=\"2\" width=\"%.2f\" height=\"%d\">"
			"<title>%s</title></rect>\n",
			parts[i].class, x, width, BAR_HEIGHT, parts[i].name);
		x += width;
	}
	if ((double)limit_ns <= whole)
		line(to, "limit", (double)limit_ns * scale, 0, (double)limit_ns * scale,
		     BAR_HEIGHT + 4);
	fputs("</svg>\n</figure>\n", to);
}

void html_chart_downtime(FILE *to, const struct report *report)
{
	if (!report->downtime_ns) {
		nothing(to, "downtime-parts", "The guest was not handed over.");
		return;
	}
	draw_parts(to, report);
	fputs("<table class=\"pairs\">\n", to);
	for (int i = 0; i < PARTS; i++) {
		double ms = (double)part_ns(report, i) / 1e6;

		fprintf(to,
			"<tr><th scope=\"row\"><svg class=\"key\" viewBox=\"0 0 20 10\" "
			"aria-hidden=\"true\"><rect class=\"%s\" width=\"20\" height=\"10\"/>"
			"</svg>%s</th><td>",
			parts[i].class, parts[i].name);
		html_data(to, parts[i].id, part_ns(report, i), "%.2f ms", ms);
		fprintf(to, "</td><td class=\"mute\">%.0f%%</td></tr>\n",
			ms * 1e8 / (double)report->downtime_ns);
	}
	fputs("</table>\n<p class=\"mute\">The dashed line, if it is in the bar, is the "
	      "limit.</p>\n",
	      to);
}
