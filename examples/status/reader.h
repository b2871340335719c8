/* SPDX-License-Identifier: MIT */
#ifndef STATUS_READER_H
#define STATUS_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One connection of a reader. All calls return at once. */
struct reader {
	int fd;
	bool silent; /* it sends no requests any more */
	uint32_t interval_ms;
	uint64_t due_ns; /* of its next line; 0: now */
	char request[16];
	size_t request_bytes;
};

void reader_init(struct reader *reader, int fd);

/* Takes the reader's requests. False: it is gone, or speaks something else. */
bool reader_listen(struct reader *reader);

/* False: the reader is gone, or too slow for a whole line. */
bool reader_send(const struct reader *reader, const char *text, size_t bytes);

#endif
