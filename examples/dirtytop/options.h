/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_OPTIONS_H
#define DIRTYTOP_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
	const char *socket;
	bool wait;
	bool once;
	bool json;
	uint32_t interval_ms;
};

/* Exit statuses, documented by --help. */
enum { STATUS_OK = 0, STATUS_LOST = 1, STATUS_USAGE = 2 };

/* Returns -1, or the exit status after --help or a printed error. */
int options_parse(struct options *options, int argc, char **argv);

/* Prints an error, wrapped to the terminal's width. Returns the status. */
int print_error(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
