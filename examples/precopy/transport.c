/* SPDX-License-Identifier: MIT */
#include "transport.h"
#include "address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

void transport_set_nodelay(int fd)
{
	int on = 1;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int connect_tcp(const char *address, struct reason reason)
{
	struct addrinfo *found, *at;
	int fd = -1, error = EADDRNOTAVAIL, r = address_parse_tcp(address, false, &found, reason);

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
		return address_failed(reason, "cannot connect to", address, error);
	transport_set_nodelay(fd);
	return fd;
}

int transport_connect(const char *address, char *why, size_t why_bytes)
{
	struct reason reason = { why, why_bytes };
	struct sockaddr_un un;
	int fd, r;

	if (address_is_tcp(address))
		return connect_tcp(address, reason);
	if (!address_is_unix(address))
		return address_is_bad(reason, address, "unix:PATH or tcp:HOST:PORT");
	r = address_parse_unix(address, &un, reason);
	if (r)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return address_failed(reason, "cannot create a socket for", address, errno);
	if (!connect(fd, (struct sockaddr *)&un, sizeof(un)))
		return fd;
	r = address_failed(reason, "cannot connect to", address, errno);
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
			return address_failed(reason, "cannot create", "a socket pair", errno);
		return 0;
	}
	r = pair_tcp(fds);
	if (r)
		return address_failed(reason, "cannot connect over", "127.0.0.1", -r);
	transport_set_nodelay(fds[0]);
	transport_set_nodelay(fds[1]);
	return 0;
}
