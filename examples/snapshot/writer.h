/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_WRITER_H
#define SNAPSHOT_WRITER_H

#include "disk.h"

#include <sys/types.h>

/*
 * Writes files, in this process or in one of its own, which may be killed while the guest runs on.
 * What is written goes to that process over a socket; nothing but writer_commit() waits for it, so
 * that an error of a write may come from there.
 */
struct writer {
	bool own_process;
	struct disk disk; /* in this process */
	int fd;		  /* the socket; -1: the process does not run */
	pid_t child;
	struct fault fault;
	uint64_t steps; /* of processes that are gone */
	char why[160];
};

enum { WRITER_BATCH_BYTES = 1 << 20, WRITER_BATCH_VECTORS = 64 };

/* dir_fd is borrowed; it is locked, and the process keeps it locked until it has ended. */
void writer_init(struct writer *writer, int dir_fd, bool own_process, const struct fault *fault,
		 bool in_place);

/* Starts the process, if that is wanted and it does not run. */
int writer_start(struct writer *writer);

/*
 * As the functions of a disk. They return 0, or a negative errno value with the reason in why; then
 * call writer_abort(). Of writer_write() the vectors have at most WRITER_BATCH_BYTES.
 */
int writer_begin(struct writer *writer, const char *name);
int writer_write(struct writer *writer, const struct iovec *iov, int n, uint64_t offset);
int writer_commit(struct writer *writer);

/* When this has returned, nothing of the file will get its name any more. */
void writer_abort(struct writer *writer);
void writer_close(struct writer *writer);

/* The process: serves the socket until it is closed. Returns the exit status. */
int writer_serve(int fd, int dir_fd, const struct fault *fault, bool in_place);

#endif
