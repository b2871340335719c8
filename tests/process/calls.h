/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_CALLS_H
#define PROCESS_CALLS_H

/*
 * Which system calls each public call makes: the one table. Tests hold the library to it, and
 * doc/embedding.md shows it as calls_print() writes it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <linux/filter.h>

enum call_class {
	CLASS_OUTSIDE, /* not in the library */
	CLASS_FIRST,   /* what a thread's first call does beside its own */
	CLASS_EXIT,    /* the end of such a thread */
	CLASS_OPEN,
	CLASS_SLOTS,
	CLASS_VCPUS,
	CLASS_SESSION,
	CLASS_HARVEST,
	CLASS_DRAIN,
	CLASS_MARK,
	CLASS_ITERATION,
	CLASS_READ,
	CLASS_ASK,
	CLASS_CLOSE,
	CLASSES,
};

struct call_row {
	enum call_class class;
	long number;
	const char *name;
	unsigned long request; /* of an ioctl */
	const char *request_name;
	bool seen; /* in every run of all modes; else only now and then */
};

extern const struct call_row call_rows[];
extern const size_t call_row_count;

const char *calls_class_name(enum call_class class);

/* Whether a class may make a call; request matters for an ioctl only. */
const struct call_row *calls_find(enum call_class class, long number, unsigned long request);

void calls_print(FILE *to);

/*
 * A filter that lets a thread do what the class does, without the row to leave out (NULL: none), and
 * end itself by a bare exit(2). All else ends the process by SIGSYS. Returns 0 or a negative errno
 * value.
 */
int calls_enforce(enum call_class class, const struct call_row *without);

#endif
