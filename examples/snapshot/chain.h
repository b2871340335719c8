/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_CHAIN_H
#define SNAPSHOT_CHAIN_H

#include "reader.h"

/* The points of a directory. Each is relative to its parent; a base has none. */

struct point {
	uint64_t number;
	struct snap_header header;
	struct snap_footer footer;
	char why[160]; /* not empty: the file is damaged, and header and footer mean nothing */
};

struct chain {
	int dir_fd;
	struct point *points; /* by number */
	uint32_t n;
	char why[200];
};

/*
 * Opens a directory; to write there, locks others out that do. Returns the descriptor, or a
 * negative errno value with the reason in why.
 */
int chain_open_dir(const char *path, bool to_write, char *why, size_t why_bytes);

/* These return 0, or a negative errno value with the reason in why. dir_fd is borrowed. */
int chain_load(struct chain *chain, int dir_fd);

/* The point with a number; 0: the last that is not damaged and whose parents are all there. */
int chain_find(struct chain *chain, uint64_t number, const struct point **point);

/*
 * The points from a base to this one, in order. The array is the caller's to free. -EBADMSG: one is
 * damaged or missing, or they do not belong together.
 */
int chain_path(struct chain *chain, const struct point *to, const struct point ***path,
	       uint32_t *n);

/* Opens a point's file; the reason for a failure names it. */
int chain_read(struct chain *chain, const struct point *point, struct reader *reader);

void chain_free(struct chain *chain);

#endif
