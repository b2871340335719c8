/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_CHAIN_H
#define SNAPSHOT_CHAIN_H

#include "reader.h"

#include <errno.h>

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

/* Loads it again. Points, and pointers to them, are others afterwards. */
int chain_reload(struct chain *chain);

/* Where the first point is whose number is not smaller; or the number of points. */
uint32_t chain_index(const struct chain *chain, uint64_t number);

/* The point with a number; 0: the last that is not damaged and whose parents are all there. */
int chain_find(struct chain *chain, uint64_t number, const struct point **point);

/*
 * The points from a base to this one, in order. The array is the caller's to free. -EBADMSG: one is
 * damaged or missing, or they do not belong together.
 */
int chain_path(struct chain *chain, const struct point *to, const struct point ***path,
	       uint32_t *n);

/*
 * Opens a point's file; the reason for a failure names it. -EAGAIN, -ENOENT: since the chain was
 * loaded, a merge has replaced or removed the file.
 */
int chain_read(struct chain *chain, const struct point *point, struct reader *reader);

static inline bool chain_is_outdated(int failure)
{
	return failure == -EAGAIN || failure == -ENOENT;
}

void chain_free(struct chain *chain);

#endif
