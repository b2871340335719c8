/* SPDX-License-Identifier: MIT */
#include "leftovers.h"
#include "crc32.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A list in memory: the first entry is the merge's result. */
struct list {
	struct leftovers_entry *entries;
	uint32_t n;
};

static struct leftovers_entry describe(const struct snap_header *header)
{
	struct leftovers_entry entry = { .number = header->number, .header_crc = header->crc };

	memcpy(entry.id, header->id, sizeof(entry.id));
	return entry;
}

int leftovers_write(struct disk *disk, const struct snap_header *header,
		    const struct point *const *points, uint32_t n)
{
	struct leftovers_start start = { LEFTOVERS_MAGIC, SNAP_VERSION, n };
	struct leftovers_entry *entries = calloc(n, sizeof(*entries));
	struct snap_header result = *header;
	uint32_t crc = crc32_add(0, &start, sizeof(start));
	struct iovec iov[] = { { &start, sizeof(start) },
			       { entries, n * sizeof(*entries) },
			       { &crc, sizeof(crc) } };
	int r;

	if (!entries)
		return -ENOMEM;
	snap_seal_header(&result);
	entries[0] = describe(&result);
	for (uint32_t i = 1; i < n; i++)
		entries[i] = describe(&points[i - 1]->header);
	crc = crc32_add(crc, entries, n * sizeof(*entries));
	r = disk_begin(disk, DISK_LIST_NAME);
	if (!r)
		r = disk_write(disk, iov, 3, 0);
	if (!r)
		r = disk_commit(disk);
	if (r)
		disk_abort(disk);
	free(entries);
	return r;
}

bool leftovers_exist(int dir_fd)
{
	struct stat file;

	return !fstatat(dir_fd, DISK_LIST_NAME, &file, AT_SYMLINK_NOFOLLOW);
}

/* It may come from anywhere. A name is made of the number, so that it is no path. */
static const char *check(const uint8_t *data, uint64_t bytes, const struct list *list)
{
	struct leftovers_start start;
	uint32_t crc;

	memcpy(&start, data, sizeof(start));
	memcpy(&crc, data + bytes - sizeof(crc), sizeof(crc));
	if (memcmp(start.magic, LEFTOVERS_MAGIC, sizeof(start.magic)))
		return "it is no list";
	if (crc != crc32_add(0, data, bytes - sizeof(crc)))
		return "it is damaged";
	if (start.version != SNAP_VERSION)
		return "another version of the format";
	if (start.entries != list->n)
		return "its size is wrong";
	for (uint32_t i = 0; i < list->n; i++) {
		const struct leftovers_entry *entry = &list->entries[i];

		if (!entry->number || entry->number > SNAP_MAX_NUMBER ||
		    snap_id_is_none(entry->id) || entry->zero ||
		    (i && entry->number >= list->entries[0].number) ||
		    (i > 1 && entry->number <= entry[-1].number))
			return "it contradicts itself";
	}
	return NULL;
}

/* Returns the size, or -EBADMSG for what cannot be a list. */
static int64_t list_bytes(int fd)
{
	const uint64_t least =
		sizeof(struct leftovers_start) + sizeof(struct leftovers_entry) + sizeof(uint32_t);
	struct stat file;
	uint64_t more;

	if (fstat(fd, &file))
		return -errno;
	more = (uint64_t)file.st_size - least;
	if (!S_ISREG(file.st_mode) || (uint64_t)file.st_size < least ||
	    more % sizeof(struct leftovers_entry) ||
	    more / sizeof(struct leftovers_entry) >= SNAP_MAX_NUMBER)
		return -EBADMSG;
	return file.st_size;
}

static int parse(const uint8_t *data, uint64_t bytes, struct list *list, const char **wrong)
{
	const uint64_t entries = bytes - sizeof(struct leftovers_start) - sizeof(uint32_t);

	list->entries = malloc(entries);
	if (!list->entries)
		return -ENOMEM;
	list->n = (uint32_t)(entries / sizeof(*list->entries));
	memcpy(list->entries, data + sizeof(struct leftovers_start), entries);
	*wrong = check(data, bytes, list);
	return *wrong ? -EBADMSG : 0;
}

static int read_list(int fd, struct list *list, const char **wrong)
{
	int64_t bytes = list_bytes(fd);
	uint8_t *data;
	ssize_t n;
	int r;

	if (bytes < 0)
		return (int)bytes;
	data = malloc((size_t)bytes);
	if (!data)
		return -ENOMEM;
	n = pread(fd, data, (size_t)bytes, 0);
	if (n == bytes)
		r = parse(data, (uint64_t)bytes, list, wrong);
	else
		r = n < 0 ? -errno : -EBADMSG;
	free(data);
	return r;
}

