/* SPDX-License-Identifier: MIT */
#include "status.h"
#include "../clock.h"
#include "line.h"
#include "reader.h"
#include "socket.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The server: one thread, which ends when stop_fd is written to. */

enum { STOP, LISTENER, FIRST_READER };

struct status {
	struct status_socket socket;
	struct status_source source;
	struct dl_config config;
	uint64_t start_ns;
	uint64_t sequence;
	struct reader readers[STATUS_READERS];
	unsigned int n_readers;
	pthread_t thread;
	bool has_thread;
	int stop_fd;
	bool deaf;	   /* no descriptor is free for a reader: poll() would not sleep */
	const char *ended; /* the thread's: this is the end */
	const char *_Atomic end_state; /* set before stop_fd is written to */
	/* Under the lock, which is held for a call that never blocks: */
	pthread_mutex_t lock;
	const struct dl_cursor *cursor;
};

struct status *status_open(const char *path, char *why, size_t why_bytes)
{
	struct status *status = calloc(1, sizeof(*status));

	if (!status) {
		snprintf(why, why_bytes, "no memory");
		return NULL;
	}
	if (status_socket_open(&status->socket, path, why, why_bytes)) {
		free(status);
		return NULL;
	}
	pthread_mutex_init(&status->lock, NULL);
	return status;
}

static void drop(struct status *status, unsigned int i)
{
	close(status->readers[i].fd);
	status->readers[i] = status->readers[--status->n_readers];
}

static void accept_readers(struct status *status)
{
	int fd;

	status->deaf = false;
	while ((fd = status_socket_accept(&status->socket)) != -EAGAIN) {
		if (fd == -ECONNABORTED || fd == -EINTR || fd == -EACCES)
			continue;
		status->deaf = fd < 0;
		if (status->deaf)
			return;
		if (status->n_readers == STATUS_READERS)
			close(fd);
		else
			reader_init(&status->readers[status->n_readers++], fd);
	}
}

static void look_at_cursor(struct status *status, struct status_line *line)
{
	line->cursor.size = sizeof(line->cursor);
	pthread_mutex_lock(&status->lock);
	line->has_cursor = status->cursor && !dl_cursor_stats(status->cursor, &line->cursor);
	pthread_mutex_unlock(&status->lock);
}

static bool send_line(struct status *status, struct reader *reader, uint64_t now_ns)
{
	struct status_line line = {
		.sequence = status->sequence,
		.time_ns = now_ns,
		.elapsed_ns = now_ns - status->start_ns,
		.interval_ms = reader->interval_ms,
		.config = status->config,
		.ended = status->ended,
	};
	size_t bytes;
	bool sent;
	char *text;

	look_at_cursor(status, &line);
	text = status_line_make(&line, &status->source, &bytes);
	if (!text)
		return false;
	status->sequence++;
	sent = reader_send(reader, text, bytes);
	free(text);
	reader->due_ns = now_ns + reader->interval_ms * NS_PER_MS;
	return sent;
}

/* Sends a line to each reader that is to have one; at the end, that is each of them. */
static void send_due(struct status *status)
{
	uint64_t now_ns = clock_ns();
	unsigned int i = 0;

	while (i < status->n_readers) {
		struct reader *reader = &status->readers[i];

		if (reader->due_ns == UINT64_MAX)
			reader->due_ns = now_ns + reader->interval_ms * NS_PER_MS;
		if ((reader->due_ns > now_ns && !status->ended) ||
		    send_line(status, reader, now_ns))
			i++;
		else
			drop(status, i);
	}
}

/* Until the first reader is to have a line, rounded up; without end if there is none. */
static int timeout_ms(const struct status *status)
{
	uint64_t now_ns = clock_ns();
	uint64_t due_ns = status->deaf ? now_ns + NS_PER_S : UINT64_MAX;

	for (unsigned int i = 0; i < status->n_readers; i++)
		if (status->readers[i].due_ns < due_ns)
			due_ns = status->readers[i].due_ns;
	if (due_ns == UINT64_MAX)
		return -1;
	return due_ns <= now_ns ? 0 : (int)((due_ns - now_ns) / NS_PER_MS) + 1;
}

static nfds_t make_pollfds(const struct status *status, struct pollfd *fds)
{
	fds[STOP] = (struct pollfd){ .fd = status->stop_fd, .events = POLLIN };
	fds[LISTENER] =
		(struct pollfd){ .fd = status->deaf ? -1 : status->socket.fd, .events = POLLIN };
	for (unsigned int i = 0; i < status->n_readers; i++)
		fds[FIRST_READER + i] = (struct pollfd){
			.fd = status->readers[i].fd,
			.events = status->readers[i].silent ? 0 : POLLIN,
		};
	return FIRST_READER + status->n_readers;
}

/* From the last to the first: one that is dropped leaves its place to one that was looked at. */
static void listen_to_readers(struct status *status, const struct pollfd *fds)
{
	for (unsigned int i = status->n_readers; i-- > 0;) {
		short events = fds[FIRST_READER + i].revents;

		if ((events & (POLLERR | POLLHUP | POLLNVAL)) ||
		    ((events & POLLIN) && !reader_listen(&status->readers[i])))
			drop(status, i);
	}
}

static void *status_main(void *opaque)
{
	struct status *status = opaque;
	struct pollfd fds[FIRST_READER + STATUS_READERS];

	while (!status->ended) {
		nfds_t n = make_pollfds(status, fds);

		if (poll(fds, n, timeout_ms(status)) < 0)
			continue;
		listen_to_readers(status, fds);
		/* Readers that have connected by now get the last line too. */
		accept_readers(status);
		if (fds[STOP].revents)
			status->ended = status->end_state;
		send_due(status);
	}
	while (status->n_readers)
		drop(status, 0);
	return NULL;
}

/* The program's signals are for its other threads. */
static int start_thread(struct status *status)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&status->thread, NULL, status_main, status);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

int status_start(struct status *status, const struct status_source *source)
{
	int r;

	if (!status)
		return 0;
	status->source = *source;
	status->config.size = sizeof(status->config);
	r = dl_log_config(source->log, &status->config);
	if (r)
		return r;
	status->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (status->stop_fd < 0)
		return -errno;
	status->start_ns = clock_ns();
	r = start_thread(status);
	if (r)
		close(status->stop_fd);
	status->has_thread = !r;
	return r;
}

void status_set_cursor(struct status *status, const struct dl_cursor *cursor)
{
	if (!status)
		return;
	pthread_mutex_lock(&status->lock);
	status->cursor = cursor;
	pthread_mutex_unlock(&status->lock);
}

void status_end(struct status *status, const char *state)
{
	if (!status || !status->has_thread)
		return;
	status->end_state = state;
	eventfd_write(status->stop_fd, 1);
	pthread_join(status->thread, NULL);
	close(status->stop_fd);
	status->has_thread = false;
}

void status_close(struct status *status)
{
	if (!status)
		return;
	status_socket_close(&status->socket);
	pthread_mutex_destroy(&status->lock);
	free(status);
}
