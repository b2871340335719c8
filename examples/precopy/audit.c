/* SPDX-License-Identifier: MIT */
#include "audit.h"

enum { EXTENTS = 16 };

int audit_begin(struct audit *audit, struct dl_log *log)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .flags = DL_CURSOR_MISSED };

	return dl_cursor_new(log, &options, &audit->cursor);
}

static void note(struct missed_marks *missed, const struct dl_extent *extent, uint64_t page_bytes)
{
	for (uint64_t at = 0; at < extent->bytes; at += page_bytes) {
		if (missed->pages < REPORT_MISSED)
			missed->gpas[missed->pages] = extent->gpa + at;
		missed->pages++;
	}
}

void audit_end(struct audit *audit, struct missed_marks *missed, uint64_t page_bytes)
{
	struct dl_extent extents[EXTENTS];
	int n;

	if (!audit->cursor)
		return;
	if (!dl_harvest(audit->cursor, 0, NULL))
		while ((n = dl_cursor_read(audit->cursor, extents, EXTENTS)) > 0)
			for (int i = 0; i < n; i++)
				note(missed, &extents[i], page_bytes);
	dl_cursor_free(audit->cursor);
	audit->cursor = NULL;
}
