/* SPDX-License-Identifier: MIT */
#include "page_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const char *path, int r, char *why, size_t why_bytes)
{
	snprintf(why, why_bytes, "cannot write %.120s: %s", path,
		 r == -EEXIST ? "it exists, and is no regular file" : strerror(-r));
	return r;
}

/* Where the path leads to: what a symbolic link points to is replaced, not the link. */
static int resolve(const char *path, char **target)
{
	struct stat file;

	*target = NULL;
	if (!*path)
		return -ENOENT;
	if (!stat(path, &file)) {
		if (S_ISDIR(file.st_mode))
			return -EISDIR;
		if (!S_ISREG(file.st_mode))
			return -EEXIST;
		if (access(path, W_OK))
			return -errno;
		*target = realpath(path, NULL);
	} else if (errno == ENOENT) {
		*target = strdup(path);
	}
	return *target ? 0 : -errno;
}

/* Opens a new file beside the target. */
static int open_beside(const char *target, char **name)
{
	mode_t mask;
	int fd;

	if (asprintf(name, "%s.XXXXXX", target) < 0) {
		*name = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(*name, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	mask = umask(0);
	umask(mask);
	(void)fchmod(fd, 0666 & ~mask);
	return fd;
}

static int write_all(int fd, const char *text, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, text, bytes);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			bytes -= (size_t)n;
		}
	}
	return fsync(fd) ? -errno : 0;
}

/* Without text it only tries. */
static int write_or_try(const char *path, const char *text, size_t bytes)
{
	char *target, *name = NULL;
	int fd, r = resolve(path, &target);

	if (r)
		return r;
	fd = r = open_beside(target, &name);
	if (fd >= 0) {
		r = text ? write_all(fd, text, bytes) : 0;
		if (close(fd) && !r)
			r = -errno;
		if (!r && text && rename(name, target))
			r = -errno;
		if (r || !text)
			(void)unlink(name);
	}
	free(name);
	free(target);
	return r;
}

int page_file_check(const char *path, char *why, size_t why_bytes)
{
	int r = write_or_try(path, NULL, 0);

	return r ? fail(path, r, why, why_bytes) : 0;
}

int page_file_write(const char *path, const char *text, size_t bytes, char *why, size_t why_bytes)
{
	int r = write_or_try(path, text, bytes);

	return r ? fail(path, r, why, why_bytes) : 0;
}
