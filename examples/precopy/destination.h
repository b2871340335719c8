/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DESTINATION_H
#define PRECOPY_DESTINATION_H

#include "host.h"

/*
 * Receives a guest over a connected socket and resumes it. Returns the exit status. With --connect,
 * a guest that has arrived well is left on the host, stopped, with a log to move on with.
 */
int destination_run(const struct options *options, int fd, struct host *host);

#endif
