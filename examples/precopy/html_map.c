/* SPDX-License-Identifier: MIT */
#include "html_chart.h"
#include "../output.h"
#include "html.h"

#include <inttypes.h>

/* The map of memory, by cells of the heat map, as rows of rectangles. */

enum { COLUMNS = 64, LEVELS = 5, CELL = 12, HOTTEST = 5 };

static uint64_t pages_of(const struct watch *watch, uint32_t cell)
{
	uint64_t pages = watch->activity.heat.pages[cell];

	/* Everything is sent once; what comes after that was written. */
	return watch->has_copied ? pages - watch->copied[cell] : 0;
}

static uint64_t most_pages(const struct watch *watch)
{
	uint64_t most = 0;

	for (uint32_t i = 0; i < watch->activity.heat.n_cells; i++)
		if (pages_of(watch, i) > most)
			most = pages_of(watch, i);
	return most;
}

/* The most pages of each level: a quarter of the next one's. */
static uint64_t bound(uint64_t most, int level)
{
	uint64_t pages = most >> 2 * (LEVELS - 1 - level);

	return level ? (pages ? pages : 1) : 0;
}

static int level_of(uint64_t pages, uint64_t most)
{
	int level = 0;

	while (level < LEVELS - 1 && pages > bound(most, level))
		level++;
	return level;
}

/* Cells of one row and one level are one rectangle. Returns the cell after it. */
static uint32_t draw_run(FILE *to, const struct watch *watch, uint32_t first, uint64_t most)
{
	const struct heat *heat = &watch->activity.heat;
	int level = level_of(pages_of(watch, first), most);
	uint64_t pages = 0, end_bytes;
	uint32_t end = first;

	do
		pages += pages_of(watch, end++);
	while (end < heat->n_cells && end % COLUMNS &&
	       level_of(pages_of(watch, end), most) == level);
	end_bytes = end * heat->cell_bytes < heat->bytes ? end * heat->cell_bytes : heat->bytes;
	fprintf(to,
		"<rect class=\"h%d\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%d\"><title>%#" PRIx64
		" to %#" PRIx64 ": %" PRIu64 " pages</title></rect>\n",
		level, first % COLUMNS * CELL, first / COLUMNS * CELL, (end - first) * CELL - 1,
		CELL - 1, heat_gpa(heat, first * heat->cell_bytes),
		heat_gpa(heat, end_bytes - heat->page_bytes) + heat->page_bytes - 1, pages);
	return end;
}

static void draw_key(FILE *to, uint64_t most, uint64_t cell_bytes)
{
	char cell[HTML_NUMBER_BYTES], pages[HTML_NUMBER_BYTES];

	fprintf(to,
		"<figcaption>Guest memory, from left to right and down, %s a square. Pages that "
		"were sent again after the first pass:",
		html_bytes(cell, cell_bytes));
	for (int i = 0; i < LEVELS; i++) {
		/* A small maximum has fewer levels. */
		if (i && bound(most, i) == bound(most, i - 1))
			continue;
		fprintf(to,
			"<svg class=\"key\" viewBox=\"0 0 20 10\" aria-hidden=\"true\">"
			"<rect class=\"h%d\" width=\"20\" height=\"10\"/></svg>%s%s",
			i, i ? "up to " : "", output_grouped(pages, bound(most, i)));
	}
	fputs(".</figcaption>\n", to);
}

/* The parts that were written most, for readers to whom colours say nothing. */
static void print_hottest(FILE *to, const struct watch *watch)
{
	const struct heat *heat = &watch->activity.heat;
	char count[HTML_NUMBER_BYTES];
	uint32_t chosen[HOTTEST], n = 0;

	fputs("<table class=\"pairs\" id=\"hottest\">\n<caption class=\"mute\">Where most pages "
	      "were sent again</caption>\n",
	      to);
	for (uint32_t i = 0; i < heat->n_cells; i++) {
		uint32_t at = n < HOTTEST ? n++ : n;

		/* An insertion into a short sorted list, whose last element falls out. */
		for (; at && pages_of(watch, chosen[at - 1]) < pages_of(watch, i); at--)
			if (at < HOTTEST)
				chosen[at] = chosen[at - 1];
		if (at < HOTTEST)
			chosen[at] = i;
	}
	for (uint32_t i = 0; i < n && pages_of(watch, chosen[i]); i++)
		fprintf(to,
			"<tr><th scope=\"row\"><code>%#" PRIx64
			"</code></th><td>%s pages</td></tr>\n",
			heat_gpa(heat, chosen[i] * heat->cell_bytes),
			output_grouped(count, pages_of(watch, chosen[i])));
	fputs("</table>\n", to);
}

void html_map(FILE *to, const struct watch *watch)
{
	const struct heat *heat = &watch->activity.heat;
	uint64_t most = most_pages(watch);
	uint32_t rows = (heat->n_cells + COLUMNS - 1) / COLUMNS;

	if (!most) {
		fputs("<p id=\"map\" class=\"mute\">No page was sent a second time.</p>\n", to);
		return;
	}
	fprintf(to,
		"<figure id=\"map\">\n<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" "
		"aria-label=\"map of guest memory\" viewBox=\"0 0 %d %u\">\n",
		COLUMNS * CELL, rows * CELL);
	for (uint32_t i = 0; i < heat->n_cells;)
		i = draw_run(to, watch, i, most);
	fputs("</svg>\n", to);
	draw_key(to, most, heat->cell_bytes);
	fputs("</figure>\n", to);
	print_hottest(to, watch);
}
