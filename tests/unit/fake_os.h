/* SPDX-License-Identifier: MIT */
#ifndef UNIT_FAKE_OS_H
#define UNIT_FAKE_OS_H

/*
 * A struct dl_os for unit tests of the lower rooms: anonymous memory is real and counted, while the
 * test itself answers ioctls and mappings of file descriptors. It is not the model kernel
 * (tests/model), which answers as KVM does and leaves a test no choice of the answer.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/os.h>

enum { FAKE_DUPLICATE_FD = 12345 };

struct fake_os {
	struct dl_os os;

	/* NULL: every ioctl answers -ENOTTY. */
	int (*ioctl)(struct fake_os *fake, int fd, unsigned long request, void *arg);
	/* A mapping of fd; NULL: -EBADF. */
	int (*map)(struct fake_os *fake, int fd, uint64_t offset_bytes, size_t bytes, void **addr);
	/* Whether it dealt with an address that map() gave; NULL: it never did. */
	bool (*unmap)(struct fake_os *fake, void *addr);
	void *opaque;

	unsigned int maps_that_succeed; /* of all kinds, before the next one fails ... */
	int map_error;			/* ... with this, a negative errno value; 0: none fails */
	bool guarded;			/* anonymous memory ends where it was asked to end */

	unsigned int ioctls, masks;
	int dup_result; /* 0: a number of its own */
	int duplicates; /* that are open */
	long maps_live; /* maps less munmaps */
};

void fake_os_init(struct fake_os *fake);

/* Bytes of this process that are in memory now. */
uint64_t resident_bytes(void);

#endif
