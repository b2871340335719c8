/* SPDX-License-Identifier: MIT */
#include "draw.h"
#include "../output.h"
#include "map.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <string.h>

/*
 * The screen: what moves, the passes, the vCPUs, the map of memory, and on tall screens the history
 * of the rates. What matters most is at the top, for screens that are too small.
 */

enum {
	LEAST_ROWS = 8,
	LABEL = 10,
	LEAST_MAP_ROWS = 3,
	HISTORY_ROWS = 2,
	BAR_AT = 47,
	LEAST_BAR = 10
};
enum { FULL_BLOCK = 0x2588, LIGHT_SHADE = 0x2591, LOWER_EIGHTH = 0x2581 };

#define TEXT_BYTES 40

static const char *count(char *text, double value)
{
	return output_grouped(text, (uint64_t)llround(value));
}

static const char *bytes(char *text, double value)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	unsigned int unit = 0;

	for (; value >= 1024 && unit < 4; unit++)
		value /= 1024;
	snprintf(text, TEXT_BYTES, value < 100 && value > floor(value) ? "%.1f %s" : "%.0f %s",
		 value, units[unit]);
	return text;
}

static void draw_title(struct canvas *canvas, const struct snapshot *s)
{
	char right[TEXT_BYTES], pass[TEXT_BYTES] = "", held[TEXT_BYTES] = "";
	bool says = *s->verdict && strcmp(s->verdict, "continue");
	int at;

	for (int column = 0; column < canvas->columns; column++)
		canvas_put_character(canvas, 0, column, STYLE_TITLE, ' ');
	if (s->pass)
		snprintf(pass, sizeof(pass), ", pass %" PRIu64, s->pass);
	if (s->held_vcpus)
		snprintf(held, sizeof(held), ", %" PRIu64 " vCPU%s held", s->held_vcpus,
			 s->held_vcpus == 1 ? "" : "s");
	canvas_put(canvas, 0, 0, STYLE_TITLE, " dirtytop   %s %" PRIu64 "   %s%s%s%s%s", s->program,
		   s->pid, s->state, pass, says ? ", " : "", says ? s->verdict : "", held);
	at = snprintf(right, sizeof(right), "%.1f s ", (double)s->elapsed_ns / 1e9);
	canvas_put(canvas, 0, canvas->columns - at, STYLE_TITLE, "%s", right);
}

static void draw_config(struct canvas *canvas, const struct snapshot *s)
{
	char entries[TEXT_BYTES], memory[TEXT_BYTES], page[TEXT_BYTES];
	int at = 0;

	if (s->ring_entries)
		at = canvas_put(canvas, 1, 0, STYLE_DIM, "ring of %s entries a vCPU, ",
				count(entries, (double)s->ring_entries));
	else
		at = canvas_put(canvas, 1, 0, STYLE_DIM, "%s, ", s->mode);
	canvas_put(canvas, 1, at, STYLE_DIM, "%u vCPU%s, %s in %u slot%s, pages of %s", s->n_vcpus,
		   s->n_vcpus == 1 ? "" : "s", bytes(memory, (double)s->memory_bytes), s->n_slots,
		   s->n_slots == 1 ? "" : "s", bytes(page, (double)s->page_bytes));
}

static void draw_rate(struct canvas *canvas, int row, const char *label, const struct view *view,
		      const struct rate *rate)
{
	char pages[TEXT_BYTES], size[TEXT_BYTES];
	double age_s = (double)(view->now.elapsed_ns - rate->at_ns) / 1e9;
	int at;

	canvas_put(canvas, row, 0, STYLE_LABEL, "%s", label);
	if (!rate->known) {
		canvas_put(canvas, row, LABEL, STYLE_DIM, "not known yet");
		return;
	}
	at = canvas_put(canvas, row, LABEL, STYLE_PLAIN, "%12s pages/s %12s/s",
			count(pages, rate->per_s),
			bytes(size, rate->per_s * (double)view->now.page_bytes));
	/* Between two harvests nothing new is known. */
	if (age_s >= 0.1)
		canvas_put(canvas, row, at, STYLE_DIM, "   as of %.1f s ago", age_s);
}

