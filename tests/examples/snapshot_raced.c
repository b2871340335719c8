/* SPDX-License-Identifier: MIT */
/*
 * Linked into examples/snapshot: when the program is about to open a point's file for the time that
 * RACE_AT says, counted from 1, it first runs RACE_COMMAND to its end.
 */
#include "format.h"

#include <stdlib.h>

void __real_snap_name(char *name, uint64_t number);
void __wrap_snap_name(char *name, uint64_t number);

void __wrap_snap_name(char *name, uint64_t number)
{
	const char *at = getenv("RACE_AT"), *command = getenv("RACE_COMMAND");
	static long names;

	__real_snap_name(name, number);
	if (at && command && ++names == atol(at) && system(command))
		abort();
}
