/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_READER_H
#define SNAPSHOT_READER_H

#include "format.h"

/* Reads a point's file, which may come from anywhere. */
struct reader {
	int fd;
	struct snap_header header;
	struct snap_footer footer;
	struct snap_extent *extents; /* footer.extents */
	struct snap_state state;
	uint8_t *contents; /* of one extent */
	char why[160];
};

/* These return 0, or a negative errno value with the reason in why: -EBADMSG for a damaged file. */

/*
 * Takes the descriptor. Checks header, index, state and footer; extents are whole pages of the
 * image, and their contents fill the file. Contents are not looked at.
 */
int reader_open(struct reader *reader, int fd);

/* Like reader_open(), but reads header and footer only, for a list. */
int reader_peek(struct reader *reader, int fd);

/* Reads and checks the contents of a data extent. They stay until the next call. */
int reader_load(struct reader *reader, const struct snap_extent *extent);

/* Checks the contents of every extent. */
int reader_verify(struct reader *reader);

/* May be called after a failure, and again. */
void reader_close(struct reader *reader);

#endif
