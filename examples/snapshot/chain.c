/* SPDX-License-Identifier: MIT */
#include "chain.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static int fail(struct chain *chain, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int fail(struct chain *chain, int failure, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(chain->why, sizeof(chain->why), format, args);
	va_end(args);
	return failure;
}

int chain_open_dir(const char *path, bool to_write, char *why, size_t why_bytes)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = fd < 0 ? -errno : 0;

	if (r) {
		snprintf(why, why_bytes, "cannot open the directory %.120s: %s", path,
			 strerror(-r));
		return r;
	}
	/*
	 * A point shows only once it is complete, so readers need no lock. A merge may replace or
	 * remove points before they are read: chain_read() notices.
	 */
	if (!to_write || !flock(fd, LOCK_EX | LOCK_NB))
		return fd;
	r = -errno;
	snprintf(why, why_bytes, "%.120s: %s", path,
		 r == -EWOULDBLOCK ? "another process writes there" : strerror(-r));
	close(fd);
	return r;
}

static int open_point(const struct chain *chain, uint64_t number)
{
	char name[SNAP_NAME_BYTES];
	int fd;

	snap_name(name, number);
	/* Opening a FIFO must not block; anything but a regular file is refused later. */
	fd = openat(chain->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static void load_point(struct chain *chain, struct point *point, uint64_t number)
{
	struct reader reader;
	int fd = open_point(chain, number);

	memset(point, 0, sizeof(*point));
	point->number = number;
	if (fd < 0) {
		snprintf(point->why, sizeof(point->why), "cannot open it: %s", strerror(-fd));
		return;
	}
	if (reader_peek(&reader, fd))
		snprintf(point->why, sizeof(point->why), "%s", reader.why);
	else if (reader.header.number != number)
		snprintf(point->why, sizeof(point->why), "it is the file of point %" PRIu64,
			 reader.header.number);
	point->header = reader.header;
	point->footer = reader.footer;
	reader_close(&reader);
}

static int compare_points(const void *left, const void *right)
{
	const struct point *a = left, *b = right;

	return a->number < b->number ? -1 : a->number > b->number;
}

static int add_point(struct chain *chain, uint32_t *room, uint64_t number)
{
	if (chain->n == *room) {
		uint32_t more = *room ? 2 * *room : 64;
		struct point *points = realloc(chain->points, more * sizeof(*points));

		if (!points)
			return fail(chain, -ENOMEM, "no memory for the points");
		chain->points = points;
		*room = more;
	}
	load_point(chain, &chain->points[chain->n++], number);
	return 0;
}

static int load(struct chain *chain, int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	uint32_t room = 0;

	memset(chain, 0, sizeof(*chain));
	chain->dir_fd = dir_fd;
	if (!dir) {
		r = -errno;
		fail(chain, r, "cannot read the directory: %s", strerror(-r));
		if (fd >= 0)
			close(fd);
		return r;
	}
	errno = 0;
	while (!r && (entry = readdir(dir))) {
		if (snap_number(entry->d_name))
			r = add_point(chain, &room, snap_number(entry->d_name));
		errno = 0;
	}
	if (!r && errno) {
		r = -errno;
		fail(chain, r, "cannot read the directory: %s", strerror(-r));
	}
	closedir(dir);
	if (chain->n)
		qsort(chain->points, chain->n, sizeof(*chain->points), compare_points);
	return r;
}

static const struct point *by_id(const struct chain *chain, const uint8_t *id)
{
	for (uint32_t i = 0; i < chain->n; i++)
		if (!*chain->points[i].why &&
		    !memcmp(chain->points[i].header.id, id, SNAP_ID_BYTES))
			return &chain->points[i];
	return NULL;
}

/* Whether each file can be read, and has its parent. */
static bool is_whole(const struct chain *chain)
{
	for (uint32_t i = 0; i < chain->n; i++) {
		const struct point *point = &chain->points[i];
		const uint8_t *parent = point->header.parent;

		if (*point->why)
			return false;
		/* Nearly always it is the one before. */
		if (!snap_id_is_none(parent) &&
		    (!i || memcmp(point[-1].header.id, parent, SNAP_ID_BYTES)) &&
		    !by_id(chain, parent))
			return false;
	}
	return true;
}

int chain_load(struct chain *chain, int dir_fd)
{
	int r = load(chain, dir_fd);

	if (r || is_whole(chain))
		return r;
	/* Since the names were read, a merge may have removed a point, or the parent of one. */
	chain_free(chain);
	return load(chain, dir_fd);
}

int chain_reload(struct chain *chain)
{
	int dir_fd = chain->dir_fd;

	chain_free(chain);
	return chain_load(chain, dir_fd);
}

uint32_t chain_index(const struct chain *chain, uint64_t number)
{
	uint32_t i = 0;

	while (i < chain->n && chain->points[i].number < number)
		i++;
	return i;
}

/* Both are of the same guest; the number of the child is larger, so that no path is a circle. */
static bool fits(const struct snap_header *parent, const struct snap_header *child)
{
	return parent->number < child->number && parent->memory_bytes == child->memory_bytes &&
	       parent->page_bytes == child->page_bytes && parent->vcpus == child->vcpus &&
	       parent->machine == child->machine && parent->backend == child->backend &&
	       parent->guest_user == child->guest_user &&
	       parent->working_set_bytes == child->working_set_bytes;
}

int chain_path(struct chain *chain, const struct point *to, const struct point ***path, uint32_t *n)
{
	const struct point **all = malloc((chain->n + 1) * sizeof(*all)), *at = to, *parent;
	uint32_t used = 0;

	*path = NULL;
	*n = 0;
	if (!all)
		return fail(chain, -ENOMEM, "no memory for the path");
	if (*to->why) {
		free(all);
		return fail(chain, -EBADMSG, "point %" PRIu64 ": %s", to->number, to->why);
	}
	for (;;) {
		all[chain->n - 1 - used++] = at;
		if (snap_id_is_none(at->header.parent))
			break;
		parent = by_id(chain, at->header.parent);
		if (!parent || !fits(&parent->header, &at->header)) {
			free(all);
			return fail(chain, -EBADMSG,
				    parent ? "point %" PRIu64 " is of another guest than its parent"
					   : "the parent of point %" PRIu64
					     " is missing or damaged",
				    at->number);
		}
		at = parent;
	}
	memmove(all, all + chain->n - used, used * sizeof(*all));
	*path = all;
	*n = used;
	return 0;
}

int chain_find(struct chain *chain, uint64_t number, const struct point **point)
{
	const struct point **path;
	uint32_t n;

	for (uint32_t i = chain->n; i--;) {
		*point = &chain->points[i];
		if (number && (*point)->number == number)
			return 0;
		if (!number && !chain_path(chain, *point, &path, &n)) {
			free(path);
			return 0;
		}
	}
	*point = NULL;
	if (number)
		return fail(chain, -ENOENT, "there is no point %" PRIu64, number);
	return fail(chain, -ENOENT, chain->n ? "no point can be restored" : "there are no points");
}

int chain_read(struct chain *chain, const struct point *point, struct reader *reader)
{
	int fd = open_point(chain, point->number), r;

	if (fd < 0) {
		memset(reader, 0, sizeof(*reader));
		reader->fd = -1;
		return fail(chain, fd, "cannot open point %" PRIu64 ": %s", point->number,
			    strerror(-fd));
	}
	r = reader_open(reader, fd);
	if (r)
		return fail(chain, r, "point %" PRIu64 ": %s", point->number, reader->why);
	/* Memory was made, and a path found, for the file that was there before. */
	if (memcmp(&reader->header, &point->header, sizeof(reader->header))) {
		reader_close(reader);
		return fail(chain, -EAGAIN, "point %" PRIu64 " has changed meanwhile: try again",
			    point->number);
	}
	return 0;
}

void chain_free(struct chain *chain)
{
	free(chain->points);
	chain->points = NULL;
	chain->n = 0;
}