static void draw_bar(struct canvas *canvas, int row, int column, int columns, double part,
		     double mark, enum style style)
{
	int full = (int)(part * columns + 0.5), marked = (int)(mark * (columns - 1) + 0.5);

	if (part > 0 && !full)
		full = 1;
	for (int i = 0; i < columns; i++) {
		bool is_full = i < full;
		uint16_t c =
			canvas->utf8 ? (is_full ? FULL_BLOCK : LIGHT_SHADE) : (is_full ? '#' : '.');

		if (mark > 0 && i == marked && !is_full)
			c = '|';
		canvas_put_character(canvas, row, column + i,
				     is_full || c == '|' ? style : STYLE_DIM, c);
	}
}

static double share(uint64_t part, uint64_t of)
{
	if (!of)
		return 0;
	return part < of ? (double)part / (double)of : 1;
}

static void draw_pass(struct canvas *canvas, int row, const struct snapshot *s)
{
	char sent[TEXT_BYTES], of[TEXT_BYTES], text[2 * TEXT_BYTES + 16];
	double part = share(s->pass_sent_bytes, s->pass_bytes);
	int n;

	canvas_put(canvas, row, 0, STYLE_LABEL, "pass %" PRIu64, s->pass);
	n = snprintf(text, sizeof(text), "%4.0f%%  %s of %s", part * 100,
		     bytes(sent, (double)s->pass_sent_bytes), bytes(of, (double)s->pass_bytes));
	if (n < 32)
		n = 32;
	draw_bar(canvas, row, LABEL, canvas->columns - LABEL - n, part, 0, STYLE_BAR);
	canvas_put(canvas, row, canvas->columns - n, STYLE_PLAIN, "%s", text);
}

/* Returns the next row. */
static int draw_numbers(struct canvas *canvas, const struct view *view)
{
	const struct snapshot *s = &view->now;
	char pending[TEXT_BYTES], unacked[TEXT_BYTES], wire[TEXT_BYTES];
	int at, row = 2;

	draw_title(canvas, s);
	draw_config(canvas, s);
	draw_rate(canvas, ++row, "dirtied", view, &view->new_pages);
	draw_rate(canvas, ++row, "sent", view, &view->sent_pages);
	canvas_put(canvas, ++row, 0, STYLE_LABEL, "pending");
	at = canvas_put(canvas, row, LABEL, STYLE_PLAIN, "%12s,  %s in flight,  %s on the wire",
			bytes(pending, (double)s->pending_bytes),
			bytes(unacked, (double)s->unacked_bytes),
			bytes(wire, (double)s->wire_bytes));
	if (s->overflows)
		canvas_put(canvas, row, at, STYLE_ALARM, ",  %s ring overflow%s",
			   count(pending, (double)s->overflows), s->overflows == 1 ? "" : "s");
	draw_pass(canvas, ++row, s);
	return row + 2;
}

static void draw_vcpu(struct canvas *canvas, int row, const struct view *view, uint32_t i)
{
	const struct snapshot_vcpu *vcpu = &view->now.vcpus[i];
	const struct view_vcpu *rates = &view->vcpus[i];
	char pages[TEXT_BYTES] = "-", entries[TEXT_BYTES] = "-", exits[TEXT_BYTES];
	uint64_t found = rates->entries.known ? rates->entries.step : 0;
	int columns = canvas->columns - BAR_AT - 6;

	if (rates->new_pages.known)
		count(pages, rates->new_pages.per_s);
	if (rates->entries.known)
		count(entries, rates->entries.per_s);
	canvas_put(canvas, row, 0, STYLE_PLAIN, "%4" PRIu64 "%13s%13s", vcpu->cookie, pages,
		   entries);
	canvas_put(canvas, row, 30, vcpu->full_exits ? STYLE_ALARM : STYLE_PLAIN, "%13s",
		   count(exits, (double)vcpu->full_exits));
	/* Several harvests between two lines add up. */
	if (found > vcpu->high_water_entries)
		found = vcpu->high_water_entries;
	draw_bar(canvas, row, BAR_AT, columns, share(found, view->now.ring_entries),
		 share(vcpu->high_water_entries, view->now.ring_entries), STYLE_BAR);
	canvas_put(canvas, row, BAR_AT + columns, STYLE_PLAIN, "%5.0f%%",
		   100 * share(vcpu->high_water_entries, view->now.ring_entries));
}

