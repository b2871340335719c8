/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_LISTENER_H
#define PRECOPY_LISTENER_H

#include <signal.h>
#include <stddef.h>

/*
 * Waits for a source at an address. Connections of anything else, for example of a port scanner,
 * are closed and do not end the wait. A file that exists is never replaced or deleted.
 *   listening  is called once connections are possible, with the address; for TCP port 0 the port
 *              that the kernel has chosen is in it
 *   ignored    is called for each connection that is closed
 *   cancelled  once it is set, the wait ends with -EINTR
 * Returns a socket, or a negative errno value with the reason in why.
 */
int listener_wait(const char *address, void (*listening)(const char *address),
		  void (*ignored)(const char *why), const volatile sig_atomic_t *cancelled,
		  char *why, size_t why_bytes);

#endif
