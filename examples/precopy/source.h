/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SOURCE_H
#define PRECOPY_SOURCE_H

#include "host.h"

#include <sys/types.h>

/*
 * Runs a guest and migrates it over a connected socket: the one that is open on this host, or a new
 * one. Closes the host. Returns the exit status.
 */
int source_run(const struct options *options, int fd, pid_t destination_pid, struct host *host);

#endif
