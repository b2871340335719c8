/* SPDX-License-Identifier: MIT */
#include "file.h"
#include "crc32.h"
#include "pages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct file *file)
{
	snprintf(file->writer->why, sizeof(file->writer->why), "no memory for the index");
	return -ENOMEM;
}

int file_begin(struct file *file, struct writer *writer, const struct snap_header *header)
{
	struct iovec iov = { &file->header, sizeof(file->header) };
	char name[SNAP_NAME_BYTES];
	int r;

	file->writer = writer;
	file->header = *header;
	snap_seal_header(&file->header);
	file->open = true;
	file->n_extents = file->data_pages = file->zero_pages = file->file_bytes = 0;
	file->at = file->written_at = sizeof(file->header);
	file->n_iov = 0;
	file->copied_bytes = 0;
	file->writes = 1;
	*writer->why = '\0';
	snap_name(name, header->number);
	r = writer_begin(writer, name);
	return r ? r : writer_write(writer, &iov, 1, 0);
}

int file_flush(struct file *file)
{
	int r;

	if (!file->n_iov)
		return 0;
	r = writer_write(file->writer, file->iov, file->n_iov, file->written_at);
	file->written_at = file->at;
	file->n_iov = 0;
	file->writes++;
	return r;
}

/* The extent that these pages can join, or NULL. */
static struct snap_extent *neighbour(struct file *file, uint32_t flags, uint64_t image_bytes,
				     uint64_t bytes)
{
	struct snap_extent *last;

	if (!file->n_extents)
		return NULL;
	last = &file->extents[file->n_extents - 1];
	if (last->flags != flags || last->image_bytes + last->bytes != image_bytes ||
	    (!flags && last->bytes + bytes > SNAP_EXTENT_BYTES))
		return NULL;
	return last;
}

static struct snap_extent *new_extent(struct file *file, uint32_t flags, uint64_t image_bytes)
{
	struct snap_extent *extent;

	if (file->n_extents == file->room) {
		uint64_t room = file->room ? 2 * file->room : 1024;

		extent = realloc(file->extents, room * sizeof(*extent));
		if (!extent)
			return NULL;
		file->extents = extent;
		file->room = room;
	}
	extent = &file->extents[file->n_extents++];
	*extent = (struct snap_extent){ .image_bytes = image_bytes,
					.flags = flags,
					.file_bytes = flags ? 0 : file->at };
	return extent;
}

static int add_zeros(struct file *file, uint64_t image_bytes, uint64_t bytes)
{
	struct snap_extent *extent = neighbour(file, SNAP_EXTENT_ZERO, image_bytes, bytes);

	if (!extent)
		extent = new_extent(file, SNAP_EXTENT_ZERO, image_bytes);
	if (!extent)
		return no_memory(file);
	extent->bytes += bytes;
	file->zero_pages += bytes / file->header.page_bytes;
	return 0;
}

/* Memory that follows what is in the batch already makes a vector longer. */
static void add_vector(struct file *file, const uint8_t *memory, uint64_t bytes)
{
	struct iovec *last = file->n_iov ? &file->iov[file->n_iov - 1] : NULL;

	if (last && (const uint8_t *)last->iov_base + last->iov_len == memory)
		last->iov_len += bytes;
	else
		file->iov[file->n_iov++] = (struct iovec){ (void *)(uintptr_t)memory, bytes };
	file->at += bytes;
}

/* At most SNAP_EXTENT_BYTES, which one batch can hold. */
static int add_data(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes)
{
	struct snap_extent *extent;

	if (file->n_iov == WRITER_BATCH_VECTORS ||
	    file->at + bytes - file->written_at > WRITER_BATCH_BYTES) {
		int r = file_flush(file);

		if (r)
			return r;
	}
	extent = neighbour(file, 0, image_bytes, bytes);
	if (!extent)
		extent = new_extent(file, 0, image_bytes);
	if (!extent)
		return no_memory(file);
	extent->crc = crc32_add(extent->crc, memory, bytes);
	extent->bytes += bytes;
	add_vector(file, memory, bytes);
	file->data_pages += bytes / file->header.page_bytes;
	return 0;
}

