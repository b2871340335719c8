/* SPDX-License-Identifier: MIT */
#ifndef UNIT_FAKE_OS_H
#define UNIT_FAKE_OS_H

/*
 * A struct dl_os for unit tests of the lower rooms: anonymous memory is real and counted; the test
 * itself supplies the results of ioctls and of mappings of file descriptors. The model kernel
 * (tests/model), which behaves as KVM does, leaves a test no choice of the result.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/os.h>

enum { FAKE_DUPLICATE_FD = 12345, FAKE_TIMER_FD = 12346 };

struct fake_os {
	struct dl_os os;

	/* NULL: every ioctl fails with -ENOTTY. */
	int (*ioctl)(struct fake_os *fake, int fd, unsigned long request, void *arg);
	/* Maps fd; NULL: fails with -EBADF. */
	int (*map)(struct fake_os *fake, int fd, uint64_t offset_bytes, size_t bytes, void **addr);
	/* True if addr came from map(), and nothing is left to unmap; may be NULL. */
	bool (*unmap)(struct fake_os *fake, void *addr);
	void *opaque;

	unsigned int maps_that_succeed; /* of any kind, before one fails with map_error */
	int map_error;			/* a negative errno value; 0: no mapping fails */
	bool guarded;			/* an inaccessible page follows anonymous memory */

	unsigned int ioctls, masks;
	int dup_result;	      /* 0: FAKE_DUPLICATE_FD */
	int duplicates;	      /* open ones */
	uint64_t now_ns;      /* the clock, which only the test moves */
	int timer_result;     /* 0: FAKE_TIMER_FD */
	int timer_set_result; /* of setting it, which happens all the same */
	int timers;	      /* open ones */
	unsigned int timer_sets;
	uint64_t timer_ns; /* as last set; 0: disarmed */
	long maps_live;	   /* maps less munmaps */
};

void fake_os_init(struct fake_os *fake);

/* Resident memory of this process. */
uint64_t resident_bytes(void);

#endif
