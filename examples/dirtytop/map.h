/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_MAP_H
#define DIRTYTOP_MAP_H

#include "canvas.h"
#include "view.h"

/* Draws the map of guest memory in at most so many rows, with its title. Returns the next row. */
int map_draw(struct canvas *canvas, int row, int rows, const struct view *view);

#endif
