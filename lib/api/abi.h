/* SPDX-License-Identifier: MIT */
#ifndef DLI_ABI_H
#define DLI_ABI_H

/* Structs that cross the ABI. Each begins with its size as the caller knows it. */

#include "log.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * Copies a caller's struct into ours of own_bytes. -EINVAL if it is smaller than min_bytes (the
 * first release's size), -E2BIG if bytes past own_bytes are not zero.
 */
static inline int dli_abi_read(void *own, size_t own_bytes, size_t min_bytes, const void *theirs)
{
	const unsigned char *bytes = theirs;
	uint32_t size;

	memcpy(&size, theirs, sizeof(size));
	if (size < min_bytes)
		return -EINVAL;
	for (size_t i = own_bytes; i < size; i++)
		if (bytes[i])
			return -E2BIG;
	memset(own, 0, own_bytes);
	memcpy(own, theirs, size < own_bytes ? size : own_bytes);
	return 0;
}

/*
 * Copies our struct into a caller's, as much as both know. Keeps the caller's size, and zeroes the
 * rest of a larger struct.
 */
static inline int dli_abi_write(void *theirs, size_t min_bytes, const void *own, size_t own_bytes)
{
	uint32_t size;

	memcpy(&size, theirs, sizeof(size));
	if (size < min_bytes)
		return -EINVAL;
	memcpy(theirs, own, size < own_bytes ? size : own_bytes);
	if (size > own_bytes)
		memset((unsigned char *)theirs + own_bytes, 0, size - own_bytes);
	memcpy(theirs, &size, sizeof(size));
	return 0;
}

/* Like dli_abi_write(), for a struct that has never grown; records a failure of the log. */
static inline int dli_abi_report(const struct dl_log *log, void *theirs, const void *own,
				 size_t own_bytes)
{
	int r = dli_abi_write(theirs, own_bytes, own, own_bytes);

	return r ? dli_log_fail(log, DLI_BAD_STRUCT, DLI_NO_NUMBER, r) : 0;
}

#endif
