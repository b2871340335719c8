/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_PROOF_H
#define SNAPSHOT_PROOF_H

#include "chain.h"
#include "machine.h"
#include "report.h"

/* The proofs at the end of a run. These return the exit status; the report has the reason. */

/*
 * Loads the chain again. The guest stands still: its memory is what the files of the last point
 * must have.
 */
int prove_last(struct chain *chain, int dir_fd, const struct machine *machine, uint64_t number,
	       struct report *report);

/* Each point is what memory was when it was taken. */
int prove_all(struct chain *chain, struct report *report);

#endif