/* How many bytes are of pages like the first, all zero or none. */
static uint64_t run_bytes(const struct file *file, const uint8_t *memory, uint64_t bytes,
			  bool *zero)
{
	uint32_t page_bytes = file->header.page_bytes;
	uint64_t run;

	*zero = page_is_zero(memory, page_bytes);
	for (run = page_bytes; run < bytes; run += page_bytes)
		if (page_is_zero(memory + run, page_bytes) != *zero ||
		    (!*zero && run == SNAP_EXTENT_BYTES))
			break;
	return run;
}

int file_add(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes)
{
	uint64_t done, run;
	int r = 0;

	for (done = 0; !r && done < bytes; done += run) {
		bool zero;

		run = run_bytes(file, memory + done, bytes - done, &zero);
		r = zero ? add_zeros(file, image_bytes + done, run)
			 : add_data(file, memory + done, image_bytes + done, run);
	}
	return r;
}

/* Adds a copy of pages that were not zero when they were looked at. */
static int copy_data(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes)
{
	int r = 0;

	while (!r && bytes) {
		uint64_t room = WRITER_BATCH_BYTES - file->copied_bytes;
		uint64_t n = bytes < room ? bytes : room;
		uint8_t *copy = file->copies + file->copied_bytes;

		/* Nothing points to the copies once they are written. */
		if (!n) {
			r = file_flush(file);
			file->copied_bytes = 0;
			continue;
		}
		memcpy(copy, memory, n);
		file->copied_bytes += n;
		r = file_add(file, copy, image_bytes, n);
		memory += n;
		image_bytes += n;
		bytes -= n;
	}
	return r;
}

int file_copy(struct file *file, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes)
{
	uint64_t done, run;
	int r = 0;

	if (!file->copies)
		file->copies = malloc(WRITER_BATCH_BYTES);
	if (!file->copies)
		return no_memory(file);
	for (done = 0; !r && done < bytes; done += run) {
		bool zero;

		run = run_bytes(file, memory + done, bytes - done, &zero);
		/* Zeros have no sum, and need no copy. */
		r = zero ? add_zeros(file, image_bytes + done, run)
			 : copy_data(file, memory + done, image_bytes + done, run);
	}
	return r;
}

/* Writes as many batches as it takes. */
static int write_plain(struct file *file, const void *data, uint64_t bytes)
{
	const char *from = data;
	uint64_t done = 0;
	int r = 0;

	while (!r && done < bytes) {
		uint64_t n = bytes - done < WRITER_BATCH_BYTES ? bytes - done : WRITER_BATCH_BYTES;
		struct iovec iov = { (void *)(uintptr_t)(from + done), n };

		r = writer_write(file->writer, &iov, 1, file->written_at);
		file->written_at += n;
		file->writes++;
		done += n;
	}
	return r;
}

int file_finish(struct file *file, const struct snap_state *state, const uint32_t *memory_crc)
{
	uint64_t index_bytes = file->n_extents * sizeof(*file->extents);
	struct snap_footer footer = { .magic = SNAP_END_MAGIC,
				      .index_bytes = file->at,
				      .extents = file->n_extents,
				      .state_bytes = snap_state_bytes(file->header.vcpus),
				      .data_pages = file->data_pages,
				      .zero_pages = file->zero_pages,
				      .memory_crc = memory_crc ? *memory_crc : 0,
				      .flags = memory_crc ? SNAP_HAS_MEMORY_CRC : 0 };
	int r = file_flush(file);

	memcpy(footer.id, file->header.id, sizeof(footer.id));
	footer.index_crc = crc32_add(0, file->extents, index_bytes);
	footer.state_crc = crc32_add(0, state, footer.state_bytes);
	footer.file_bytes = file->at + index_bytes + footer.state_bytes + sizeof(footer);
	snap_seal_footer(&footer);
	if (!r)
		r = write_plain(file, file->extents, index_bytes);
	if (!r)
		r = write_plain(file, state, footer.state_bytes);
	if (!r)
		r = write_plain(file, &footer, sizeof(footer));
	if (!r)
		r = writer_commit(file->writer);
	if (r)
		return r;
	file->file_bytes = footer.file_bytes;
	file->open = false;
	return 0;
}

void file_abort(struct file *file)
{
	if (file->open)
		writer_abort(file->writer);
	file->open = false;
}

void file_free(struct file *file)
{
	free(file->extents);
	free(file->copies);
	file->extents = NULL;
	file->copies = NULL;
	file->room = file->n_extents = 0;
}
