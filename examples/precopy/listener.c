/* SPDX-License-Identifier: MIT */
#include "listener.h"
#include "address.h"
#include "../clock.h"
#include "transport.h"
#include "wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PEERS = 2 * WIRE_MAX_CHANNELS, TICK_MS = 50, ADDRESS_BYTES = 300 };

/* A connection that has not said what it is. */
struct peer {
	int fd;
	uint64_t deadline_ns;
};

struct listener {
	int fd;
	char address[ADDRESS_BYTES];
	struct sockaddr_un un; /* sun_path is empty for TCP */
	struct stat file;      /* the socket's, to remove no other one */
	struct peer peers[MAX_PEERS];
	unsigned int n_peers;
	void (*ignored)(const char *why);
};

static int bind_unix(struct listener *listener, const char *address, struct reason reason)
{
	struct sockaddr_un un;
	int r = address_parse_unix(address, &un, reason);

	if (r)
		return r;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener->fd < 0)
		return address_failed(reason, "cannot create a socket for", address, errno);
	if (bind(listener->fd, (struct sockaddr *)&un, sizeof(un))) {
		r = address_failed(reason, "cannot listen on", address, errno);
		if (r == -EADDRINUSE)
			snprintf(reason.text, reason.bytes,
				 "cannot listen on %.120s: the file exists; remove it if nothing "
				 "listens there",
				 address);
		return r;
	}
	listener->un = un;
	if (lstat(un.sun_path, &listener->file))
		*listener->un.sun_path = '\0';
	return listen(listener->fd, MAX_PEERS)
		       ? address_failed(reason, "cannot listen on", address, errno)
		       : 0;
}

static int bind_to(struct listener *listener, const struct addrinfo *at)
{
	int on = 1;

	listener->fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
	if (listener->fd < 0)
		return -errno;
	(void)setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	return bind(listener->fd, at->ai_addr, at->ai_addrlen) || listen(listener->fd, MAX_PEERS)
		       ? -errno
		       : 0;
}

/* The port that the kernel has chosen, in place of port 0. */
static void name_port(struct listener *listener)
{
	char *colon = strrchr(listener->address, ':');
	struct sockaddr_storage bound;
	socklen_t bytes = sizeof(bound);
	char port[16];

	if (strcmp(colon, ":0") || getsockname(listener->fd, (struct sockaddr *)&bound, &bytes) ||
	    getnameinfo((struct sockaddr *)&bound, bytes, NULL, 0, port, sizeof(port),
			NI_NUMERICSERV))
		return;
	snprintf(colon + 1, (size_t)(listener->address + ADDRESS_BYTES - (colon + 1)), "%s", port);
}

static int bind_tcp(struct listener *listener, const char *address, struct reason reason)
{
	struct addrinfo *found, *at;
	int r = address_parse_tcp(address, true, &found, reason);

	if (r)
		return r;
	r = -EADDRNOTAVAIL;
	for (at = found; at && r; at = at->ai_next) {
		r = bind_to(listener, at);
		if (r && listener->fd >= 0) {
			close(listener->fd);
			listener->fd = -1;
		}
	}
	freeaddrinfo(found);
	if (r)
		return address_failed(reason, "cannot listen on", address, -r);
	name_port(listener);
	return 0;
}

static void drop_peer(struct listener *listener, unsigned int i, const char *why)
{
	close(listener->peers[i].fd);
	listener->peers[i] = listener->peers[--listener->n_peers];
	if (listener->ignored)
		listener->ignored(why);
}

static void accept_peer(struct listener *listener)
{
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	listener->peers[listener->n_peers++] = (struct peer){ fd, clock_ns() + WIRE_TIMEOUT_NS };
}

/* The first peer that begins with a frame of the type, or -1. */
static int find_source(struct listener *listener, enum wire_type type)
{
	unsigned int i = 0;

	while (i < listener->n_peers) {
		struct peer *peer = &listener->peers[i];
		int fd = peer->fd;

		switch (wire_peek(fd, type)) {
		case WIRE_PEEK_WANTED:
			*peer = listener->peers[--listener->n_peers];
			return fd;
		case WIRE_PEEK_OTHER:
			drop_peer(listener, i, "it does not speak this protocol");
			break;
		case WIRE_PEEK_CLOSED:
			drop_peer(listener, i, "it was closed");
			break;
		case WIRE_PEEK_NOTHING:
			if (clock_ns() < peer->deadline_ns)
				i++;
			else
				drop_peer(listener, i, "it sent nothing");
			break;
		}
	}
	return -1;
}

/* One look for connections, and for a source among them. Returns it, or -1. */
static int look(struct listener *listener, enum wire_type type)
{
	struct pollfd pollfd = { .fd = listener->fd, .events = POLLIN };
	int fd;

	/* Peers are looked at every tick: part of a frame would not let poll() sleep. */
	if (listener->n_peers == MAX_PEERS)
		pollfd.fd = -1;
	if (poll(&pollfd, 1, TICK_MS) > 0)
		accept_peer(listener);
	fd = find_source(listener, type);
	if (fd >= 0 && !*listener->un.sun_path)
		transport_set_nodelay(fd);
	return fd;
}

int listener_wait(struct listener *listener, const volatile sig_atomic_t *cancelled, char *why,
		  size_t why_bytes)
{
	int fd = -1;

	while (fd < 0 && !*cancelled)
		fd = look(listener, WIRE_HELLO);
	if (fd >= 0)
		return fd;
	snprintf(why, why_bytes, "interrupted before a source connected");
	return -EINTR;
}

int listener_wait_again(struct listener *listener, int first_fd,
			const volatile sig_atomic_t *cancelled, char *why, size_t why_bytes)
{
	uint64_t deadline_ns = clock_ns() + WIRE_TIMEOUT_NS;

	while (!*cancelled && clock_ns() < deadline_ns) {
		int fd = look(listener, WIRE_CHANNEL);

		if (fd >= 0)
			return fd;
		if (wire_peek(first_fd, WIRE_CHANNEL) == WIRE_PEEK_CLOSED) {
			snprintf(why, why_bytes, "connection lost: the peer closed it");
			return -EPIPE;
		}
	}
	snprintf(why, why_bytes,
		 *cancelled ? "cancelled" : "timed out: the source did not connect again");
	return *cancelled ? -EINTR : -ETIMEDOUT;
}

const char *listener_address(const struct listener *listener)
{
	return listener->address;
}

void listener_close(struct listener *listener)
{
	struct stat file;

	listener->ignored = NULL;
	while (listener->n_peers)
		drop_peer(listener, 0, NULL);
	if (*listener->un.sun_path && !lstat(listener->un.sun_path, &file) &&
	    file.st_dev == listener->file.st_dev && file.st_ino == listener->file.st_ino)
		(void)unlink(listener->un.sun_path);
	if (listener->fd >= 0)
		close(listener->fd);
	free(listener);
}

struct listener *listener_open(const char *address, void (*ignored)(const char *why), char *why,
			       size_t why_bytes)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	struct reason reason = { why, why_bytes };
	int r;

	if (!listener) {
		(void)address_failed(reason, "cannot listen on", address, ENOMEM);
		return NULL;
	}
	listener->fd = -1;
	listener->ignored = ignored;
	snprintf(listener->address, sizeof(listener->address), "%s", address);
	if (address_is_unix(address))
		r = bind_unix(listener, address, reason);
	else if (address_is_tcp(address))
		r = bind_tcp(listener, address, reason);
	else
		r = address_is_bad(reason, address, "unix:PATH or tcp:HOST:PORT");
	if (!r)
		return listener;
	listener_close(listener);
	return NULL;
}
