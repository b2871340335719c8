/* SPDX-License-Identifier: MIT */
/* The directory of points has its name for good before a point is taken: fsync(2) of its parent. */
#include "disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct stat parent;
static int parent_syncs, other_syncs, failure;

int __wrap_fsync(int fd);

int __wrap_fsync(int fd)
{
	struct stat file;

	if (!fstat(fd, &file) && file.st_dev == parent.st_dev && file.st_ino == parent.st_ino)
		parent_syncs++;
	else
		other_syncs++;
	errno = failure;
	return failure ? -1 : 0;
}

static int failed;

static void check(int is, int should_be, const char *what)
{
	if (is == should_be)
		return;
	fprintf(stderr, "%s: %d, not %d\n", what, is, should_be);
	failed++;
}

static int exists(const char *path)
{
	return !access(path, F_OK);
}

int main(void)
{
	char folder[] = "/tmp/snapshot-directory-XXXXXX", path[60], slashes[64], below[64];

	if (!mkdtemp(folder) || stat(folder, &parent))
		return 77;
	snprintf(path, sizeof(path), "%s/points", folder);
	snprintf(slashes, sizeof(slashes), "%s//", path);
	snprintf(below, sizeof(below), "%s/no/points", folder);

	failure = EIO;
	check(disk_make_dir(path), -EIO, "a parent that cannot be synced");
	check(exists(path), 0, "its directory exists");
	failure = 0;
	check(disk_make_dir(slashes), 0, "a new directory");
	check(exists(path), 1, "it exists");
	check(parent_syncs, 2, "fsync of the parent");
	check(disk_make_dir(path), 0, "one that exists");
	check(parent_syncs, 3, "fsync of the parent again");
	failure = EACCES;
	check(disk_make_dir(path), 0, "one that exists in a parent that cannot be synced");
	check(exists(path), 1, "it exists still");
	check(disk_make_dir(below), -ENOENT, "one without a parent");
	check(other_syncs, 0, "fsync of others");
	(void)rmdir(path);
	(void)rmdir(folder);
	return failed != 0;
}
