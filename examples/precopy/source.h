/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SOURCE_H
#define PRECOPY_SOURCE_H

#include "host.h"
#include "watch.h"

#include <sys/types.h>

/*
 * Runs a guest and migrates it over connected sockets, one for each of the options' channels: the
 * guest that is open on this host, or a new one. Closes the host and the sockets. Returns the exit
 * status.
 */
int source_run(const struct options *options, const int *fds, pid_t destination_pid,
	       struct host *host, struct watch *watch);

#endif
