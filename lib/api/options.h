/* SPDX-License-Identifier: MIT */
#ifndef DLI_OPTIONS_H
#define DLI_OPTIONS_H

#include <dirtylog/dirtylog.h>

/* Reads a caller's options as this release knows them: -EINVAL, -E2BIG. NULL is all zero. */
int dli_options_read(const struct dl_options *from, struct dl_options *options, char *why,
		     size_t why_bytes);

#endif
