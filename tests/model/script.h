/* SPDX-License-Identifier: MIT */
#ifndef MODEL_SCRIPT_H
#define MODEL_SCRIPT_H

/*
 * Random scripts of raw operations; a seed always makes the same script. Every operation has a
 * defined answer after any other, so a script stays valid when operations are removed from it.
 */

#include "sides.h"

enum {
	SCRIPT_OPS = 200,
};

enum script_kind {
	SCRIPT_BITMAP, /* no ring */
	SCRIPT_RING,   /* rings that are large enough for all entries */
	SCRIPT_FULL,   /* the smallest rings, and many writes */
	SCRIPT_BROKEN, /* user space breaks the rules about flags and indices */
	SCRIPT_KERNEL, /* kernel-mode guests too; small rings, large rings and none */
	SCRIPT_KINDS,
};

struct script {
	uint32_t count;
	struct op ops[SCRIPT_OPS];
};

/* Properties of the kernel, which the model takes over. */
struct script_host {
	struct model_options options;
	bool emulates_kernel_mode;
};

/* Counts of what was done on both sides with equal answers. */
struct script_tally {
	uint64_t scripts, ops, refused_ops, stores, lost_stores, full_exits, entries;
};

void script_make(struct script *script, enum script_kind kind, uint64_t seed,
		 const struct script_host *host);

/* Prints the script as C, to be pasted into a test. */
void script_print(const struct script *script);

/*
 * Runs a script on the model and on this machine's kernel, and adds to the tally unless it is NULL.
 * Returns the number of operations before the first different answer: script->count if there is
 * none. A difference is printed to stderr unless quiet; with trace every operation is printed, to
 * stdout.
 */
enum script_verbosity {
	SCRIPT_QUIET,
	SCRIPT_REPORT,
	SCRIPT_TRACE,
};
uint32_t script_run(const struct script *script, const struct script_host *host,
		    struct script_tally *tally, enum script_verbosity verbosity);

/* Removes operations that are not needed for the two to differ. */
void script_shrink(struct script *script, const struct script_host *host);

#endif
