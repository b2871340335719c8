/* SPDX-License-Identifier: MIT */
#include "feed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A line is a few KiB; one that is longer comes from something else. */
enum { ROOM = 1 << 20 };

int feed_open(struct feed *feed, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	memset(feed, 0, sizeof(*feed));
	feed->fd = -1;
	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	feed->text = malloc(ROOM + 1);
	if (!feed->text)
		return -ENOMEM;
	feed->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (feed->fd >= 0 && !connect(feed->fd, (struct sockaddr *)&address, sizeof(address)))
		return 0;
	r = -errno;
	feed_close(feed);
	return r;
}

void feed_close(struct feed *feed)
{
	if (feed->fd >= 0)
		close(feed->fd);
	free(feed->text);
	feed->fd = -1;
	feed->text = NULL;
}

int feed_set_interval(struct feed *feed, uint32_t ms)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%u\n", ms);

	/* If it is closed, there may be lines to read still. */
	return send(feed->fd, text, (size_t)n, MSG_NOSIGNAL) == n || errno == EPIPE ? 0 : -errno;
}

int feed_read(struct feed *feed)
{
	ssize_t n;

	if (feed->taken) {
		feed->bytes -= feed->taken;
		memmove(feed->text, feed->text + feed->taken, feed->bytes);
		feed->taken = 0;
	}
	if (feed->bytes == ROOM)
		return -EMSGSIZE;
	n = recv(feed->fd, feed->text + feed->bytes, ROOM - feed->bytes, 0);
	if (n < 0)
		return errno == EINTR ? 1 : errno == ECONNRESET ? 0 : -errno;
	feed->bytes += (size_t)n;
	return n > 0;
}

const char *feed_line(struct feed *feed)
{
	char *line = feed->text + feed->taken;
	char *end = memchr(line, '\n', feed->bytes - feed->taken);

	if (!end)
		return NULL;
	*end = '\0';
	feed->taken += (size_t)(end + 1 - line);
	return line;
}
