/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_AUDIT_H
#define PRECOPY_AUDIT_H

#include "report.h"

#include <dirtylog/dirtylog.h>

/* --watch --sabotage mark: which of the device's marks are missing. */
struct audit {
	struct dl_cursor *cursor; /* NULL: none */
};

/* Before the migration's cursor, or beside it. */
int audit_begin(struct audit *audit, struct dl_log *log);

/* The device has stopped: notes the pages that nobody marked. Nothing without a beginning. */
void audit_end(struct audit *audit, struct missed_marks *missed, uint64_t page_bytes);

#endif
