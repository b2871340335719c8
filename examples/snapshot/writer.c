/* SPDX-License-Identifier: MIT */
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum request_op { OP_BEGIN = 1, OP_WRITE, OP_COMMIT, OP_ABORT };

struct request {
	uint32_t op;
	uint32_t bytes; /* of the contents that follow */
	uint64_t offset;
	char name[SNAP_NAME_BYTES];
};

/* To COMMIT and ABORT only. */
struct reply {
	int32_t result; /* of the first step that failed */
	uint32_t injected;
	uint64_t steps;
};

void writer_init(struct writer *writer, int dir_fd, bool own_process, const struct fault *fault,
		 bool in_place)
{
	memset(writer, 0, sizeof(*writer));
	disk_init(&writer->disk, dir_fd, fault);
	writer->disk.in_place = in_place;
	writer->own_process = own_process;
	writer->fault = *fault;
	writer->fd = -1;
}

static int fail(struct writer *writer, int r, const char *what)
{
	snprintf(writer->why, sizeof(writer->why), "%s: %s", what, strerror(-r));
	return r;
}

/* Executes the program again: the child of a process with threads may do little else. */
static void exec_process(const struct writer *writer, int fd)
{
	char fd_text[16], dir_text[16], kind[16], step[24];
	char command[] = "writer", in_place[] = "1", aside[] = "0";
	char *argv[] = { command, fd_text, dir_text,
			 kind,	  step,	   writer->disk.in_place ? in_place : aside,
			 NULL };
	uint64_t at = writer->fault.step;

	/* It counts from where the one before it has stopped. */
	at = at > writer->steps ? at - writer->steps : 0;
	snprintf(fd_text, sizeof(fd_text), "%d", fd);
	snprintf(dir_text, sizeof(dir_text), "%d", writer->disk.dir_fd);
	snprintf(kind, sizeof(kind), "%d", writer->disk.injected ? FAULT_NONE : writer->fault.kind);
	snprintf(step, sizeof(step), "%" PRIu64, at);
	(void)fcntl(fd, F_SETFD, 0);
	(void)fcntl(writer->disk.dir_fd, F_SETFD, 0);
	signal(SIGINT, SIG_IGN);
	execv("/proc/self/exe", argv);
	_exit(127);
}

int writer_start(struct writer *writer)
{
	int fds[2];

	if (!writer->own_process || writer->fd >= 0)
		return 0;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return fail(writer, -errno, "cannot make a socket for the writer");
	writer->child = fork();
	if (writer->child < 0) {
		int r = fail(writer, -errno, "cannot start the writer");

		close(fds[0]);
		close(fds[1]);
		writer->child = 0;
		return r;
	}
	if (!writer->child)
		exec_process(writer, fds[1]);
	close(fds[1]);
	writer->fd = fds[0];
	return 0;
}

