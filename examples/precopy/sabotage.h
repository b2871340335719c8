/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SABOTAGE_H
#define PRECOPY_SABOTAGE_H

#include "machine.h"
#include "options.h"

/*
 * --sabotage: the mistakes of a careless caller of the library. None of this belongs in a VMM; it
 * exists to show that verification fails. All functions do nothing for SABOTAGE_NONE.
 *
 * Each kind loses a page that no later pass can make up for: the page with the device's state,
 * which every run writes between the last live pass and the final one. log, in device_process.c,
 * loses the pages of the device process, which saves its state when it stops.
 */

struct saboteur {
	enum sabotage kind;
	const struct machine *machine;
	uint8_t *copy; /* read-early: an outdated copy of guest memory */
};

/* Returns 0 or -ENOMEM. */
int saboteur_init(struct saboteur *saboteur, enum sabotage kind, const struct machine *machine);
void saboteur_free(struct saboteur *saboteur);

/* read-early: copies all of guest memory. Called before a harvest. */
void saboteur_snapshot(struct saboteur *saboteur);

/* The memory from which a page is sent. */
const uint8_t *saboteur_contents(const struct saboteur *saboteur, uint64_t offset_bytes);

/* ack, drop: whether this page is acknowledged without being sent. */
bool saboteur_skips_page(const struct saboteur *saboteur, uint64_t offset_bytes, bool final);

#endif
