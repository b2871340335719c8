/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_IMAGE_H
#define SNAPSHOT_IMAGE_H

#include "chain.h"

/*
 * Memory as it was at a point: the files from the base on, one after another. Pages that no file
 * has contents for are not touched: a file may say that terabytes are zero.
 */
struct image {
	uint8_t *memory;
	uint64_t bytes;
	uint32_t page_bytes;
	uint64_t *written; /* a bit a page; other pages are zero */
};

/* The memory, which is zero, is borrowed. Returns 0 or -ENOMEM. */
int image_init(struct image *image, uint8_t *memory, const struct snap_header *header);
void image_free(struct image *image);

/*
 * Applies a point's file to an image that is as it was at its parent, or empty for a base. Returns
 * 0, or a negative errno value with the reason in the reader's why; then the memory is neither.
 */
int image_apply(struct image *image, struct reader *reader);

/*
 * Applies the files of a point to an empty image, and makes the state with it. If the file has a
 * sum of the memory, it is checked. Returns 0, or a negative errno value with the reason in the
 * chain's why.
 */
int image_replay(struct chain *chain, const struct point *point, struct image *image,
		 struct snap_state *state);

/* The same for memory of zeros, of header.memory_bytes. */
int image_restore(struct chain *chain, const struct point *point, uint8_t *memory,
		  struct snap_state *state);

/* Maps memory of zeros, or returns NULL. */
uint8_t *image_map(uint64_t bytes);
void image_unmap(uint8_t *memory, uint64_t bytes);

/* Whether the memory has the sum that the file has, if it has one. */
bool image_matches(const struct image *image, const struct reader *reader);

#endif
