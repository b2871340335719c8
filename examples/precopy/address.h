/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_ADDRESS_H
#define PRECOPY_ADDRESS_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/un.h>

/* Addresses on the command line: unix:PATH or tcp:HOST:PORT. */

/* Where the reason for a failure goes. */
struct reason {
	char *text;
	size_t bytes;
};

bool address_is_unix(const char *address);
bool address_is_tcp(const char *address);

/* These return 0, or a negative errno value with the reason. */

/* Whether it is an address at all; resolves no name. Only a passive one may have the port 0. */
int address_check(const char *address, bool passive, struct reason reason);

int address_parse_unix(const char *address, struct sockaddr_un *un, struct reason reason);

/* The caller frees *found with freeaddrinfo(). */
int address_parse_tcp(const char *address, bool passive, struct addrinfo **found,
		      struct reason reason);

/* Return the negative error, and say what failed. */
int address_failed(struct reason reason, const char *what, const char *address, int error);
int address_is_bad(struct reason reason, const char *address, const char *expected);

#endif
