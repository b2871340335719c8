/* SPDX-License-Identifier: MIT */
#ifndef STATUS_LINE_H
#define STATUS_LINE_H

#include "status.h"

#include <stdbool.h>

/* One line of the protocol, and what it is made of besides the source. */
struct status_line {
	uint64_t sequence;
	uint64_t time_ns, elapsed_ns;
	uint32_t interval_ms;
	struct dl_config config;
	struct dl_cursor_stats cursor;
	bool has_cursor;
	const char *ended; /* the state after the end, or NULL */
};

/* Returns the line, which the caller frees, or NULL. */
char *status_line_make(const struct status_line *line, const struct status_source *source,
		       size_t *bytes);

#endif
