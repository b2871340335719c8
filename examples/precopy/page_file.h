/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_PAGE_FILE_H
#define PRECOPY_PAGE_FILE_H

#include <stddef.h>

/* A file that is written as a whole or not at all. */

/*
 * Whether it could be written now: tries, and leaves nothing behind. Returns 0, or a negative errno
 * value with the reason in why.
 */
int page_file_check(const char *path, char *why, size_t why_bytes);

/* Writes it, in place of one that exists. Returns as page_file_check(). */
int page_file_write(const char *path, const char *text, size_t bytes, char *why, size_t why_bytes);

#endif
