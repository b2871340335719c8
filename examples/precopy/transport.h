/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_TRANSPORT_H
#define PRECOPY_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Connections to unix:PATH, tcp:HOST:PORT or tcp:[ADDRESS]:PORT. All functions return a negative
 * errno value on failure, with the reason in why.
 */

/* Returns the connected socket. */
int transport_connect(const char *address, char *why, size_t why_bytes);

/* Makes two connected sockets: a socket pair or, with tcp, a loopback connection. Returns 0. */
int transport_pair(bool tcp, int fds[2], char *why, size_t why_bytes);

/* Small frames are answered: do not collect them. */
void transport_set_nodelay(int fd);

#endif
