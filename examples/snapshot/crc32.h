/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_CRC32_H
#define SNAPSHOT_CRC32_H

#include <stddef.h>
#include <stdint.h>

/*
 * The CRC-32 of zlib, so that a reader needs nothing special. Of the first part of the data it is
 * crc32_add(0, ...); of the next parts it takes the result for the parts before.
 */
uint32_t crc32_add(uint32_t crc, const void *data, size_t bytes);

/* As crc32_add() of so many zeros, in a time that hardly depends on their number. */
uint32_t crc32_add_zeros(uint32_t crc, uint64_t bytes);

#endif
