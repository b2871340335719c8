/* SPDX-License-Identifier: MIT */
#ifndef MODEL_SCRIPT_H
#define MODEL_SCRIPT_H

/*
 * Scripts of raw operations made by chance: the same seed, the same script. Every operation has a
 * defined answer after any other, so a script is still one when operations are taken out of it.
 */

#include "sides.h"

enum {
	SCRIPT_OPS = 200,
};

enum script_kind {
	SCRIPT_BITMAP, /* no ring */
	SCRIPT_RING,   /* rings that are large enough for all of it */
	SCRIPT_FULL,   /* the smallest rings, and much that is written */
	SCRIPT_BROKEN, /* user space breaks the rules about flags and indices */
	SCRIPT_KERNEL, /* guests in kernel mode too, with rings of both sizes and without */
	SCRIPT_KINDS,
};

struct script {
	uint32_t count;
	struct op ops[SCRIPT_OPS];
};

/* What the kernel is like, and with it the model. */
struct script_host {
	struct model_options options;
	bool emulates_kernel_mode;
};

/* What was done on both sides, with the same answers. */
struct script_tally {
	uint64_t scripts, ops, refused_ops, stores, lost_stores, full_exits, entries;
};

void script_make(struct script *script, enum script_kind kind, uint64_t seed,
		 const struct script_host *host);

/* As C, to be pasted into a test. */
void script_print(const struct script *script);

/*
 * Runs a script on the model and on this machine's kernel, and adds to the tally, if there is one.
 * Returns how many operations gave the same answer: script->count where all did. What differs is
 * told on stderr unless quiet; trace tells every operation.
 */
enum script_talk {
	SCRIPT_QUIET,
	SCRIPT_TELL,
	SCRIPT_TRACE,
};
uint32_t script_run(const struct script *script, const struct script_host *host,
		    struct script_tally *tally, enum script_talk talk);

/* Takes out what is not needed for the two to differ. */
void script_shrink(struct script *script, const struct script_host *host);

#endif