/* Returns -ENOENT if there is none, or -EBADMSG for one that cannot be followed. */
static int load(int dir_fd, struct list *list, struct leftovers *leftovers)
{
	int fd = openat(dir_fd, DISK_LIST_NAME, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	const char *wrong = "it is no list";
	int r = fd < 0 ? -errno : read_list(fd, list, &wrong);

	/* A symbolic link, a socket. */
	if (r == -ELOOP || r == -ENXIO)
		r = -EBADMSG;
	if (r)
		snprintf(leftovers->why, sizeof(leftovers->why), DISK_LIST_NAME ": %s",
			 r == -EBADMSG ? wrong : strerror(-r));
	if (fd >= 0)
		close(fd);
	return r;
}

/* The file that an entry is about, or NULL: it is gone, or another one has its name. */
static const struct point *find(const struct chain *chain, const struct leftovers_entry *entry)
{
	for (uint32_t i = 0; i < chain->n; i++) {
		const struct point *point = &chain->points[i];

		if (point->number != entry->number)
			continue;
		return !*point->why && point->header.crc == entry->header_crc &&
				       !memcmp(point->header.id, entry->id, SNAP_ID_BYTES)
			       ? point
			       : NULL;
	}
	return NULL;
}

static bool is_listed(const struct chain *chain, const struct list *list, const struct point *point)
{
	for (uint32_t i = 0; i < list->n; i++)
		if (list->entries[i].number == point->number)
			return find(chain, &list->entries[i]) == point;
	return false;
}

/* Whether a point that stays is relative to this one. */
static bool has_child(const struct chain *chain, const struct list *list, const struct point *point)
{
	for (uint32_t i = 0; i < chain->n; i++) {
		const struct point *child = &chain->points[i];

		/* One that cannot be read now may be relative to any point. */
		if (*child->why || (!is_listed(chain, list, child) &&
				    !memcmp(child->header.parent, point->header.id, SNAP_ID_BYTES)))
			return true;
	}
	return false;
}

/*
 * Whether the merge took effect, and its file is whole: what it replaces is all there is otherwise.
 * Returns 0 also if not.
 */
static int look_at_result(struct chain *chain, const struct list *list, struct leftovers *leftovers)
{
	const struct point *result = find(chain, &list->entries[0]);
	struct reader reader = { .fd = -1 };
	int r;

	if (!result)
		return 0;
	r = chain_read(chain, result, &reader);
	if (!r) {
		r = reader_verify(&reader);
		if (r)
			snprintf(chain->why, sizeof(chain->why), "point %" PRIu64 ": %.150s",
				 result->number, reader.why);
	}
	reader_close(&reader);
	leftovers->effective = !r;
	if (r)
		snprintf(leftovers->why, sizeof(leftovers->why), "%s", chain->why);
	return r == -EBADMSG ? 0 : r;
}

/* From the last to the first, so that none is ever without its parents. */
static int delete_files(struct disk *disk, const struct chain *chain, const struct list *list,
			struct leftovers *leftovers)
{
	char name[SNAP_NAME_BYTES];
	bool needed = false;
	/* The merge may have been killed before its file's name was on disk. */
	int r = disk_sync(disk);

	for (uint32_t i = list->n; !r && --i;) {
		const struct point *point = find(chain, &list->entries[i]);

		if (!point)
			continue;
		needed = needed || has_child(chain, list, point);
		leftovers->kept += needed;
		if (needed)
			continue;
		snap_name(name, point->number);
		r = disk_remove(disk, name);
		leftovers->deleted += !r;
	}
	return r ? r : disk_sync(disk);
}

static int follow(struct disk *disk, const struct list *list, struct leftovers *leftovers)
{
	struct chain chain;
	int r = chain_load(&chain, disk->dir_fd);

	if (r)
		snprintf(leftovers->why, sizeof(leftovers->why), "%s", chain.why);
	else
		r = look_at_result(&chain, list, leftovers);
	if (!r && leftovers->effective) {
		r = delete_files(disk, &chain, list, leftovers);
		if (r)
			snprintf(leftovers->why, sizeof(leftovers->why),
				 "cannot delete the points that a merge has replaced: %s",
				 strerror(-r));
	}
	chain_free(&chain);
	return r;
}

int leftovers_delete(struct disk *disk, struct leftovers *leftovers)
{
	struct list list = { 0 };
	int r;

	memset(leftovers, 0, sizeof(*leftovers));
	r = load(disk->dir_fd, &list, leftovers);
	if (r == -ENOENT)
		return 0;
	leftovers->found = true;
	if (!r)
		r = follow(disk, &list, leftovers);
	free(list.entries);
	if (r && r != -EBADMSG)
		return r;
	r = disk_remove(disk, DISK_LIST_NAME);
	if (!r)
		r = disk_sync(disk);
	if (r)
		snprintf(leftovers->why, sizeof(leftovers->why),
			 "cannot delete " DISK_LIST_NAME ": %s", strerror(-r));
	return r;
}

void leftovers_undo(struct disk *disk)
{
	struct leftovers leftovers = { 0 };
	struct list list = { 0 };
	struct chain chain = { 0 };

	if (!load(disk->dir_fd, &list, &leftovers) && !chain_load(&chain, disk->dir_fd) &&
	    !find(&chain, &list.entries[0]))
		(void)unlinkat(disk->dir_fd, DISK_LIST_NAME, 0);
	chain_free(&chain);
	free(list.entries);
}
