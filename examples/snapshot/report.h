/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_REPORT_H
#define SNAPSHOT_REPORT_H

#include "options.h"
#include "take.h"

/* The commands' output: tables, or with --json one object at the end. */

struct report {
	const struct options *options;
	bool terminal;
	bool has_progress;
	bool first_row; /* of the JSON array */
	char error[320];
};

void report_init(struct report *report, const struct options *options);

/* A label and its text, wrapped to the width of the terminal; not with --json. */
void report_field(struct report *report, const char *label, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void report_line(struct report *report, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Replaces a line of a terminal. */
void report_progress(struct report *report, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Remembers the first reason for a failure, for the end. Returns the status. */
int report_error(struct report *report, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* To the standard error. */
void report_print_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A JSON array of rows begins, has a row, ends. They print nothing without --json. */
void report_rows(struct report *report, const char *name);
bool report_row(struct report *report); /* Whether to print it; prints the comma before it. */
void report_rows_end(struct report *report);

/* The row of a point that was taken. */
void report_taken_head(struct report *report);
void report_taken(struct report *report, const struct taken *taken);

/*
 * A member of the JSON object: printf(3), as its name says. Prints nothing without --json.
 */
void report_member(struct report *report, const char *name, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Prints the error and the end of the object. Returns the status. */
int report_end(struct report *report, int status);

#endif
