/* SPDX-License-Identifier: MIT */
#ifndef UNIT_CMOCKA_ALL_H
#define UNIT_CMOCKA_ALL_H

/* cmocka.h, with the headers that it requires. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Runs an array of struct CMUnitTest as the whole program. */
#define RUN_TESTS(name, tests) cmocka_run_group_tests_name(name, tests, NULL, NULL)

#endif
