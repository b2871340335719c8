/* SPDX-License-Identifier: MIT */
#include "reader.h"
#include "crc32.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(struct reader *reader, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct reader *reader, int failure, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(reader->why, sizeof(reader->why), format, args);
	va_end(args);
	return failure;
}

static int damaged(struct reader *reader, const char *what)
{
	return fail(reader, -EBADMSG, "%s", what);
}

static int read_at(struct reader *reader, void *data, uint64_t bytes, uint64_t offset)
{
	char *at = data;

	while (bytes) {
		ssize_t n = pread(reader->fd, at, bytes, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(reader, -errno, "cannot read it: %s", strerror(errno));
		if (!n)
			return damaged(reader, "it ends early");
		at += n;
		bytes -= (uint64_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

int reader_peek(struct reader *reader, int fd)
{
	const char *wrong;
	struct stat file;
	uint64_t bytes;
	int r;

	memset(reader, 0, sizeof(*reader));
	reader->fd = fd;
	if (fstat(fd, &file))
		return fail(reader, -errno, "cannot look at it: %s", strerror(errno));
	bytes = (uint64_t)file.st_size;
	if (!S_ISREG(file.st_mode) || bytes < sizeof(reader->header) + sizeof(reader->footer))
		return damaged(reader, "it is not complete");
	r = read_at(reader, &reader->header, sizeof(reader->header), 0);
	if (r)
		return r;
	wrong = snap_check_header(&reader->header);
	if (wrong)
		return damaged(reader, wrong);
	r = read_at(reader, &reader->footer, sizeof(reader->footer),
		    bytes - sizeof(reader->footer));
	if (r)
		return r;
	wrong = snap_check_footer(&reader->footer, &reader->header, bytes);
	return wrong ? damaged(reader, wrong) : 0;
}

/* Data extents follow each other in the file without a gap: no byte of it is without a sum. */
static bool extent_fits(const struct snap_header *header, const struct snap_extent *extent,
			uint64_t at)
{
	uint32_t page_bytes = header->page_bytes;

	if (!extent->bytes || extent->bytes % page_bytes || extent->image_bytes % page_bytes ||
	    extent->bytes > header->memory_bytes ||
	    extent->image_bytes > header->memory_bytes - extent->bytes)
		return false;
	if (extent->flags == SNAP_EXTENT_ZERO)
		return !extent->file_bytes && !extent->crc;
	return !extent->flags && extent->bytes <= SNAP_EXTENT_BYTES && extent->file_bytes == at;
}

static int check_extents(struct reader *reader)
{
	const struct snap_footer *footer = &reader->footer;
	uint64_t at = sizeof(reader->header), zero_bytes = 0, most_bytes = 1, page_bytes;

	for (uint64_t i = 0; i < footer->extents; i++) {
		const struct snap_extent *extent = &reader->extents[i];

		if (!extent_fits(&reader->header, extent, at))
			return damaged(reader, "the index contradicts itself");
		if (extent->flags) {
			zero_bytes += extent->bytes;
			continue;
		}
		at += extent->bytes;
		most_bytes = extent->bytes > most_bytes ? extent->bytes : most_bytes;
	}
	page_bytes = reader->header.page_bytes;
	if (at != footer->index_bytes ||
	    (at - sizeof(reader->header)) / page_bytes != footer->data_pages ||
	    zero_bytes / page_bytes != footer->zero_pages)
		return damaged(reader, "the index and the footer contradict each other");
	reader->contents = malloc(most_bytes);
	return reader->contents ? 0 : fail(reader, -ENOMEM, "no memory for its contents");
}

static int read_index(struct reader *reader)
{
	const struct snap_footer *footer = &reader->footer;
	uint64_t bytes = footer->extents * sizeof(*reader->extents);
	int r;

	/* The file is at least as large. */
	reader->extents = malloc(bytes + 1);
	if (!reader->extents)
		return fail(reader, -ENOMEM, "no memory for its index");
	r = read_at(reader, reader->extents, bytes, footer->index_bytes);
	if (r)
		return r;
	if (crc32_add(0, reader->extents, bytes) != footer->index_crc)
		return damaged(reader, "the index is damaged");
	return check_extents(reader);
}

int reader_open(struct reader *reader, int fd)
{
	const struct snap_footer *footer = &reader->footer;
	int r = reader_peek(reader, fd);

	if (!r)
		r = read_index(reader);
	if (!r)
		r = read_at(reader, &reader->state, footer->state_bytes,
			    footer->index_bytes + footer->extents * sizeof(*reader->extents));
	if (!r && crc32_add(0, &reader->state, footer->state_bytes) != footer->state_crc)
		r = damaged(reader, "the state of the vCPUs is damaged");
	return r;
}

int reader_load(struct reader *reader, const struct snap_extent *extent)
{
	int r = read_at(reader, reader->contents, extent->bytes, extent->file_bytes);

	if (!r && crc32_add(0, reader->contents, extent->bytes) != extent->crc)
		r = fail(reader, -EBADMSG,
			 "the contents for %#" PRIx64 " to %#" PRIx64 " are damaged",
			 extent->image_bytes, extent->image_bytes + extent->bytes);
	return r;
}

int reader_verify(struct reader *reader)
{
	int r = 0;

	for (uint64_t i = 0; !r && i < reader->footer.extents; i++)
		if (!reader->extents[i].flags)
			r = reader_load(reader, &reader->extents[i]);
	return r;
}

void reader_close(struct reader *reader)
{
	if (reader->fd >= 0)
		close(reader->fd);
	reader->fd = -1;
	free(reader->extents);
	free(reader->contents);
	reader->extents = NULL;
	reader->contents = NULL;
}
