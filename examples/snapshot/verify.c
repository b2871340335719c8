/* SPDX-License-Identifier: MIT */
#include "commands.h"
#include "image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Memory as it was at the point that was applied last. */
struct replay {
	struct image image;
	uint8_t id[SNAP_ID_BYTES]; /* of that point; all zero: none */
	bool *damaged;		   /* by number, of the points that were checked */
};

static void print_row(struct report *report, const struct point *point, const char *wrong)
{
	char id[SNAP_SHORT_ID_BYTES], parent[SNAP_SHORT_ID_BYTES];
	bool base = snap_id_is_none(point->header.parent);

	snap_short_id(id, point->header.id);
	snap_short_id(parent, point->header.parent);
	if (report_row(report)) {
		printf("{ \"number\": %" PRIu64 ", \"id\": \"%s\", \"parent\": \"%s\", \"pages\": "
		       "%" PRIu64 ", \"zero_pages\": %" PRIu64 ", \"extents\": %" PRIu64
		       ", \"sound\": %s }",
		       point->number, id, base ? "" : parent, point->footer.data_pages,
		       point->footer.zero_pages, point->footer.extents, wrong ? "false" : "true");
		return;
	}
	report_line(report, "%6" PRIu64 "  %8s  %8s  %9" PRIu64 "  %9" PRIu64 "  %s", point->number,
		    id, base ? "base" : parent, point->footer.data_pages, point->footer.zero_pages,
		    wrong ? "DAMAGED" : "sound");
	if (wrong)
		report_field(report, "", "%s", wrong);
}

static void empty(struct replay *replay)
{
	image_unmap(replay->image.memory, replay->image.bytes);
	image_free(&replay->image);
	memset(replay->id, 0, sizeof(replay->id));
}

static int start_replay(struct replay *replay, struct chain *chain, const struct point *point)
{
	uint8_t *memory;

	empty(replay);
	memory = image_map(point->header.memory_bytes);
	/* Its contents may be a few pages here and there. */
	if (memory)
		(void)madvise(memory, point->header.memory_bytes, MADV_NOHUGEPAGE);
	if (memory && !image_init(&replay->image, memory, &point->header))
		return 0;
	image_unmap(memory, point->header.memory_bytes);
	snprintf(chain->why, sizeof(chain->why), "no memory to replay");
	return -ENOMEM;
}

/* Makes the replay's memory that of a point whose files are all sound. */
static int replay_to(struct replay *replay, struct chain *chain, const struct point *point,
		     struct reader *reader)
{
	struct snap_state state;
	int r;

	if (!memcmp(replay->id, point->header.parent, sizeof(replay->id)) &&
	    !snap_id_is_none(replay->id) && replay->image.bytes == point->header.memory_bytes) {
		r = image_apply(&replay->image, reader);
	} else {
		r = start_replay(replay, chain, point);
		if (!r)
			r = image_replay(chain, point, &replay->image, &state);
	}
	memcpy(replay->id, point->header.id, sizeof(replay->id));
	if (r)
		memset(replay->id, 0, sizeof(replay->id));
	return r;
}

/* Those before it are checked already: one that is damaged cannot be restored, nor this one. */
static int check_parents(struct chain *chain, const struct point *point,
			 const struct replay *replay)
{
	const struct point **path;
	uint32_t n;
	int r = chain_path(chain, point, &path, &n);

	for (uint32_t i = 0; !r && i + 1 < n; i++) {
		if (!replay->damaged[path[i]->number])
			continue;
		snprintf(chain->why, sizeof(chain->why),
			 "it needs point %" PRIu64 ", which is damaged", path[i]->number);
		r = -EBADMSG;
	}
	free(path);
	return r;
}

/* Returns 0, or a negative errno value with what is wrong in the chain's why. */
static int check_point(struct chain *chain, const struct point *point, struct replay *replay)
{
	struct reader reader = { .fd = -1 };
	int r = check_parents(chain, point, replay);

	if (!r)
		r = chain_read(chain, point, &reader);
	if (!r) {
		r = reader_verify(&reader);
		if (r)
			snprintf(chain->why, sizeof(chain->why), "%s", reader.why);
	}
	if (!r && reader.footer.flags & SNAP_HAS_MEMORY_CRC) {
		r = replay_to(replay, chain, point, &reader);
		if (!r && !image_matches(&replay->image, &reader)) {
			snprintf(chain->why, sizeof(chain->why),
				 "the memory is not what it was at this point");
			r = -EBADMSG;
		}
	}
	reader_close(&reader);
	return r;
}

