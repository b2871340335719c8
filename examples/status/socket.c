/* SPDX-License-Identifier: MIT */
#include "socket.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 16, TEMPORARY_TRIES = 100 };

/*
 * The mode of our sockets. The sticky bit has no meaning for a socket; it is the mark by which a
 * server knows a socket that another one has left behind from those of other programs.
 */
#define OWN_MODE (S_ISVTX | S_IRUSR | S_IWUSR)

struct reason {
	char *text;
	size_t bytes;
	const char *path;
};

static int fail(struct reason reason, int error, const char *what)
{
	snprintf(reason.text, reason.bytes, "cannot publish on %.120s: %s", reason.path, what);
	return error;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Nobody else's file is deleted, whoever has put one there meanwhile. */
static void unlink_if(const char *path, const struct stat *file)
{
	struct stat found;

	if (!lstat(path, &found) && same_file(&found, file))
		(void)unlink(path);
}

static int set_path(struct sockaddr_un *address, const char *path)
{
	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memcpy(address->sun_path, path, strlen(path) + 1);
	return 0;
}

/* Makes a listening socket that nobody else can connect to, not even while it is being made. */
static int listen_at(struct status_socket *to)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (fd < 0)
		return -errno;
	/* The file gets the mode that the socket has when it is bound. */
	if (!fchmod(fd, OWN_MODE) &&
	    !bind(fd, (struct sockaddr *)&to->address, sizeof(to->address))) {
		if (!lstat(to->address.sun_path, &to->file) && !listen(fd, BACKLOG)) {
			to->fd = fd;
			return 0;
		}
		r = -errno;
		(void)unlink(to->address.sun_path);
	} else {
		r = -errno;
	}
	close(fd);
	return r;
}

/* Returns 0 if the path is a socket that an earlier server left behind, or the reason. */
static int look_at(const struct sockaddr_un *address, struct stat *file, struct reason reason)
{
	int fd, r;

	if (lstat(address->sun_path, file))
		return fail(reason, -errno, strerror(errno));
	if (!S_ISSOCK(file->st_mode))
		return fail(reason, -EEXIST, "the file exists, and is no socket");
	if (file->st_uid != geteuid() || (file->st_mode & ~(mode_t)S_IFMT) != OWN_MODE)
		return fail(reason, -EEXIST,
			    "the file exists, and is the socket of something else");
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(reason, -errno, strerror(errno));
	r = connect(fd, (const struct sockaddr *)address, sizeof(*address)) ? -errno : 0;
	close(fd);
	/* A full backlog has a server behind it. */
	if (!r || r == -EAGAIN)
		return fail(reason, -EADDRINUSE, "another program publishes there");
	return r == -ECONNREFUSED ? 0 : fail(reason, r, strerror(-r));
}

/*
 * Puts the new socket in the place of one that was left behind. The two change places, and only
 * then is the old one removed: had somebody put another file there meanwhile, it would come to
 * light at the new one's old name, and go back.
 */
static int replace(struct status_socket *to, const struct stat *stale, struct reason reason)
{
	struct sockaddr_un wanted = to->address;
	struct stat found;
	int r = -EEXIST;

	for (int i = 0; i < TEMPORARY_TRIES && (r == -EADDRINUSE || r == -EEXIST); i++) {
		char name[sizeof(wanted.sun_path) + 16];

		snprintf(name, sizeof(name), "%s.%d", reason.path, i);
		r = set_path(&to->address, name);
		if (!r)
			r = listen_at(to);
	}
	if (r)
		return fail(reason, r, strerror(-r));
	if (renameat2(AT_FDCWD, to->address.sun_path, AT_FDCWD, wanted.sun_path, RENAME_EXCHANGE)) {
		r = fail(reason, -errno, strerror(errno));
	} else if (lstat(to->address.sun_path, &found) || !same_file(&found, stale)) {
		(void)renameat2(AT_FDCWD, to->address.sun_path, AT_FDCWD, wanted.sun_path,
				RENAME_EXCHANGE);
		r = fail(reason, -EADDRINUSE, "another program publishes there");
	}
	unlink_if(to->address.sun_path, r ? &to->file : stale);
	to->address = wanted;
	if (!r)
		return 0;
	close(to->fd);
	return r;
}

int status_socket_open(struct status_socket *to, const char *path, char *why, size_t why_bytes)
{
	struct reason reason = { why, why_bytes, path };
	struct stat file;
	int r;

	if (!*path)
		return fail(reason, -EINVAL, "the path is empty");
	r = set_path(&to->address, path);
	if (!r)
		r = listen_at(to);
	if (r == -EADDRINUSE) {
		r = look_at(&to->address, &file, reason);
		return r ? r : replace(to, &file, reason);
	}
	return r ? fail(reason, r, strerror(-r)) : 0;
}

void status_socket_close(struct status_socket *from)
{
	close(from->fd);
	unlink_if(from->address.sun_path, &from->file);
}

int status_socket_accept(const struct status_socket *from)
{
	int fd = accept4(from->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct ucred peer = { .uid = (uid_t)-1 };
	socklen_t bytes = sizeof(peer);

	if (fd < 0)
		return -errno;
	/* The file's mode says so too; a file system may not keep it. */
	if (!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) &&
	    (!peer.uid || peer.uid == geteuid()))
		return fd;
	close(fd);
	return -EACCES;
}
