/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_CALLS_H
#define PROCESS_CALLS_H

/*
 * The table of the system calls that each public call makes. Tests check the library against it,
 * and doc/embedding.md contains it as printed by calls_print().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <linux/filter.h>

enum call_class {
	CLASS_OUTSIDE, /* not in the library */
	CLASS_FIRST,   /* extra system calls of a thread's first public call */
	CLASS_EXIT,    /* the exit of a thread that has made a public call */
	CLASS_OPEN,
	CLASS_SLOTS,
	CLASS_WATCH,
	CLASS_VCPUS,
	CLASS_CURSORS,
	CLASS_HARVEST,
	CLASS_DESCRIPTOR,
	CLASS_REAP,
	CLASS_DRAIN,
	CLASS_LIMIT,
	CLASS_PAUSE,
	CLASS_PLAN_NEXT,
	CLASS_PLAN,
	CLASS_MARK,
	CLASS_READ,
	CLASS_END,
	CLASS_QUERY,
	CLASS_CLOSE,
	CLASSES,
};

struct call_row {
	enum call_class class;
	long number;
	const char *name;
	unsigned long request; /* for ioctl */
	const char *request_name;
	bool always; /* made at least once in a run of all modes; otherwise only sometimes */
};

extern const struct call_row call_rows[];
extern const size_t call_row_count;

const char *calls_class_name(enum call_class class);

/* The row of a call in a class, or NULL if the class may not make it. request is for ioctl only. */
const struct call_row *calls_find(enum call_class class, long number, unsigned long request);

void calls_print(FILE *to);

/*
 * Installs a seccomp filter on the calling thread that allows the calls of a class except for one
 * row (NULL: no exception), and exit(2). Any other call kills the process with SIGSYS. Returns 0 or
 * -errno.
 */
int calls_enforce(enum call_class class, const struct call_row *without);

#endif
