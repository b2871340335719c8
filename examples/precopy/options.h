/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_OPTIONS_H
#define PRECOPY_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum backend { BACKEND_AUTO, BACKEND_KVM, BACKEND_MODEL };

/* How the caller's side of the protocol is broken on purpose. */
enum sabotage {
	SABOTAGE_NONE,
	SABOTAGE_FINAL,	     /* no final harvest */
	SABOTAGE_MARK,	     /* the device's writes are not marked */
	SABOTAGE_ACK,	     /* some pages are acknowledged and not sent */
	SABOTAGE_DROP,	     /* one page is dropped */
	SABOTAGE_READ_EARLY, /* contents are copied before the harvest */
};

/* All sizes in bytes; 0 in a rate means: no limit. */
struct options {
	uint32_t vcpus;
	uint64_t memory_bytes;
	uint64_t working_set_bytes; /* 0: a quarter of the memory */
	uint64_t dirty_bytes_per_s;
	uint32_t pattern; /* GUEST_* */
	bool guest_user;
	uint32_t mode;	 /* DL_MODE_* */
	uint32_t backup; /* DL_BACKUP_* */
	uint32_t ring_entries;
	enum backend backend;
	uint64_t bandwidth_bytes_per_s;
	uint64_t downtime_limit_ns;
	uint32_t passes;
	bool zero_pages;
	bool tcp;
	const char *listen;  /* run the destination alone */
	const char *connect; /* run the source alone */
	int destination_fd;  /* >= 0: the destination that a source started */
	enum sabotage sabotage;
	bool json;
	bool memory_given;
};

/* Exit statuses, told by --help. */
enum {
	STATUS_MOVED = 0,   /* no page differs, and the guest is healthy */
	STATUS_CORRUPT = 1, /* pages differ, or the guest found damage */
	STATUS_USAGE = 2,
	STATUS_FAILED = 3, /* the migration did not take place */
};

/*
 * Fills options. Returns -1, or the status to exit with: after --help, and after a mistake, which
 * is then told on stderr.
 */
int options_parse(struct options *options, int argc, char **argv);

/* The word for it on the command line. */
const char *options_sabotage_name(enum sabotage sabotage);
const char *options_pattern_name(uint32_t pattern);
const char *options_mode_name(uint32_t mode);

#endif