/* Prints the rows. Returns the number of unsound points, or a negative errno value. */
static int64_t check_all(struct chain *chain, struct replay *replay, struct report *report,
			 bool print_all)
{
	uint64_t loaded_for = 0; /* the point that has caused it */
	int64_t unsound = 0;
	uint32_t i = 0;

	while (i < chain->n) {
		const struct point *point = &chain->points[i];
		int r;

		report_progress(report, "  point %" PRIu64 " of %" PRIu64, point->number,
				chain->points[chain->n - 1].number);
		r = check_point(chain, point, replay);
		/* A merge beside this is no damage. */
		if (chain_is_outdated(r) && loaded_for != point->number) {
			loaded_for = point->number;
			r = chain_reload(chain);
			if (r)
				return r;
			i = chain_index(chain, loaded_for);
			continue;
		}
		if (r == -ENOMEM)
			return r;
		replay->damaged[point->number] = r;
		unsound += r != 0;
		if (r || print_all)
			print_row(report, point, r ? chain->why : NULL);
		i++;
	}
	return unsound;
}

int64_t verify_points(struct chain *chain, struct report *report, bool print_all)
{
	struct replay replay = { .damaged = calloc(SNAP_MAX_NUMBER + 1, sizeof(bool)) };
	int64_t unsound;

	if (!replay.damaged) {
		snprintf(chain->why, sizeof(chain->why), "no memory to verify");
		return -ENOMEM;
	}
	unsound = check_all(chain, &replay, report, print_all);
	empty(&replay);
	free(replay.damaged);
	return unsound;
}

static int verify(struct chain *chain, struct report *report)
{
	int64_t unsound;

	report_line(report, "%6s  %8s  %8s  %9s  %9s", "point", "identity", "parent", "pages",
		    "zeros");
	report_rows(report, "points");
	unsound = verify_points(chain, report, true);
	report_rows_end(report);
	report_member(report, "unsound", "%" PRId64, unsound);
	if (unsound < 0)
		return report_error(report, STATUS_FAILED, "%s", chain->why);
	if (unsound)
		return report_error(report, STATUS_CORRUPT, "%" PRId64 " of %u points: DAMAGED",
				    unsound, chain->n);
	if (!chain->n)
		return report_error(report, STATUS_FAILED, "there are no points");
	report_line(report, "\nAll %u points are sound.", chain->n);
	return STATUS_DONE;
}

static int open_chain(const struct options *options, struct report *report, struct chain *chain)
{
	char why[200];
	int fd = chain_open_dir(options->directory, false, why, sizeof(why));

	if (fd < 0) {
		report_error(report, STATUS_FAILED, "%s", why);
		return fd;
	}
	if (!chain_load(chain, fd)) {
		name_interrupted_merge(fd, report);
		return fd;
	}
	report_error(report, STATUS_FAILED, "%s", chain->why);
	chain_free(chain);
	close(fd);
	return -EIO;
}

int command_verify(const struct options *options, struct report *report)
{
	struct chain chain;
	int fd = open_chain(options, report, &chain), status;

	if (fd < 0)
		return STATUS_FAILED;
	status = verify(&chain, report);
	chain_free(&chain);
	close(fd);
	return status;
}

int command_list(const struct options *options, struct report *report)
{
	struct chain chain;
	int fd = open_chain(options, report, &chain);

	if (fd < 0)
		return STATUS_FAILED;
	report_line(report, "%6s  %8s  %8s  %9s  %9s  %9s", "point", "identity", "parent", "pages",
		    "zeros", "KiB");
	report_rows(report, "points");
	for (uint32_t i = 0; i < chain.n; i++) {
		const struct point *point = &chain.points[i];
		char id[SNAP_SHORT_ID_BYTES], parent[SNAP_SHORT_ID_BYTES];
		bool base = snap_id_is_none(point->header.parent);

		snap_short_id(id, point->header.id);
		snap_short_id(parent, point->header.parent);
		if (report_row(report))
			printf("{ \"number\": %" PRIu64 ", \"id\": \"%s\", \"parent\": \"%s\", "
			       "\"file_bytes\": %" PRIu64 ", \"complete\": %s }",
			       point->number, id, base ? "" : parent, point->footer.file_bytes,
			       *point->why ? "false" : "true");
		else if (*point->why)
			report_line(report, "%6" PRIu64 "  %s", point->number, point->why);
		else
			report_line(report,
				    "%6" PRIu64 "  %8s  %8s  %9" PRIu64 "  %9" PRIu64 "  %9" PRIu64,
				    point->number, id, base ? "base" : parent,
				    point->footer.data_pages, point->footer.zero_pages,
				    point->footer.file_bytes >> 10);
	}
	report_rows_end(report);
	chain_free(&chain);
	close(fd);
	return STATUS_DONE;
}
