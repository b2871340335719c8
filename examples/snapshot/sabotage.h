/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_SABOTAGE_H
#define SNAPSHOT_SABOTAGE_H

#include "machine.h"
#include "options.h"

/*
 * --sabotage: the mistakes of a careless caller of the library. None of this belongs in a VMM; it
 * exists to show that the proof fails. All functions do nothing for the other kinds.
 *
 * The page that is lost is the one with the device's state, which is written in each pause.
 */
struct saboteur {
	enum sabotage kind;
	const struct machine *machine;
	uint8_t *copy; /* read-early: an outdated copy of guest memory */
};

/* Returns 0 or -ENOMEM. */
int saboteur_init(struct saboteur *saboteur, enum sabotage kind, const struct machine *machine);
void saboteur_free(struct saboteur *saboteur);

/* read-early: copies all of guest memory. Called before a pass. */
void saboteur_copy(struct saboteur *saboteur);

/* The memory that is saved. */
const uint8_t *saboteur_memory(const struct saboteur *saboteur);

/* ack, drop: whether this page is committed without being saved. */
bool saboteur_skips(const struct saboteur *saboteur, uint64_t image_bytes, bool paused);

#endif
