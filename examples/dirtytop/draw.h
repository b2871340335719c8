/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_DRAW_H
#define DIRTYTOP_DRAW_H

#include "canvas.h"
#include "view.h"

/* Draws the whole canvas. The footer is the last row; NULL: none. */
void draw(struct canvas *canvas, const struct view *view, const char *footer);

#endif
