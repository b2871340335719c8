/* SPDX-License-Identifier: MIT */
#ifndef DLI_OPTIONS_H
#define DLI_OPTIONS_H

#include <dirtylog/dirtylog.h>

/* Copies and checks a caller's options; NULL means all zero. -EINVAL, -E2BIG. */
int dli_options_read(const struct dl_options *from, struct dl_options *options, char *why,
		     size_t why_bytes);

#endif
