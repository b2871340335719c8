/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_CANVAS_H
#define DIRTYTOP_CANVAS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* A grid of characters. What does not fit is cut off, so no line is ever wider than the grid. */

enum style {
	STYLE_PLAIN,
	STYLE_TITLE,
	STYLE_LABEL,
	STYLE_DIM,
	STYLE_ALARM,
	STYLE_BAR,
	STYLE_HEAT_0,
	STYLE_HEAT_1,
	STYLE_HEAT_2,
	STYLE_HEAT_3,
	STYLE_HEAT_4,
	STYLES,
};

enum { CANVAS_MAX_COLUMNS = 1024, CANVAS_MAX_ROWS = 512 };

struct cell {
	uint16_t character; /* of the basic multilingual plane */
	uint8_t style;
};

struct canvas {
	int rows, columns;
	bool colour;
	bool utf8; /* others get ASCII only */
	struct cell *cells;
};

/* Clears it, at a size. Returns 0 or -ENOMEM. */
int canvas_reset(struct canvas *canvas, int rows, int columns);
void canvas_free(struct canvas *canvas);

/* Puts ASCII text at a place. Returns the column after it. */
int canvas_put(struct canvas *canvas, int row, int column, enum style style, const char *format,
	       ...) __attribute__((format(printf, 5, 6)));

void canvas_put_character(struct canvas *canvas, int row, int column, enum style style,
			  uint16_t character);

/*
 * Prints the rows down to the last one that is not empty, each after before and followed by after,
 * which does not come after the last row.
 */
void canvas_print(const struct canvas *canvas, FILE *to, const char *before, const char *after);

#endif
