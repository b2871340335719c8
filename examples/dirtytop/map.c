/* SPDX-License-Identifier: MIT */
#include "map.h"

#include <inttypes.h>
#include <stdio.h>

enum { LEVELS = 5 };

static const uint16_t characters[LEVELS] = { 0xb7, 0x2591, 0x2592, 0x2593, 0x2588 };
static const char ascii[LEVELS + 1] = ".-+*#";

static void put_level(struct canvas *canvas, int row, int column, int level)
{
	canvas_put_character(canvas, row, column, (enum style)(STYLE_HEAT_0 + level),
			     canvas->utf8 ? characters[level] : (uint16_t)ascii[level]);
}

/* By the share of the pages that were sent lately. */
static int level_of(double pages, double of)
{
	static const double least[LEVELS] = { 0, 0, 1. / 16, 1. / 4, 1. / 2 };
	int level = LEVELS - 1;

	if (pages < 0.5)
		return 0;
	while (level > 1 && pages < least[level] * of)
		level--;
	return level;
}

static void draw_title(struct canvas *canvas, int row, uint64_t cell_bytes)
{
	static const char *const names[LEVELS] = { "none", "some", "1/16", "1/4", "1/2" };
	int at = canvas_put(canvas, row, 0, STYLE_LABEL, "memory");

	if (cell_bytes >> 20)
		at = canvas_put(canvas, row, at, STYLE_DIM, "  %" PRIu64 " MiB", cell_bytes >> 20);
	else
		at = canvas_put(canvas, row, at, STYLE_DIM, "  %" PRIu64 " KiB", cell_bytes >> 10);
	at = canvas_put(canvas, row, at, STYLE_DIM, " each, sent lately: ");
	for (int i = 0; i < LEVELS; i++) {
		put_level(canvas, row, at, i);
		at = canvas_put(canvas, row, at + 1, STYLE_DIM, " %s  ", names[i]);
	}
}

int map_draw(struct canvas *canvas, int row, int rows, const struct view *view)
{
	const struct snapshot *s = &view->now;
	uint32_t columns = (uint32_t)canvas->columns, together, n;
	double pages;

	if (rows < 2 || !s->n_cells)
		return row;
	/* So many of the map's cells are one on the screen. */
	together = (s->n_cells + columns * (uint32_t)(rows - 1) - 1) /
		   (columns * (uint32_t)(rows - 1));
	n = (s->n_cells + together - 1) / together;
	pages = (double)together * (double)s->cell_bytes / (double)s->page_bytes;
	draw_title(canvas, row, together * s->cell_bytes);
	for (uint32_t i = 0; i < n; i++) {
		double sum = 0;

		for (uint32_t j = i * together; j < (i + 1) * together && j < s->n_cells; j++)
			sum += view->heat[j];
		put_level(canvas, row + 1 + (int)(i / columns), (int)(i % columns),
			  level_of(sum, pages));
	}
	return row + 1 + (int)((n + columns - 1) / columns);
}
