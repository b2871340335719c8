/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_IMAGE_H
#define SNAPSHOT_IMAGE_H

#include "chain.h"

/* Memory as it was at a point: the files from the base on, one after another. */

/*
 * Applies a point's file to memory that is as it was at its parent. The memory of a base is zero
 * before it. Returns 0, or a negative errno value with the reason in the reader's why; then the
 * memory is neither.
 */
int image_apply(uint8_t *memory, struct reader *reader);

/*
 * Makes the memory, of header.memory_bytes, from zeros, and the state with it. If the file has a
 * sum of the memory, it is checked. Returns 0, or a negative errno value with the reason in the
 * chain's why.
 */
int image_restore(struct chain *chain, const struct point *point, uint8_t *memory,
		  struct snap_state *state);

/* Maps memory of zeros, or returns NULL. */
uint8_t *image_map(uint64_t bytes);
void image_unmap(uint8_t *memory, uint64_t bytes);

/* Whether the memory has the sum that the file has, if it has one. */
bool image_matches(const uint8_t *memory, const struct reader *reader);

#endif
