/* SPDX-License-Identifier: MIT */
#include "canvas.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

static const char *const colours[STYLES] = {
	[STYLE_PLAIN] = "",	     [STYLE_TITLE] = "\033[1;7m",  [STYLE_LABEL] = "\033[1m",
	[STYLE_DIM] = "\033[2m",     [STYLE_ALARM] = "\033[1;31m", [STYLE_BAR] = "\033[36m",
	[STYLE_HEAT_0] = "\033[2m",  [STYLE_HEAT_1] = "\033[34m",  [STYLE_HEAT_2] = "\033[36m",
	[STYLE_HEAT_3] = "\033[33m", [STYLE_HEAT_4] = "\033[31m",
};

int canvas_reset(struct canvas *canvas, int rows, int columns)
{
	size_t n;
	struct cell *cells;

	rows = rows < 1 ? 1 : rows < CANVAS_MAX_ROWS ? rows : CANVAS_MAX_ROWS;
	columns = columns < 1 ? 1 : columns < CANVAS_MAX_COLUMNS ? columns : CANVAS_MAX_COLUMNS;
	n = (size_t)rows * (size_t)columns;
	cells = realloc(canvas->cells, n * sizeof(*cells));
	if (!cells)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		cells[i] = (struct cell){ ' ', STYLE_PLAIN };
	canvas->cells = cells;
	canvas->rows = rows;
	canvas->columns = columns;
	return 0;
}

void canvas_free(struct canvas *canvas)
{
	free(canvas->cells);
}

void canvas_put_character(struct canvas *canvas, int row, int column, enum style style,
			  uint16_t character)
{
	if (row < 0 || row >= canvas->rows || column < 0 || column >= canvas->columns)
		return;
	canvas->cells[row * canvas->columns + column] = (struct cell){ character, (uint8_t)style };
}

int canvas_put(struct canvas *canvas, int row, int column, enum style style, const char *format,
	       ...)
{
	char text[CANVAS_MAX_COLUMNS];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (const char *at = text; *at; at++)
		canvas_put_character(canvas, row, column++, style,
				     *at >= ' ' && *at <= '~' ? (uint16_t)*at : '?');
	return column;
}

static void print_character(uint16_t c, FILE *to)
{
	if (c < 0x80) {
		fputc(c, to);
	} else if (c < 0x800) {
		fputc(0xc0 | c >> 6, to);
		fputc(0x80 | (c & 0x3f), to);
	} else {
		fputc(0xe0 | c >> 12, to);
		fputc(0x80 | (c >> 6 & 0x3f), to);
		fputc(0x80 | (c & 0x3f), to);
	}
}

/* Up to the last character that shows: a title's blanks do. */
static int used_columns(const struct canvas *canvas, int row)
{
	const struct cell *cells = &canvas->cells[row * canvas->columns];
	int n = canvas->columns;

	while (n && cells[n - 1].character == ' ' &&
	       (cells[n - 1].style != STYLE_TITLE || !canvas->colour))
		n--;
	return n;
}

static void print_row(const struct canvas *canvas, int row, FILE *to)
{
	const struct cell *cells = &canvas->cells[row * canvas->columns];
	int n = used_columns(canvas, row);
	uint8_t style = STYLE_PLAIN;

	for (int i = 0; i < n; i++) {
		if (canvas->colour && cells[i].style != style) {
			fprintf(to, "%s%s", style == STYLE_PLAIN ? "" : "\033[0m",
				colours[cells[i].style]);
			style = cells[i].style;
		}
		print_character(cells[i].character, to);
	}
	if (style != STYLE_PLAIN)
		fputs("\033[0m", to);
}

void canvas_print(const struct canvas *canvas, FILE *to, const char *before, const char *after)
{
	int rows = canvas->rows;

	while (rows > 1 && !used_columns(canvas, rows - 1))
		rows--;
	for (int row = 0; row < rows; row++) {
		fputs(before, to);
		print_row(canvas, row, to);
		if (row + 1 < rows)
			fputs(after, to);
	}
}
