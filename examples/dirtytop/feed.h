/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_FEED_H
#define DIRTYTOP_FEED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The connection to a publisher. */
struct feed {
	int fd;
	char *text;
	size_t bytes; /* in text */
	size_t taken; /* of them, the last line handed out */
};

/* Returns 0 or a negative errno value. */
int feed_open(struct feed *feed, const char *path);
void feed_close(struct feed *feed);

/* Asks for a line each interval. */
int feed_set_interval(struct feed *feed, uint32_t ms);

/* Reads what has come. 1: something; 0: the publisher has closed; or a negative errno value. */
int feed_read(struct feed *feed);

/* The next whole line, without its newline, or NULL. It is valid until the next call. */
const char *feed_line(struct feed *feed);

#endif
