/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DESTINATION_H
#define PRECOPY_DESTINATION_H

#include "options.h"

/* Receives a guest over a connected socket and resumes it. Returns the exit status. */
int destination_run(const struct options *options, int fd);

#endif
