/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_TRANSPORT_H
#define PRECOPY_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Sockets by name: unix:PATH, tcp:HOST:PORT, tcp:[ADDRESS]:PORT. All return a file descriptor or
 * a negative errno value, and say in why what failed.
 */

/* Waits for one connection. listening is called once others can connect. */
int transport_listen(const char *address, void (*listening)(const char *address), char *why,
		     size_t why_bytes);

int transport_connect(const char *address, char *why, size_t why_bytes);

/* Two connected sockets: a socket pair, or with tcp a connection over the loopback. */
int transport_pair(bool tcp, int fds[2], char *why, size_t why_bytes);

#endif