/* The process has ended, or is useless. When this returns it cannot rename anything any more. */
static void reap(struct writer *writer)
{
	int status = 0;

	if (writer->fd < 0)
		return;
	close(writer->fd);
	writer->fd = -1;
	writer->steps = writer->disk.steps;
	/* One that works for a file that nobody wants any more must not finish it. */
	kill(writer->child, SIGKILL);
	while (waitpid(writer->child, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFSIGNALED(status))
		snprintf(writer->why, sizeof(writer->why), "the writer was killed by signal %d",
			 WTERMSIG(status));
	else
		snprintf(writer->why, sizeof(writer->why), "the writer has ended");
}

/* Its end of the connection is closed. */
static int lost(struct writer *writer)
{
	reap(writer);
	if (writer->fault.kind == FAULT_KILL)
		writer->disk.injected++;
	return -EPIPE;
}

static int send_all(struct writer *writer, struct iovec *iov, int n)
{
	while (n) {
		struct msghdr message = { .msg_iov = iov, .msg_iovlen = (size_t)n };
		ssize_t sent = sendmsg(writer->fd, &message, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return lost(writer);
		while (n && (size_t)sent >= iov->iov_len) {
			sent -= (ssize_t)iov->iov_len;
			iov++;
			n--;
		}
		if (n) {
			iov->iov_base = (char *)iov->iov_base + sent;
			iov->iov_len -= (size_t)sent;
		}
	}
	return 0;
}

static int request(struct writer *writer, struct request *request, const struct iovec *iov, int n)
{
	struct iovec all[1 + WRITER_BATCH_VECTORS] = { { request, sizeof(*request) } };

	if (writer->fd < 0 || n > WRITER_BATCH_VECTORS)
		return -EPIPE;
	for (int i = 0; i < n; i++) {
		all[1 + i] = iov[i];
		request->bytes += (uint32_t)iov[i].iov_len;
	}
	return send_all(writer, all, 1 + n);
}

static bool receive_all(int fd, void *data, size_t bytes)
{
	char *at = data;

	while (bytes) {
		ssize_t n = recv(fd, at, bytes, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

static int await_reply(struct writer *writer)
{
	struct reply reply;

	if (!receive_all(writer->fd, &reply, sizeof(reply)))
		return lost(writer);
	writer->disk.steps = writer->steps + reply.steps;
	writer->disk.injected += reply.injected;
	return reply.result;
}

int writer_begin(struct writer *writer, const char *name)
{
	struct request begin = { .op = OP_BEGIN };
	int r;

	if (!writer->own_process) {
		r = disk_begin(&writer->disk, name);
		return r ? fail(writer, r, "cannot create the file") : 0;
	}
	r = writer_start(writer);
	if (r)
		return r;
	snprintf(begin.name, sizeof(begin.name), "%s", name);
	return request(writer, &begin, NULL, 0);
}

int writer_write(struct writer *writer, const struct iovec *iov, int n, uint64_t offset)
{
	struct request write = { .op = OP_WRITE, .offset = offset };
	int r;

	if (writer->own_process)
		return request(writer, &write, iov, n);
	r = disk_write(&writer->disk, iov, n, offset);
	return r ? fail(writer, r, "cannot write the file") : 0;
}

int writer_commit(struct writer *writer)
{
	struct request commit = { .op = OP_COMMIT };
	int r;

	if (!writer->own_process) {
		r = disk_commit(&writer->disk);
		return r ? fail(writer, r, "cannot complete the file") : 0;
	}
	r = request(writer, &commit, NULL, 0);
	if (!r) {
		r = await_reply(writer);
		if (r && writer->fd >= 0)
			fail(writer, r, "cannot write the file");
	}
	return r;
}

void writer_abort(struct writer *writer)
{
	struct request abort = { .op = OP_ABORT };
	char why[sizeof(writer->why)];

	if (!writer->own_process) {
		disk_abort(&writer->disk);
		return;
	}
	/* The reason for it counts, not what happens to it. */
	memcpy(why, writer->why, sizeof(why));
	if (writer->fd >= 0 && !request(writer, &abort, NULL, 0)) {
		int r = await_reply(writer);

		/* A write may have failed whose error nobody has seen yet. */
		if (r && !*why && writer->fd >= 0) {
			fail(writer, r, "cannot write the file");
			return;
		}
	}
	/* A process that was killed has made steps that are not known; its fault has happened. */
	if (writer->fd < 0)
		disk_tidy(writer->disk.dir_fd);
	if (*why)
		memcpy(writer->why, why, sizeof(why));
}

void writer_close(struct writer *writer)
{
	int status;

	if (writer->fd < 0)
		return;
	close(writer->fd);
	writer->fd = -1;
	while (waitpid(writer->child, &status, 0) < 0 && errno == EINTR)
		;
}

/* The process's side. */

struct served {
	int fd;
	struct disk disk;
	int failure; /* the first one since BEGIN */
	uint64_t reported;
	uint8_t *contents;
};

static void note(struct served *served, int r)
{
	if (!served->failure)
		served->failure = r;
}

static bool answer(struct served *served)
{
	struct reply reply = { .result = served->failure,
			       .injected = (uint32_t)(served->disk.injected - served->reported),
			       .steps = served->disk.steps };

	served->reported = served->disk.injected;
	return send(served->fd, &reply, sizeof(reply), MSG_NOSIGNAL) == sizeof(reply);
}

/* Once a step has failed, nothing more is done until the next file. */
static bool serve(struct served *served, struct request *request)
{
	struct iovec iov = { served->contents, request->bytes };

	switch (request->op) {
	case OP_BEGIN:
		request->name[sizeof(request->name) - 1] = '\0';
		served->failure = 0;
		note(served, disk_begin(&served->disk, request->name));
		return true;
	case OP_WRITE:
		if (!served->failure)
			note(served, disk_write(&served->disk, &iov, 1, request->offset));
		return true;
	case OP_COMMIT:
		if (!served->failure)
			note(served, disk_commit(&served->disk));
		return answer(served);
	case OP_ABORT:
		disk_abort(&served->disk);
		return answer(served);
	default:
		return false;
	}
}

int writer_serve(int fd, int dir_fd, const struct fault *fault, bool in_place)
{
	struct served served = { .fd = fd, .contents = malloc(WRITER_BATCH_BYTES) };
	struct request request;

	disk_init(&served.disk, dir_fd, fault);
	served.disk.in_place = in_place;
	while (served.contents && receive_all(fd, &request, sizeof(request)) &&
	       request.bytes <= WRITER_BATCH_BYTES &&
	       receive_all(fd, served.contents, request.bytes) && serve(&served, &request))
		;
	/* The other side is gone: a file that it has not completed is nobody's. */
	disk_abort(&served.disk);
	free(served.contents);
	return 0;
}
