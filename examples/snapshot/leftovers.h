/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_LEFTOVERS_H
#define SNAPSHOT_LEFTOVERS_H

#include "chain.h"
#include "disk.h"

/*
 * The list of the files that a merge replaces. It is on disk before the merge takes effect, so that
 * the next command that writes can finish a merge that was interrupted. What is to be deleted is
 * never inferred from the points themselves: those of an interrupted merge look like siblings.
 *
 *   start    16 bytes       the number of entries
 *   entries  32 bytes each  the point that the merge makes, then those that it replaces
 *   crc      4 bytes        CRC-32 of the bytes before it
 */

#define LEFTOVERS_MAGIC "DLSNDEL\n"

struct leftovers_start {
	char magic[8];
	uint32_t version; /* SNAP_VERSION */
	uint32_t entries;
};

/* A file. The sum of its header tells a point from one that was merged under its identity. */
struct leftovers_entry {
	uint64_t number;
	uint8_t id[SNAP_ID_BYTES];
	uint32_t header_crc;
	uint32_t zero;
};

_Static_assert(sizeof(struct leftovers_entry) == 32, "an entry's size is part of the format");

/* The outcome for the files in a list. */
struct leftovers {
	bool found;
	bool effective; /* the merge had taken effect */
	uint32_t deleted;
	uint32_t kept; /* others are relative to them */
	char why[200]; /* the list was not followed, or of a failure */
};

/* These return 0, or a negative errno value; leftovers_delete() with the reason in why. */

/*
 * Writes the list for a merge of the points, of which the last one gets the header. On failure
 * there may be a list that asks for nothing.
 */
int leftovers_write(struct disk *disk, const struct snap_header *header,
		    const struct point *const *points, uint32_t n);

/*
 * Deletes what the list of a merge that took effect names and what is still the same file, and then
 * the list. A list that is damaged, or whose merge did not take effect, is deleted alone.
 */
int leftovers_delete(struct disk *disk, struct leftovers *leftovers);

/* After a merge that failed: deletes the list, unless it took effect. Errors are ignored. */
void leftovers_undo(struct disk *disk);

/* Whether there is a list: a merge is under way, or was interrupted. */
bool leftovers_exist(int dir_fd);

#endif
