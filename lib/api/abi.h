/* SPDX-License-Identifier: MIT */
#ifndef DLI_ABI_H
#define DLI_ABI_H

/* Structs that cross the ABI: each begins with its size as the other side knows it. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * Reads a caller's struct into one of ours of own_bytes. -EINVAL below min_bytes (the first
 * release's), -E2BIG where bytes that we do not know are not zero.
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

/* Fills a caller's struct from ours as far as both know; its size stays, a longer tail is zeroed.
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

#endif
