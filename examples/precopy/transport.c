/* SPDX-License-Identifier: MIT */
#include "transport.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct reason {
	char *text;
	size_t bytes;
};

static int failed(struct reason reason, const char *what, const char *address, int error)
{
	snprintf(reason.text, reason.bytes, "%s %s: %s", what, address, strerror(error));
	return -error;
}

static int bad_address(struct reason reason, const char *address, const char *expected, int error)
{
	snprintf(reason.text, reason.bytes, "invalid address '%s', expected %s", address, expected);
	return -error;
}

static void set_nodelay(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int parse_unix(const char *address, struct sockaddr_un *un, struct reason reason)
{
	const char *path = address + strlen("unix:");

	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	if (!*path)
		return bad_address(reason, address, "unix:PATH", EINVAL);
	if (strlen(path) >= sizeof(un->sun_path))
		return failed(reason, "cannot use", address, ENAMETOOLONG);
	memcpy(un->sun_path, path, strlen(path) + 1);
	return 0;
}

/* Splits HOST:PORT at the last colon and strips the brackets of an IPv6 address. */
static int parse_tcp(const char *address, bool passive, struct addrinfo **found,
		     struct reason reason)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = passive ? AI_PASSIVE : 0 };
	const char *name = address + strlen("tcp:"), *colon = strrchr(name, ':');
	char host[256], *start = host;
	size_t bytes;
	int r;

	bytes = colon ? (size_t)(colon - name) : 0;
	if (!colon || !colon[1] || bytes >= sizeof(host))
		return bad_address(reason, address, "tcp:HOST:PORT", EINVAL);
	memcpy(host, name, bytes);
	host[bytes] = '\0';
	if (bytes > 1 && host[0] == '[' && host[bytes - 1] == ']') {
		host[bytes - 1] = '\0';
		start++;
	}
	r = getaddrinfo(*start ? start : NULL, colon + 1, &hints, found);
	if (!r)
		return 0;
	snprintf(reason.text, reason.bytes, "cannot resolve %s: %s", address, gai_strerror(r));
	return -EINVAL;
}

static bool is_unix(const char *address)
{
	return !strncmp(address, "unix:", strlen("unix:"));
}

static bool is_tcp(const char *address)
{
	return !strncmp(address, "tcp:", strlen("tcp:"));
}

/* Removes a stale socket file: one that refuses connections. A socket in use is left alone. */
static void remove_stale(const struct sockaddr_un *un)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return;
	if (connect(fd, (const struct sockaddr *)un, sizeof(*un)) && errno == ECONNREFUSED)
		(void)unlink(un->sun_path);
	close(fd);
}

static int bind_unix(const char *address, struct sockaddr_un *un, struct reason reason)
{
	int fd, r = parse_unix(address, un, reason);

	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return failed(reason, "cannot create a socket for", address, errno);
	remove_stale(un);
	if (bind(fd, (struct sockaddr *)un, sizeof(*un)) || listen(fd, 1)) {
		r = failed(reason, "cannot listen on", address, errno);
		close(fd);
		return r;
	}
	return fd;
}

static int bind_tcp(const char *address, struct reason reason)
{
	struct addrinfo *found, *at;
	int fd, on = 1, error = EADDRNOTAVAIL, r = parse_tcp(address, true, &found, reason);

	if (r)
		return r;
	for (at = found; at; at = at->ai_next) {
		fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
		if (fd < 0) {
			error = errno;
			continue;
		}
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (!bind(fd, at->ai_addr, at->ai_addrlen) && !listen(fd, 1))
			break;
		error = errno;
		close(fd);
	}
	freeaddrinfo(found);
	return at ? fd : failed(reason, "cannot listen on", address, error);
}

int transport_listen(const char *address, void (*listening)(const char *address), char *why,
		     size_t why_bytes)
{
	struct reason reason = { why, why_bytes };
	struct sockaddr_un un;
	int fd, peer, error;

	if (is_unix(address))
		fd = bind_unix(address, &un, reason);
	else if (is_tcp(address))
		fd = bind_tcp(address, reason);
	else
		fd = bad_address(reason, address, "unix:PATH or tcp:HOST:PORT", EINVAL);
	if (fd < 0)
		return fd;
	if (listening)
		listening(address);
	do {
		peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
		error = errno;
	} while (peer < 0 && error == EINTR);
	close(fd);
	if (is_unix(address))
		(void)unlink(un.sun_path);
	if (peer < 0)
		return failed(reason, "cannot accept a connection on", address, error);
	if (is_tcp(address))
		set_nodelay(peer);
	return peer;
}

static int connect_tcp(const char *address, struct reason reason)
{
	struct addrinfo *found, *at;
	int fd = -1, error = EADDRNOTAVAIL, r = parse_tcp(address, false, &found, reason);

	if (r)
		return r;
	for (at = found; at; at = at->ai_next) {
		fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
		if (fd >= 0 && !connect(fd, at->ai_addr, at->ai_addrlen))
			break;
		error = errno;
		if (fd >= 0)
			close(fd);
	}
	freeaddrinfo(found);
	if (!at)
		return failed(reason, "cannot connect to", address, error);
	set_nodelay(fd);
	return fd;
}

int transport_connect(const char *address, char *why, size_t why_bytes)
{
	struct reason reason = { why, why_bytes };
	struct sockaddr_un un;
	int fd, r;

	if (is_tcp(address))
		return connect_tcp(address, reason);
	if (!is_unix(address))
		return bad_address(reason, address, "unix:PATH or tcp:HOST:PORT", EINVAL);
	r = parse_unix(address, &un, reason);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return failed(reason, "cannot create a socket for", address, errno);
	if (!connect(fd, (struct sockaddr *)&un, sizeof(un)))
		return fd;
	r = failed(reason, "cannot connect to", address, errno);
	close(fd);
	return r;
}

static int pair_tcp(int fds[2])
{
	struct sockaddr_in in = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t bytes = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), error = 0;

	fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fds[1] = -1;
	if (fd < 0 || fds[0] < 0 || bind(fd, (struct sockaddr *)&in, bytes) || listen(fd, 1) ||
	    getsockname(fd, (struct sockaddr *)&in, &bytes) ||
	    connect(fds[0], (struct sockaddr *)&in, bytes))
		error = errno;
	else
		fds[1] = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	if (!error && fds[1] < 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	if (error && fds[0] >= 0)
		close(fds[0]);
	return -error;
}

int transport_pair(bool tcp, int fds[2], char *why, size_t why_bytes)
{
	struct reason reason = { why, why_bytes };
	int r;

	if (!tcp) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
			return failed(reason, "cannot create", "a socket pair", errno);
		return 0;
	}
	r = pair_tcp(fds);
	if (r)
		return failed(reason, "cannot connect over", "127.0.0.1", -r);
	set_nodelay(fds[0]);
	set_nodelay(fds[1]);
	return 0;
}
