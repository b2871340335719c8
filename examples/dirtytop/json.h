/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_JSON_H
#define DIRTYTOP_JSON_H

#include <stdbool.h>
#include <stdint.h>

/*
 * A reader of JSON for lines from somebody else: it visits the values, and limits depth and sizes.
 */

enum { JSON_PATH_BYTES = 80, JSON_TEXT_BYTES = 128 };

struct json_value {
	const char *path; /* for example vcpus[].entries */
	uint32_t index;	  /* in the innermost array around it */
	bool is_text;
	uint64_t number;  /* true is 1; false and null are 0 */
	const char *text; /* cut after JSON_TEXT_BYTES; printable ASCII, '?' for the rest */
};

typedef void (*json_visitor)(void *opaque, const struct json_value *value);

/* Returns false if the text is not one JSON value; some of it may have been visited. */
bool json_visit(const char *text, json_visitor visit, void *opaque);

#endif
