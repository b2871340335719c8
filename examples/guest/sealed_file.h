/* SPDX-License-Identifier: MIT */
#ifndef GUEST_SEALED_FILE_H
#define GUEST_SEALED_FILE_H

#include <stdint.h>

/*
 * Makes a file in memory that other processes can map and none can truncate. Returns its
 * descriptor, or a negative errno value.
 */
int sealed_file(const char *name, uint64_t bytes);

#endif
