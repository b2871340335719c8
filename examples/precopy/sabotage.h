/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SABOTAGE_H
#define PRECOPY_SABOTAGE_H

#include "machine.h"

/*
 * --sabotage: what a careless caller of the library would do. None of it belongs into a VMM; it is
 * here so that the proof can be seen to fail. All functions do nothing for SABOTAGE_NONE.
 *
 * Each kind leaves a page behind that no later pass can bring: the page with the device's state,
 * which is written between the last ordinary pass and the final one in every run.
 */

struct saboteur {
	enum sabotage kind;
	const struct machine *machine;
	uint8_t *copy; /* read-early: all of the memory, as it was some time ago */
};

/* Returns 0 or -ENOMEM. */
int saboteur_init(struct saboteur *saboteur, enum sabotage kind, const struct machine *machine);
void saboteur_free(struct saboteur *saboteur);

/* read-early: copies the contents of all pages, to be called before a harvest. */
void saboteur_copy(struct saboteur *saboteur);

/* Where a page's contents are sent from. */
const uint8_t *saboteur_contents(const struct saboteur *saboteur, uint64_t offset_bytes);

/* ack, drop: whether this page is passed over. */
bool saboteur_skips(const struct saboteur *saboteur, uint64_t offset_bytes, bool final);

#endif
