/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOT_PARTS_H
#define DLI_SLOT_PARTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A slot table consists of parts. A new table shares every part with the old one except those that
 * the change touches, so a change costs little however many slots there are.
 */

/* The head of each part. Writers use it under the log's lock; readers of a table never look. */
struct dli_part {
	struct dli_part *next; /* in the one list that it is in */
	uint64_t version;      /* of the table that it was made for */
};

/* How a table differs from the one that it was made from. */
struct dli_parts {
	uint64_t version;
	struct dli_part *fresh;	   /* made for this table */
	struct dli_part *replaced; /* parts of the other table that this one does not have */
};

/* Makes a part, whose head is the first member of its structure. NULL: no memory. */
void *dli_part_new(struct dli_parts *parts, size_t bytes);

/* Notes that the new table does without a part of the old one. */
void dli_part_replace(struct dli_parts *parts, struct dli_part *part);

/* Whether only the new table has the part, which may therefore still be changed. */
static inline bool dli_part_is_fresh(const struct dli_parts *parts, const struct dli_part *part)
{
	return part->version == parts->version;
}

void dli_part_free_list(struct dli_part *part);

#endif
