/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_EVERY_MODE_H
#define MIGRATIONS_EVERY_MODE_H

/* A test that runs in every mode of the log: with rings, and with each kind of bitmap. */

#include "cmocka_all.h"
#include "migration.h"

static const struct {
	uint32_t has, mode;
} every_mode[] = {
	{ MODEL_HAS_RING_ACQ_REL, DL_MODE_RING },
	{ MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP, DL_MODE_RING },
	{ MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET, DL_MODE_BITMAP },
	{ MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP },
	{ MODEL_HAS_NOTHING, DL_MODE_BITMAP },
};

#define FOR_EACH_MODE(i) for (size_t i = 0; i < sizeof(every_mode) / sizeof(every_mode[0]); i++)

static inline struct guest_config config_of_mode(size_t i)
{
	return (struct guest_config){ .model = { .has = every_mode[i].has },
				      .options = { .mode = every_mode[i].mode,
						   .ring_entries = 256 } };
}

#endif
