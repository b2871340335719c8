/* SPDX-License-Identifier: MIT */
#include "address.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PORT = 65535, HOST_BYTES = 256 };

int address_failed(struct reason reason, const char *what, const char *address, int error)
{
	snprintf(reason.text, reason.bytes, "%s %s: %s", what, address, strerror(error));
	return -error;
}

int address_is_bad(struct reason reason, const char *address, const char *expected)
{
	snprintf(reason.text, reason.bytes, "invalid address '%s', expected %s", address, expected);
	return -EINVAL;
}

bool address_is_unix(const char *address)
{
	return !strncmp(address, "unix:", strlen("unix:"));
}

bool address_is_tcp(const char *address)
{
	return !strncmp(address, "tcp:", strlen("tcp:"));
}

int address_parse_unix(const char *address, struct sockaddr_un *un, struct reason reason)
{
	const char *path = address + strlen("unix:");

	memset(un, 0, sizeof(*un));
	un->sun_family = AF_UNIX;
	if (!*path)
		return address_is_bad(reason, address, "unix:PATH");
	if (strlen(path) >= sizeof(un->sun_path))
		return address_failed(reason, "cannot use", address, ENAMETOOLONG);
	memcpy(un->sun_path, path, strlen(path) + 1);
	return 0;
}

/* A service's name may stand for a port. A number that is too large would be taken modulo 65536. */
static bool is_port(const char *text, bool passive)
{
	bool numeric = *text && text[strspn(text, "0123456789")] == '\0';
	unsigned long port = strtoul(text, NULL, 10);

	return *text && (!numeric || (port <= MAX_PORT && (port || passive)));
}

/* The colon before the port, or NULL with the reason. */
static const char *find_port(const char *address, bool passive, struct reason reason)
{
	const char *colon = strrchr(address + strlen("tcp:"), ':');

	if (!colon || colon - address >= HOST_BYTES)
		(void)address_is_bad(reason, address, "tcp:HOST:PORT");
	else if (!is_port(colon + 1, passive))
		(void)address_is_bad(reason, address, "a port from 1 to 65535");
	else
		return colon;
	return NULL;
}

int address_check(const char *address, bool passive, struct reason reason)
{
	struct sockaddr_un un;

	if (address_is_unix(address))
		return address_parse_unix(address, &un, reason);
	if (address_is_tcp(address))
		return find_port(address, passive, reason) ? 0 : -EINVAL;
	return address_is_bad(reason, address, "unix:PATH or tcp:HOST:PORT");
}

/* Splits HOST:PORT at the last colon and strips the brackets of an IPv6 address. */
int address_parse_tcp(const char *address, bool passive, struct addrinfo **found,
		      struct reason reason)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
				  .ai_flags = passive ? AI_PASSIVE : 0 };
	const char *name = address + strlen("tcp:"), *colon = find_port(address, passive, reason);
	char host[HOST_BYTES], *start = host;
	size_t bytes;
	int r;

	if (!colon)
		return -EINVAL;
	bytes = (size_t)(colon - name);
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
