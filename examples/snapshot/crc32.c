/* SPDX-License-Identifier: MIT */
#include "crc32.h"

#include <pthread.h>
#include <string.h>

enum { LANES = 16 };

static uint32_t tables[LANES][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? UINT32_C(0xedb88320) : 0);
		tables[0][i] = crc;
	}
	for (uint32_t i = 0; i < 256; i++)
		for (int lane = 1; lane < LANES; lane++)
			tables[lane][i] =
				tables[lane - 1][i] >> 8 ^ tables[0][tables[lane - 1][i] & 255];
}

/* The contribution of four bytes that `after` bytes of the sixteen follow. */
static uint32_t four(uint32_t word, int after)
{
	return tables[after + 3][word & 255] ^ tables[after + 2][word >> 8 & 255] ^
	       tables[after + 1][word >> 16 & 255] ^ tables[after][word >> 24];
}

uint32_t crc32_add(uint32_t crc, const void *data, size_t bytes)
{
	const unsigned char *at = data;
	uint32_t words[4];

	pthread_once(&once, make_tables);
	crc = ~crc;
	for (; bytes >= sizeof(words); bytes -= sizeof(words), at += sizeof(words)) {
		memcpy(words, at, sizeof(words));
		crc = four(words[0] ^ crc, 12) ^ four(words[1], 8) ^ four(words[2], 4) ^
		      four(words[3], 0);
	}
	while (bytes--)
		crc = crc >> 8 ^ tables[0][(crc ^ *at++) & 255];
	return ~crc;
}
