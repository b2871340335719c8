/* SPDX-License-Identifier: MIT */
#include "commands.h"
#include "leftovers.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * Makes one increment of several. It keeps the identity of the last, which others are relative to,
 * and takes its place; then the others can go. Whenever that is interrupted, every point that is
 * still there can be restored.
 */

struct merge {
	struct chain *chain;
	const struct point **points;
	uint32_t n;
	uint32_t *owners; /* by page: the extent, of all files, that has its contents; from 1 */
	struct file file;
	struct writer *writer;
	uint32_t extent; /* the number of extents before */
};

/* Which extent has the last contents of each page. */
static void claim(struct merge *merge, const struct reader *reader)
{
	uint32_t page_bytes = reader->header.page_bytes;

	for (uint64_t i = 0; i < reader->footer.extents; i++) {
		const struct snap_extent *extent = &reader->extents[i];
		uint64_t page = extent->image_bytes / page_bytes;

		merge->extent++;
		for (uint64_t end = page + extent->bytes / page_bytes; page < end; page++)
			merge->owners[page] = merge->extent;
	}
}

/* The pages of an extent that no later one replaces. */
static int add_extent(struct merge *merge, struct reader *reader, const struct snap_extent *extent)
{
	static const uint8_t zeros[65536];
	uint32_t page_bytes = reader->header.page_bytes;
	bool loaded = false;
	int r = 0;

	merge->extent++;
	for (uint64_t at = 0; !r && at < extent->bytes; at += page_bytes) {
		uint64_t page = (extent->image_bytes + at) / page_bytes;

		if (merge->owners[page] != merge->extent)
			continue;
		if (!extent->flags && !loaded) {
			r = reader_load(reader, extent);
			if (r) {
				snprintf(merge->chain->why, sizeof(merge->chain->why), "%s",
					 reader->why);
				return r;
			}
			loaded = true;
		}
		r = file_copy(&merge->file, extent->flags ? zeros : reader->contents + at,
			      extent->image_bytes + at, page_bytes);
	}
	if (r)
		snprintf(merge->chain->why, sizeof(merge->chain->why), "%s", merge->writer->why);
	return r;
}

/* Calls for each file in order. Returns 0, or a failure with the reason in the chain's why. */
static int each_file(struct merge *merge, bool add, struct reader *reader)
{
	int r = 0;

	merge->extent = 0;
	for (uint32_t i = 0; !r && i < merge->n; i++) {
		r = chain_read(merge->chain, merge->points[i], reader);
		if (!r && !add)
			claim(merge, reader);
		for (uint64_t e = 0; !r && add && e < reader->footer.extents; e++)
			r = add_extent(merge, reader, &reader->extents[e]);
		/* The last one's state is that of the result. */
		if (!add || r || i + 1 < merge->n)
			reader_close(reader);
	}
	return r;
}

static int write_merged(struct merge *merge, const struct snap_header *header)
{
	struct reader last = { .fd = -1 };
	const uint32_t *crc;
	int r;

	r = file_begin(&merge->file, merge->writer, header);
	if (r)
		snprintf(merge->chain->why, sizeof(merge->chain->why), "%s", merge->writer->why);
	if (!r)
		r = each_file(merge, true, &last);
	if (!r) {
		crc = last.footer.flags & SNAP_HAS_MEMORY_CRC ? &last.footer.memory_crc : NULL;
		r = file_finish(&merge->file, &last.state, crc);
		if (r)
			snprintf(merge->chain->why, sizeof(merge->chain->why), "%s",
				 merge->writer->why);
	}
	if (last.contents)
		reader_close(&last);
	if (r)
		file_abort(&merge->file);
	return r;
}

/* Deletes what the result replaces, as the list says. */
static int remove_merged(struct merge *merge, uint32_t *kept)
{
	struct leftovers leftovers;
	int r = leftovers_delete(&merge->writer->disk, &leftovers);

	*kept = leftovers.kept;
	if (!r && !leftovers.effective)
		r = -EBADMSG;
	if (r)
		snprintf(merge->chain->why, sizeof(merge->chain->why),
			 "merged, but the points before it are still there: %.140s", leftovers.why);
	return r;
}

/*
 * The list of what is to be deleted is on disk before the result has its name. If the merge fails
 * before that, there is nothing to be deleted; otherwise the next command finishes it.
 */
static int replace(struct merge *merge, uint32_t *kept)
{
	struct snap_header header = merge->points[merge->n - 1]->header;
	int r;

	memcpy(header.parent, merge->points[0]->header.parent, sizeof(header.parent));
	r = leftovers_write(&merge->writer->disk, &header, merge->points, merge->n);
	if (r)
		snprintf(merge->chain->why, sizeof(merge->chain->why),
			 "cannot write the list of the points to delete: %s", strerror(-r));
	else
		r = write_merged(merge, &header);
	if (!r)
		return remove_merged(merge, kept);
	leftovers_undo(&merge->writer->disk);
	return r;
}

