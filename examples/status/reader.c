/* SPDX-License-Identifier: MIT */
#include "reader.h"
#include "status.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { MAX_DIGITS = 6 };

void reader_init(struct reader *reader, int fd)
{
	memset(reader, 0, sizeof(*reader));
	reader->fd = fd;
	reader->interval_ms = STATUS_DEFAULT_MS;
}

/* A request is an interval in decimal digits. */
static bool obey(struct reader *reader)
{
	uint32_t ms = 0;

	if (!reader->request_bytes || reader->request_bytes > MAX_DIGITS)
		return false;
	for (size_t i = 0; i < reader->request_bytes; i++) {
		char c = reader->request[i];

		if (c < '0' || c > '9')
			return false;
		ms = ms * 10 + (uint32_t)(c - '0');
	}
	if (ms < STATUS_MIN_MS || ms > STATUS_MAX_MS)
		return false;
	reader->interval_ms = ms;
	reader->request_bytes = 0;
	/* The next line comes an interval from now. */
	reader->due_ns = UINT64_MAX;
	return true;
}

static bool take(struct reader *reader, const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (text[i] == '\n') {
			if (!obey(reader))
				return false;
		} else if (reader->request_bytes < sizeof(reader->request)) {
			reader->request[reader->request_bytes++] = text[i];
		} else {
			return false;
		}
	}
	return true;
}

bool reader_listen(struct reader *reader)
{
	char text[64];
	ssize_t n = recv(reader->fd, text, sizeof(text), MSG_DONTWAIT);

	if (n > 0)
		return take(reader, text, (size_t)n);
	if (!n)
		reader->silent = true;
	return !n || errno == EAGAIN || errno == EINTR;
}

bool reader_send(const struct reader *reader, const char *text, size_t bytes)
{
	return send(reader->fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)bytes;
}
