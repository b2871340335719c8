/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_LISTENER_H
#define PRECOPY_LISTENER_H

#include "wire.h"

#include <signal.h>
#include <stddef.h>

/*
 * Waits for connections of a source at an address. Those of anything else, for example of a port
 * scanner, are closed and do not end the wait. A file that exists is never replaced or deleted.
 */
struct listener;

/* They return NULL or a negative errno value on failure, with the reason in why. */

/* ignored is called for each connection that is closed. */
struct listener *listener_open(const char *address, void (*ignored)(const char *why), char *why,
			       size_t why_bytes);

/*
 * Returns a source's first connection: it begins with a HELLO frame, which is not read yet. Once
 * *cancelled is set, the wait ends with -EINTR.
 */
int listener_wait(struct listener *listener, const volatile sig_atomic_t *cancelled, char *why,
		  size_t why_bytes);

/*
 * Returns a further connection of the source whose first one is first_fd: it begins with CHANNEL.
 * The wait also ends when the first one is closed, and after WIRE_TIMEOUT_NS.
 */
int listener_wait_again(struct listener *listener, int first_fd,
			const volatile sig_atomic_t *cancelled, char *why, size_t why_bytes);

/* The address; for TCP port 0, with the port that the kernel has chosen. */
const char *listener_address(const struct listener *listener);

void listener_close(struct listener *listener);

#endif
