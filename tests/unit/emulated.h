/* SPDX-License-Identifier: MIT */
#ifndef TESTS_UNIT_EMULATED_H
#define TESTS_UNIT_EMULATED_H

/*
 * QEMU's user emulation, in which tests/builds/run.sh runs these tests, differs from a kernel in
 * places. A test of such a place skips there.
 */
#include "cmocka_all.h"

#include <stdlib.h>

static inline void skip_if_emulated(const char *what)
{
	if (getenv("DIRTYLOG_EMULATED")) {
		print_message("skip: QEMU's user emulation does not have %s\n", what);
		skip();
	}
}

#endif
