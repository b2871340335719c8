/* SPDX-License-Identifier: MIT */
#ifndef UNIT_LOCK_WATCH_H
#define UNIT_LOCK_WATCH_H

/*
 * Watches the functions of the library that need a lock or a read section (with --wrap, or with
 * locks_seam.h if they are in headers): each must be called with the locks that it needs. There is
 * one thread: a lock that is held is its own.
 */

#include "cmocka_all.h"
#include "guest.h"
#define LOCKS_WATCHER
#include "cursor.h"
#include "locks_seam.h"
#include "ring/ring_private.h"

/* Locks of the log. */
enum { CHANGES = 1, CURSOR = 2, LOG = 4, VCPUS = 8 };

struct lock_watch {
	unsigned int depth, sections, grace_periods, table_looks, resets, rings, takes;
	unsigned int locked; /* which were taken since the test set it to 0 */
	const struct dli_reset *closing;
	bool open_at_lock, closed_at_unlock;
	bool test_holds;	   /* locks that the call does not take */
	struct dli_page_set *late; /* a marker uses it until the next grace period ends */
	const char *wrong;	   /* the first function that was called without its locks */
};

extern struct guest guest;
extern struct guest_vcpu *vcpu; /* whose ring is reset */
extern struct lock_watch seen;

/* A failure is reported later: a jump out of the library would leave its locks held. */
void note(bool is_right, const char *where);

bool is_held(const pthread_mutex_t *lock);
bool is_any_cursor_held(const struct dl_log *log);

/* Watches the guest's other system calls: before its log is used. */
void watch_os(struct guest *g);

/* An interceptor of the guest's ioctls. */
bool watch_ioctl(struct guest *g, int fd, unsigned long request, void *arg, int *result);

#endif