/* In at most so many rows. Returns the next row. */
static int draw_vcpus(struct canvas *canvas, int row, int rows, const struct view *view)
{
	const struct snapshot *s = &view->now;
	uint32_t shown = s->n_vcpus;

	if (!s->ring_entries) {
		canvas_put(canvas, row, 0, STYLE_DIM,
			   "bitmap mode: the kernel does not say which vCPU has written");
		return row + 1;
	}
	canvas_put(canvas, row, 0, STYLE_LABEL, "vCPU      pages/s    entries/s   full exits");
	canvas_put(canvas, row, BAR_AT, STYLE_LABEL, "ring: last harvest, | most");
	row++;
	if (shown > (uint32_t)rows - 1)
		shown = (uint32_t)rows - 2;
	for (uint32_t i = 0; i < shown; i++)
		draw_vcpu(canvas, row++, view, i);
	if (shown < s->n_vcpus)
		canvas_put(canvas, row++, 0, STYLE_DIM, "%4s %u more vCPUs", "...",
			   s->n_vcpus - shown);
	return row;
}

static void draw_history_row(struct canvas *canvas, int row, const char *label,
			     const double *values, uint32_t n)
{
	static const char ascii[] = "_.-~=+*#";
	uint32_t columns = (uint32_t)(canvas->columns - LABEL), shown = n < columns ? n : columns;
	double most = 1;

	canvas_put(canvas, row, 0, STYLE_LABEL, "%s", label);
	for (uint32_t i = n - shown; i < n; i++)
		most = values[i] > most ? values[i] : most;
	for (uint32_t i = 0; i < shown; i++) {
		int eighths = (int)(values[n - shown + i] / most * 7.99);

		canvas_put_character(canvas, row, LABEL + (int)i, STYLE_BAR,
				     canvas->utf8 ? (uint16_t)(LOWER_EIGHTH + eighths)
						  : (uint16_t)ascii[eighths]);
	}
}

/* The history, if the rows that are left are enough for it. */
static void draw_history(struct canvas *canvas, int row, int last, const struct view *view)
{
	if (last - row < HISTORY_ROWS + 1 || !view->n_history || canvas->columns <= LABEL)
		return;
	draw_history_row(canvas, row + 1, "dirtied", view->dirtied, view->n_history);
	draw_history_row(canvas, row + 2, "sent", view->sent, view->n_history);
}

void draw(struct canvas *canvas, const struct view *view, const char *footer)
{
	int last, row, rows;

	if (canvas->rows < LEAST_ROWS)
		footer = NULL;
	last = canvas->rows - (footer ? 1 : 0);

	if (view->has_snapshot) {
		row = draw_numbers(canvas, view);
		/* The map needs a blank line, a title and some rows. */
		rows = last - row - 2 - LEAST_MAP_ROWS;
		row = draw_vcpus(canvas, row, rows > 3 ? rows : 3, view) + 1;
		row = map_draw(canvas, row, last - row, view);
		draw_history(canvas, row, last, view);
	} else {
		canvas_put(canvas, 0, 0, STYLE_PLAIN, "connected; nothing has been published yet");
	}
	if (!footer)
		return;
	for (int column = 0; column < canvas->columns; column++)
		canvas_put_character(canvas, canvas->rows - 1, column, STYLE_PLAIN, ' ');
	canvas_put(canvas, canvas->rows - 1, 0, STYLE_DIM, "%s", footer);
}
