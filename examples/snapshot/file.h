/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_FILE_H
#define SNAPSHOT_FILE_H

#include "writer.h"

/* A point's file while it is written, from front to back. */
struct file {
	struct writer *writer;
	struct snap_header header;
	bool open;
	struct snap_extent *extents;
	uint64_t n_extents, room;
	uint64_t at;	     /* where the next contents go */
	uint64_t written_at; /* what is before this was given to the writer */
	struct iovec iov[WRITER_BATCH_VECTORS];
	int n_iov;
	uint8_t *copies; /* WRITER_BATCH_BYTES, for file_copy() */
	uint64_t copied_bytes;
	uint64_t data_pages, zero_pages;
	uint64_t file_bytes; /* when it is complete */
	uint64_t writes;
};

/* These return 0, or a negative errno value with the reason in the writer's why. */

/* The header is complete except for its sum. */
int file_begin(struct file *file, struct writer *writer, const struct snap_header *header);

/*
 * Adds whole pages of the image, those of zeros as holes. The memory is read until file_flush(),
 * and must not change before that: the sum would be that of other contents. What was added later
 * replaces what was added before.
 */
int file_add(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes);
int file_flush(struct file *file);

/* Like file_add(), but copies the memory first, which may change or go away. */
int file_copy(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes);

/*
 * Completes the file: when this returns 0, it has its name and will keep it. memory_crc may be
 * NULL.
 */
int file_finish(struct file *file, const struct snap_state *state, const uint32_t *memory_crc);

/* Gives the file up, unless it was completed. */
void file_abort(struct file *file);
void file_free(struct file *file);

#endif
