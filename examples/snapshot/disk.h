/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_DISK_H
#define SNAPSHOT_DISK_H

#include "format.h"

#include <sys/uio.h>

/*
 * Writes a file aside and gives it its name when it is on disk: write, fsync(2), rename(2), and
 * fsync(2) of the directory. A file that has its name is whole, whenever the power goes; one whose
 * disk_commit() returned 0 stays.
 *
 * Every system call is a step, counted from 1. For tests, one step can go wrong.
 */

enum fault_kind {
	FAULT_NONE,
	FAULT_KILL,   /* SIGKILL; in the middle of a write */
	FAULT_ENOSPC, /* after half of a write */
	FAULT_EIO,    /* a rename is made, and then fails */
	FAULT_SHORT,  /* a write writes half, and says so; other steps are as always */
};

struct fault {
	enum fault_kind kind;
	uint64_t step;
};

struct disk {
	int dir_fd; /* borrowed */
	int fd;	    /* -1: no file is being written */
	char name[SNAP_NAME_BYTES];
	bool in_place; /* a mistake, for --sabotage: under its final name at once */
	struct fault fault;
	uint64_t steps;
	uint64_t injected;
};

void disk_init(struct disk *disk, int dir_fd, const struct fault *fault);

/* These return 0 or a negative errno value; then only disk_abort() helps. */
int disk_begin(struct disk *disk, const char *name);
int disk_write(struct disk *disk, const struct iovec *iov, int n, uint64_t offset);
int disk_commit(struct disk *disk);

/* Deletes the file that is being written, if there is one. Errors are ignored. */
void disk_abort(struct disk *disk);

/* Deletes a file that has its name. disk_sync() makes that durable. */
int disk_remove(struct disk *disk, const char *name);
int disk_sync(struct disk *disk);

/*
 * Makes the directory of points, unless it exists, and makes its name durable: points are lost with
 * a directory that loses its own name. Returns 0 or a negative errno value.
 */
int disk_make_dir(const char *path);

/* The list of a merge, see leftovers.h. */
#define DISK_LIST_NAME "merged.list"

/* Deletes what a killed writer has left in the directory. */
void disk_tidy(int dir_fd);

#endif
