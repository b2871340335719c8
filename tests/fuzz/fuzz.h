/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_FUZZ_H
#define FUZZ_FUZZ_H

/*
 * Shared by all fuzz targets. A target is one file with LLVMFuzzerTestOneInput(), linked with
 * libFuzzer or with driver.c. Its input is a script: each byte decides what happens next. Past its
 * end an input reads as zeros.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* Sanitizers cannot shadow huge address ranges. */
#if defined(__SANITIZE_THREAD__)
#define FUZZ_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define FUZZ_TSAN 1
#endif
#endif

/* Reports a finding. By dprintf(), since a target may have redirected stderr. */
#define expect(condition, ...)                                                   \
	do {                                                                     \
		if (!(condition)) {                                              \
			dprintf(2, "%s:%d: %s: ", __FILE__, __LINE__, __func__); \
			dprintf(2, __VA_ARGS__);                                 \
			dprintf(2, " (%s)\n", #condition);                       \
			abort();                                                 \
		}                                                                \
	} while (0)

/* Set FUZZ_TRACE in the environment to print the steps of an input and their results. */
static inline bool is_traced(void)
{
	static int traced = -1;

	if (traced < 0)
		traced = getenv("FUZZ_TRACE") != NULL;
	return traced;
}

#define trace(...)                               \
	do {                                     \
		if (is_traced())                 \
			dprintf(2, __VA_ARGS__); \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

static inline uint8_t input_u8(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

/* A little-endian number of that many bytes. */
static inline uint64_t input_number(struct input *in, unsigned int bytes)
{
	uint64_t number = 0;

	for (unsigned int i = 0; i < bytes; i++)
		number |= (uint64_t)input_u8(in) << 8 * i;
	return number;
}

/*
 * A 64-bit number, mostly small or near a power of two, since limits are there. Reads one byte or
 * nine.
 */
static inline uint64_t input_wild(struct input *in)
{
	uint8_t kind = input_u8(in);

	if (kind < 64)
		return kind;
	if (kind < 128)
		return UINT64_C(1) << (kind - 64);
	if (kind < 192)
		return (UINT64_C(1) << (kind - 128)) - 1;
	if (kind < 250)
		return ~UINT64_C(0) << (kind - 192);
	return input_number(in, 8);
}

#endif
