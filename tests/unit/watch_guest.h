/* SPDX-License-Identifier: MIT */
#ifndef UNIT_WATCH_GUEST_H
#define UNIT_WATCH_GUEST_H

/* For tests of watches: a slot 0 whose memory the VMM maps a second time. */

#include "../model/uffd_scan.h"
#include "rules_guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGES = 200 };

/* Address space of which the model wants no memory. */
enum { ALIAS_BYTES = 64 << 20 };

static char *alias_space;

#define ALIAS alias_space

static inline int watch_at(uint32_t slot, char *alias, uint32_t flags)
{
	return dl_slot_watch(guest.log, slot, alias, flags);
}

static inline void watch(uint32_t flags)
{
	assert_int_equal(watch_at(0, ALIAS, flags), 0);
}

/* The VMM writes a page through the alias, and does not mark it. */
static inline void device_writes(uint64_t page)
{
	model_alias_wrote(guest.model, ALIAS + page * guest.page_bytes + 1, 1);
}

static inline void expect_error(const char *part)
{
	char text[300];

	assert_in_range(dl_log_last_error(guest.log, text, sizeof(text)), 1, sizeof(text) - 1);
	if (!strstr(text, part))
		fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static inline uint64_t watched(void)
{
	return guest_stats(&guest).watched_bytes / guest.page_bytes;
}

static inline uint64_t missed(void)
{
	return guest_stats(&guest).missed_bytes / guest.page_bytes;
}

/* Before the tests. */
static inline int reserve_alias(void)
{
	alias_space = mmap(NULL, ALIAS_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return alias_space == MAP_FAILED;
}

#endif
