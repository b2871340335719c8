/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_OPTIONS_H
#define SNAPSHOT_OPTIONS_H

#include "disk.h"

enum command { COMMAND_RUN, COMMAND_RESTORE, COMMAND_VERIFY, COMMAND_MERGE, COMMAND_LIST };

enum prove { PROVE_LAST, PROVE_ALL, PROVE_NONE };

/* Mistakes of a caller of the library, or of one that writes files, made on purpose. */
enum sabotage {
	SABOTAGE_NONE,
	SABOTAGE_MARK,	       /* do not mark the device's writes */
	SABOTAGE_DISCARD,      /* do not mark what the balloon discards */
	SABOTAGE_ACK,	       /* commit some pages without writing them */
	SABOTAGE_DROP,	       /* drop a page of the paused pass */
	SABOTAGE_READ_EARLY,   /* copy contents before the paused pass */
	SABOTAGE_COMMIT_EARLY, /* commit the pass before the file is complete */
	SABOTAGE_IN_PLACE,     /* write the file under its final name */
};

struct options {
	enum command command;
	const char *directory;
	bool json;

	/* The guest: */
	uint32_t vcpus;
	uint64_t memory_bytes;
	uint64_t working_set_bytes;
	uint64_t dirty_bytes_per_s; /* 0: no limit */
	uint32_t pattern;	    /* GUEST_PATTERN_* */
	bool guest_user;
	bool fill;
	uint32_t mode; /* DL_MODE_* */
	uint32_t ring_entries;
	enum backend backend;
	bool slot_moves;
	bool go_on; /* from the last point */

	/* The points: */
	uint32_t count; /* 0: until a signal */
	uint64_t interval_ns;
	uint32_t full_every; /* 0: only the first */
	uint32_t passes;     /* before the pause */
	bool pause_copy;     /* copy what is left in the pause, and write it afterwards */
	uint64_t buffer_bytes;
	uint64_t coalesce_bytes;
	bool own_process;
	bool beside;
	bool log_only; /* no points: what the guest achieves with its memory logged */
	bool no_log;   /* nor that */
	enum prove prove;
	enum sabotage sabotage;
	struct fault fault;

	uint64_t point; /* to restore; 0: the last */
	uint64_t first, last;
};

/* Exit statuses, documented by --help. */
enum {
	STATUS_DONE = 0,
	STATUS_CORRUPT = 1,
	STATUS_USAGE = 2,
	STATUS_FAILED = 3,
	STATUS_UNREPORTED = 4,
};

/*
 * Parses the command line. Returns -1 on success. After --help, and after printing a usage error,
 * returns the exit status.
 */
int options_parse(struct options *options, int argc, char **argv);

/* The argument of an option for the value. */
const char *options_mode_name(uint32_t mode);
const char *options_sabotage_name(enum sabotage sabotage);

#endif
