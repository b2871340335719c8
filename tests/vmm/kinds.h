/* SPDX-License-Identifier: MIT */
#ifndef VMM_KINDS_H
#define VMM_KINDS_H

/* Kinds of VM. What is said of the kernel concerns the model only. */

#include "vmm.h"

#define RINGS	     (MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL)
#define WITHOUT_INIT (RINGS | MODEL_HAS_MANUAL_PROTECT)

struct kind {
	const char *name;
	struct vmm_config config;
};

static const struct kind kinds[] = {
	{ "ring, shared", { .mode = DL_MODE_RING, .shared = true } },
	{ "ring, own, marks", { .mode = DL_MODE_RING, .give_marks = true } },
	{ "ring, own, no clear", { .mode = DL_MODE_RING, .no_clear = true } },
	{ "small ring, shared, marks",
	  { .mode = DL_MODE_RING, .ring_entries = 256, .shared = true, .give_marks = true } },
	{ "ring and backup, own",
	  { .mode = DL_MODE_RING,
	    .log_backup = DL_BACKUP_REQUIRED,
	    .model = { .has = RINGS | MODEL_HAS_BACKUP } } },
	{ "ring that overflows, shared",
	  { .mode = DL_MODE_RING,
	    .ring_entries = 256,
	    .shared = true,
	    .model = { .batch_writes = 300 } } },
	{ "bitmap, shared, no clear",
	  { .mode = DL_MODE_BITMAP, .shared = true, .no_clear = true } },
	{ "bitmap, own, no clear, marks",
	  { .mode = DL_MODE_BITMAP, .no_clear = true, .give_marks = true } },
	{ "bitmap, own", { .mode = DL_MODE_BITMAP } },
	{ "bitmap not initially set, shared, no clear, marks",
	  { .mode = DL_MODE_BITMAP,
	    .shared = true,
	    .no_clear = true,
	    .give_marks = true,
	    .model = { .has = WITHOUT_INIT } } },
	{ "bitmap not initially set, own, no clear",
	  { .mode = DL_MODE_BITMAP, .no_clear = true, .model = { .has = WITHOUT_INIT } } },
	{ "bitmap without manual protection, shared",
	  { .mode = DL_MODE_BITMAP, .shared = true, .model = { .has = MODEL_HAS_NOTHING } } },
};

enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* Those in which one mistake at a time is planted. */
static const struct kind few_kinds[] = {
	{ "ring, shared", { .mode = DL_MODE_RING, .shared = true } },
	{ "ring, own, marks", { .mode = DL_MODE_RING, .give_marks = true } },
	{ "bitmap, shared, no clear",
	  { .mode = DL_MODE_BITMAP, .shared = true, .no_clear = true } },
	{ "bitmap, own, no clear, marks",
	  { .mode = DL_MODE_BITMAP, .no_clear = true, .give_marks = true } },
	{ "bitmap not initially set, shared, no clear",
	  { .mode = DL_MODE_BITMAP,
	    .shared = true,
	    .no_clear = true,
	    .model = { .has = WITHOUT_INIT } } },
};

enum { FEW_KINDS = sizeof(few_kinds) / sizeof(few_kinds[0]) };

#endif
