/* SPDX-License-Identifier: MIT */
#ifndef STATUS_SOCKET_H
#define STATUS_SOCKET_H

#include <sys/stat.h>
#include <sys/un.h>

/* The socket file on which a log is published. */
struct status_socket {
	int fd; /* listens, does not block */
	struct sockaddr_un address;
	struct stat file; /* to remove no other one */
};

/* Returns 0, or a negative errno value with the reason in why. */
int status_socket_open(struct status_socket *to, const char *path, char *why, size_t why_bytes);
void status_socket_close(struct status_socket *from);

/* A reader's connection, which does not block; -EAGAIN: none waits. A stranger's is closed. */
int status_socket_accept(const struct status_socket *from);

#endif
