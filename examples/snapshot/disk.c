/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASIDE ".part"

enum { ASIDE_BYTES = SNAP_NAME_BYTES + sizeof(ASIDE), MAX_VECTORS = 64 };

void disk_init(struct disk *disk, int dir_fd, const struct fault *fault)
{
	*disk = (struct disk){ .dir_fd = dir_fd, .fd = -1, .fault = *fault };
}

/* The next step's fault. */
static enum fault_kind step(struct disk *disk)
{
	if (++disk->steps != disk->fault.step)
		return FAULT_NONE;
	return disk->fault.kind;
}

static void die(void)
{
	raise(SIGKILL);
}

/* A step that writes nothing fails before it does anything. */
static int step_or_fail(struct disk *disk)
{
	enum fault_kind kind = step(disk);

	if (kind == FAULT_NONE || kind == FAULT_SHORT)
		return 0;
	disk->injected++;
	if (kind == FAULT_KILL)
		die();
	return kind == FAULT_ENOSPC ? -ENOSPC : -EIO;
}

static void aside_name(const struct disk *disk, char *name)
{
	snprintf(name, ASIDE_BYTES, "%s%s", disk->name, disk->in_place ? "" : ASIDE);
}

int disk_begin(struct disk *disk, const char *name)
{
	char aside[ASIDE_BYTES];
	int r;

	snprintf(disk->name, sizeof(disk->name), "%s", name);
	aside_name(disk, aside);
	r = step_or_fail(disk);
	if (r)
		return r;
	disk->fd = openat(disk->dir_fd, aside,
			  O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
	return disk->fd < 0 ? -errno : 0;
}

/* Cuts the vectors down to their first half. */
static int halve(struct iovec *iov, int n)
{
	size_t bytes = 0;
	int i;

	for (i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	bytes /= 2;
	for (i = 0; i < n && bytes > iov[i].iov_len; i++)
		bytes -= iov[i].iov_len;
	iov[i].iov_len = bytes;
	return i + 1;
}

/* One pwritev(2), or what the fault makes of it. */
static ssize_t write_once(struct disk *disk, const struct iovec *iov, int n, uint64_t offset)
{
	enum fault_kind kind = step(disk);
	struct iovec half[MAX_VECTORS];
	ssize_t written;

	if (kind == FAULT_NONE) {
		written = pwritev(disk->fd, iov, n, (off_t)offset);
		return written < 0 ? -errno : written;
	}
	disk->injected++;
	if (kind == FAULT_EIO)
		return -EIO;
	memcpy(half, iov, (size_t)n * sizeof(*iov));
	written = pwritev(disk->fd, half, halve(half, n), (off_t)offset);
	if (kind == FAULT_KILL)
		die();
	if (kind == FAULT_ENOSPC)
		return -ENOSPC;
	return written < 0 ? -errno : written;
}

/* Takes what was written off the vectors. Returns how many are left. */
static int advance(struct iovec *iov, int n, size_t written)
{
	int done = 0;

	while (done < n && written >= iov[done].iov_len)
		written -= iov[done++].iov_len;
	memmove(iov, iov + done, (size_t)(n - done) * sizeof(*iov));
	if (done < n) {
		iov[0].iov_base = (char *)iov[0].iov_base + written;
		iov[0].iov_len -= written;
	}
	return n - done;
}

int disk_write(struct disk *disk, const struct iovec *from, int n, uint64_t offset)
{
	struct iovec iov[MAX_VECTORS];

	if (n > MAX_VECTORS || n < 1 || disk->fd < 0)
		return -EINVAL;
	memcpy(iov, from, (size_t)n * sizeof(*iov));
	while (n) {
		ssize_t written = write_once(disk, iov, n, offset);

		if (written == -EINTR)
			continue;
		if (written < 0)
			return (int)written;
		/* No progress, no error: as good as full. */
		if (!written)
			return -ENOSPC;
		offset += (uint64_t)written;
		n = advance(iov, n, (size_t)written);
	}
	return 0;
}

static int sync_file(struct disk *disk)
{
	int r = step_or_fail(disk);

	return r ? r : fsync(disk->fd) ? -errno : 0;
}

static int rename_file(struct disk *disk)
{
	char aside[ASIDE_BYTES];
	enum fault_kind kind = step(disk);

	aside_name(disk, aside);
	if (kind == FAULT_KILL || kind == FAULT_ENOSPC || kind == FAULT_EIO)
		disk->injected++;
	if (kind == FAULT_KILL)
		die();
	if (kind == FAULT_ENOSPC)
		return -ENOSPC;
	/* A network file system may have made a rename whose answer is lost. */
	if (renameat(disk->dir_fd, aside, disk->dir_fd, disk->name))
		return -errno;
	return kind == FAULT_EIO ? -EIO : 0;
}

int disk_sync(struct disk *disk)
{
	int r = step_or_fail(disk);

	return r ? r : fsync(disk->dir_fd) ? -errno : 0;
}

int disk_commit(struct disk *disk)
{
	int r = sync_file(disk);

	if (r)
		return r;
	r = close(disk->fd) ? -errno : 0;
	disk->fd = -1;
	if (!r)
		r = rename_file(disk);
	return r ? r : disk_sync(disk);
}

void disk_abort(struct disk *disk)
{
	char aside[ASIDE_BYTES];

	if (disk->fd >= 0)
		close(disk->fd);
	disk->fd = -1;
	aside_name(disk, aside);
	if (*disk->name && !disk->in_place)
		(void)unlinkat(disk->dir_fd, aside, 0);
}

int disk_remove(struct disk *disk, const char *name)
{
	int r = step_or_fail(disk);

	return r ? r : unlinkat(disk->dir_fd, name, 0) ? -errno : 0;
}

/* By "..", since the path may end in anything. */
static int sync_parent(const char *path)
{
	int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1, r;

	if (dir_fd >= 0)
		fd = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = fd < 0 || fsync(fd) ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (dir_fd >= 0)
		close(dir_fd);
	return r;
}

int disk_make_dir(const char *path)
{
	int r;

	if (!mkdir(path, 0777)) {
		r = sync_parent(path);
		/* The next run makes it again, and does not take its name for durable. */
		if (r)
			(void)rmdir(path);
		return r;
	}
	r = errno == EEXIST ? 0 : -errno;
	/* A run that made it may have been killed; one that did not may not read its parent. */
	if (!r)
		(void)sync_parent(path);
	return r;
}

void disk_tidy(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	char name[SNAP_NAME_BYTES];

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir))) {
		size_t length = strlen(entry->d_name);

		/* Only our own: a point's name, or the list's, and the suffix. */
		if (length <= strlen(ASIDE) || length - strlen(ASIDE) >= sizeof(name) ||
		    strcmp(entry->d_name + length - strlen(ASIDE), ASIDE))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(length - strlen(ASIDE)), entry->d_name);
		if (snap_number(name) || !strcmp(name, DISK_LIST_NAME))
			(void)unlinkat(dir_fd, entry->d_name, 0);
	}
	closedir(dir);
}
