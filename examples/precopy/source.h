/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SOURCE_H
#define PRECOPY_SOURCE_H

#include "options.h"

#include <sys/types.h>

/* Runs a guest and migrates it over a connected socket. Returns the exit status. */
int source_run(const struct options *options, int fd, pid_t destination_pid);

#endif
