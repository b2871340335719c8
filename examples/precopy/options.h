/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_OPTIONS_H
#define PRECOPY_OPTIONS_H

#include "machine.h"
#include "wire.h"

#include <stdbool.h>
#include <stdint.h>

/* Mistakes of a caller of the library, made on purpose. */
enum sabotage {
	SABOTAGE_NONE,
	SABOTAGE_FINAL,	     /* skip the final harvest */
	SABOTAGE_MARK,	     /* do not mark the device's writes */
	SABOTAGE_DISCARD,    /* do not mark what the balloon discards */
	SABOTAGE_ACK,	     /* acknowledge some pages without sending them */
	SABOTAGE_DROP,	     /* drop one page of the final pass */
	SABOTAGE_READ_EARLY, /* copy page contents before the harvest */
	SABOTAGE_LOG,	     /* drop the log of the device process */
};

enum throttle_option {
	THROTTLE_NONE,
	THROTTLE_AUTO_CONVERGE,
	THROTTLE_DIRTY_LIMIT,
	THROTTLE_PLAN,
	THROTTLE_KINDS
};

/* A rate of 0 means no limit. */
struct options {
	uint32_t vcpus;
	uint64_t memory_bytes;
	uint64_t working_set_bytes;
	uint64_t dirty_bytes_per_s;
	uint32_t pattern; /* GUEST_PATTERN_* */
	bool guest_user;
	uint32_t readers; /* of the vCPUs */
	uint32_t mode;	  /* DL_MODE_* */
	uint32_t backup;  /* DL_BACKUP_* */
	uint32_t ring_entries;
	enum backend backend;
	uint64_t bandwidth_bytes_per_s;
	uint64_t downtime_limit_ns;
	uint32_t passes;
	bool passes_given;
	enum throttle_option throttle;
	uint64_t budget_ns; /* 0: none */
	bool reaper;
	bool zero_pages;
	bool skip_rewritten;
	bool slot_moves;
	bool watch; /* the device writes through a mapping of its own */
	bool device_process;
	int device_process_fd; /* its connection, if this is that process; else -1 */
	bool tcp;
	const char *listen;  /* run only the destination */
	const char *connect; /* run only the source */
	uint32_t channels;
	/* Some: this is the destination started by a source, which made them. */
	int destination_fds[WIRE_MAX_CHANNELS];
	uint32_t destination_fds_given;
	enum sabotage sabotage;
	bool json;
	const char *status; /* the socket to publish on */
	const char *report; /* the page to write */
	bool memory_given;
	int argc; /* the command line */
	char **argv;
};

/* Exit statuses, documented by --help. */
enum {
	STATUS_MOVED = 0,   /* the migration succeeded: all pages match and the guest is healthy */
	STATUS_CORRUPT = 1, /* pages differ or the guest found damage */
	STATUS_USAGE = 2,
	STATUS_FAILED = 3,     /* the migration failed; the guest never ran at the destination */
	STATUS_UNKNOWN = 4,    /* nobody here knows whether the guest ran at the destination */
	STATUS_UNREPORTED = 5, /* STATUS_MOVED, but some of the output is lost */
};

/*
 * Parses the command line. Returns -1 on success. After --help, and after printing a usage error,
 * returns the exit status.
 */
int options_parse(struct options *options, int argc, char **argv);

extern const char options_help[];

/* The option's argument for the value. */
const char *options_sabotage_name(enum sabotage sabotage);
const char *options_pattern_name(uint32_t pattern);
const char *options_mode_name(uint32_t mode);
const char *options_throttle_name(enum throttle_option throttle);

/* A word for an exit status. */
const char *options_status_name(int status);

#endif