static int merge_points(struct merge *merge, struct report *report)
{
	const struct snap_header *header = &merge->points[0]->header;
	struct reader reader = { .fd = -1 };
	uint64_t last = merge->points[merge->n - 1]->number;
	uint32_t kept = 0;
	int r;

	merge->owners = calloc(header->memory_bytes / header->page_bytes, sizeof(*merge->owners));
	if (!merge->owners)
		return report_error(report, STATUS_FAILED, "no memory to merge");
	r = each_file(merge, false, &reader);
	if (!r)
		r = replace(merge, &kept);
	if (r)
		return report_error(report, r == -EBADMSG ? STATUS_CORRUPT : STATUS_FAILED, "%s",
				    merge->chain->why);
	report_member(report, "merged", "%u", merge->n);
	report_member(report, "kept", "%u", kept);
	report_member(report, "file_bytes", "%" PRIu64, merge->file.file_bytes);
	report_field(report, "merged",
		     "%u points are one, point %" PRIu64 ": %.1f MiB, %" PRIu64 " pages, %" PRIu64
		     " of them zero",
		     merge->n, last, (double)merge->file.file_bytes / (1 << 20),
		     merge->file.data_pages + merge->file.zero_pages, merge->file.zero_pages);
	if (kept)
		report_field(report, "kept", "%u that others are relative to", kept);
	return STATUS_DONE;
}

int finish_merge(struct disk *disk, struct report *report)
{
	struct leftovers leftovers;

	disk_tidy(disk->dir_fd);
	if (leftovers_delete(disk, &leftovers))
		return report_error(report, STATUS_FAILED, "an interrupted merge: %s",
				    leftovers.why);
	if (!leftovers.found)
		return STATUS_DONE;
	report_member(report, "finished_merge", "{ \"effective\": %s, \"deleted\": %u }",
		      leftovers.effective ? "true" : "false", leftovers.deleted);
	if (leftovers.effective)
		report_field(report, "finished", "an interrupted merge; points deleted: %u",
			     leftovers.deleted);
	else if (*leftovers.why)
		report_print_error("an interrupted merge: %s; no point was deleted", leftovers.why);
	else
		report_field(report, "undone", "an interrupted merge: its points are as before");
	return STATUS_DONE;
}

void name_interrupted_merge(int dir_fd, struct report *report)
{
	bool exists = leftovers_exist(dir_fd);

	report_member(report, "interrupted_merge", "%s", exists ? "true" : "false");
	if (exists)
		report_print_error("a merge is under way, or was interrupted: the next run or "
				   "merge finishes it");
}

static int merge_path(const struct options *options, struct chain *chain, struct writer *writer,
		      struct report *report)
{
	struct merge merge = { .chain = chain, .writer = writer };
	const struct point *last, **path = NULL;
	uint32_t n, first;
	int status, r;

	if (chain_find(chain, options->last, &last))
		return report_error(report, STATUS_FAILED, "%s", chain->why);
	r = chain_path(chain, last, &path, &n);
	if (r)
		return report_error(report, r == -EBADMSG ? STATUS_CORRUPT : STATUS_FAILED, "%s",
				    chain->why);
	for (first = 0; first < n && path[first]->number != options->first; first++)
		;
	if (first + 1 >= n) {
		free(path);
		return report_error(report, STATUS_FAILED,
				    "point %" PRIu64 " does not come before point %" PRIu64,
				    options->first, last->number);
	}
	merge.points = path + first;
	merge.n = n - first;
	status = merge_points(&merge, report);
	file_free(&merge.file);
	free(merge.owners);
	free(path);
	return status;
}

int command_merge(const struct options *options, struct report *report)
{
	struct chain chain = { 0 };
	struct writer writer;
	char why[200];
	int fd = chain_open_dir(options->directory, true, why, sizeof(why)), status;

	if (fd < 0)
		return report_error(report, STATUS_FAILED, "%s", why);
	writer_init(&writer, fd, false, &options->fault, false);
	status = finish_merge(&writer.disk, report);
	if (!status && chain_load(&chain, fd))
		status = report_error(report, STATUS_FAILED, "%s", chain.why);
	else if (!status)
		status = merge_path(options, &chain, &writer, report);
	report_member(report, "steps", "%" PRIu64, writer.disk.steps);
	report_member(report, "faults", "%" PRIu64, writer.disk.injected);
	chain_free(&chain);
	close(fd);
	return status;
}
