/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_LAYOUT_H
#define SIMULATION_LAYOUT_H

/* Functions of layout.c for slotter.c. Each consumer is a bit. */

#include "world.h"

bool layout_is_there(uint32_t place);

/* Notes whether passes of some consumers must transfer the memory of a place. */
void layout_set_due(const struct place *place, uint32_t consumers, bool due);
/* They must, of all slots that are set and that they cover. */
void layout_settle_due(uint32_t consumers);

/* Another slot over the same block. */
bool layout_has_neighbour(uint32_t place, bool unlogged);

/* The consumers that are there, and those of them that cover a place. */
uint32_t layout_attached(void);
uint32_t layout_covering(uint32_t place);

/* All slots over the same memory are logged, or none is; and likewise wanted. */
uint32_t layout_sound_flags(uint32_t place, uint32_t flags);

#endif
