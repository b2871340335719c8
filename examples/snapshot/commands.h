/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_COMMANDS_H
#define SNAPSHOT_COMMANDS_H

#include "chain.h"
#include "report.h"

/* The commands of the program. They return the exit status; the report has the error. */

/* Runs a guest and takes points of it. */
int command_run(struct options *options, struct report *report);

/* Makes a guest of a point, and runs it. */
int command_restore(const struct options *options, struct report *report);

int command_verify(const struct options *options, struct report *report);
int command_merge(const struct options *options, struct report *report);
int command_list(const struct options *options, struct report *report);

/*
 * Checks each file, that its parents are there, and the memory of each point that has its sum.
 * Returns the number of points that are not sound, or a negative errno value with the reason in the
 * chain's why. Prints the rows of unsound ones, or of all.
 */
int64_t verify_points(struct chain *chain, struct report *report, bool print_all);

/*
 * Opens a machine for the guest of a header. Returns 0, or a negative errno value with the reason
 * in why.
 */
int restore_open(struct host *host, const struct snap_header *header, char *why, size_t why_bytes);

/*
 * Before a command writes: deletes what was being written, and finishes or undoes a merge that was
 * interrupted. The directory is locked. Returns the exit status.
 */
int finish_merge(struct disk *disk, struct report *report);

/* For a command that only reads. */
void name_interrupted_merge(int dir_fd, struct report *report);

#endif
