/* SPDX-License-Identifier: MIT */
#include "crc32.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL UINT32_C(0xedb88320)
#define X_TO_0	   (UINT32_C(1) << 31)
#define X_TO_8	   (UINT32_C(1) << 23)

enum { LANES = 16 };

static uint32_t tables[LANES][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
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

/* The product of two polynomials, whose highest coefficient is bit 0, modulo that of the CRC. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
	uint32_t product = 0;

	for (uint32_t bit = X_TO_0; bit; bit >>= 1) {
		product ^= a & bit ? b : 0;
		b = b >> 1 ^ (b & 1 ? POLYNOMIAL : 0);
	}
	return product;
}

/* A byte of zeros multiplies by x^8. */
uint32_t crc32_add_zeros(uint32_t crc, uint64_t bytes)
{
	uint32_t factor = X_TO_0, power = X_TO_8;

	for (; bytes; bytes >>= 1) {
		if (bytes & 1)
			factor = multiply(factor, power);
		power = multiply(power, power);
	}
	return ~multiply(factor, ~crc);
}
