/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_SNAPSHOT_H
#define DIRTYTOP_SNAPSHOT_H

#include "../status/status.h"

#include <stdbool.h>

/* One line of the protocol of status.h. */

struct snapshot_vcpu {
	uint64_t cookie, entries, new_pages, full_exits, high_water_entries;
};

struct snapshot {
	uint64_t version;
	uint64_t elapsed_ns;
	char program[32];
	uint64_t pid;
	char state[32];
	uint64_t ended;
	char mode[16];
	uint64_t ring_entries, page_bytes;
	uint64_t new_pages, overflows, full_exits;
	uint64_t pending_bytes, unacked_bytes;
	uint64_t pass, pass_bytes, pass_sent_bytes;
	uint64_t sent_pages, wire_bytes;
	char verdict[16];
	uint64_t held_vcpus;
	uint32_t n_vcpus;
	struct snapshot_vcpu vcpus[STATUS_VCPUS];
	uint32_t n_slots;
	uint64_t memory_bytes;
	uint64_t cell_bytes;
	uint32_t n_cells;
	uint64_t cells[HEAT_CELLS]; /* pages that were sent */
};

/* Returns false, with the reason in why, if it is no line of this version. */
bool snapshot_parse(struct snapshot *snapshot, const char *line, char *why, size_t why_bytes);

#endif
