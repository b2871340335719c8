/* SPDX-License-Identifier: MIT */
#ifndef UNIT_REAP_GUEST_H
#define UNIT_REAP_GUEST_H

/*
 * A fixture for tests of the reaper: a guest with two vCPUs whose log is on, and the descriptor.
 * The clock is the model's, and stands still between the steps of a test.
 */

#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

enum {
	PAGES = 2000,
	ENTRIES = 256,
	ROOM = 192,	/* a vCPU exits with so many entries */
	DUE = ROOM / 2, /* a reap empties rings with so many */
	MILLISECOND = 1000000,
	LEAST = MILLISECOND,
	IDLE = 100 * MILLISECOND,
};

extern struct guest guest;
extern struct guest_vcpu *vcpu;
extern int fd;

int setup(void **state);
int teardown(void **state);

#define reap_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* A guest in place of the one that setup() has opened; logging is off. */
void open_guest(uint32_t mode, uint32_t entries, uint64_t idle_ns);

/* A cursor begins, or ends: it may not be there. */
void start(void);
void stop(void);

/* A pass of the cursor that reads nothing. Returns the pending bytes. */
uint64_t harvest(void);

/* The first vCPU writes. */
void write_pages(uint64_t first, uint64_t n);
void overflow(void);

/* Nanoseconds until the descriptor is readable, or UINT64_MAX. */
uint64_t left(void);

/* Reaps, and checks that the descriptor is set to what the call returns, which these return too. */
uint64_t reap_with(uint32_t flags, int result);
uint64_t reap(void);

/* As reap(), once the descriptor is readable; back_off() repeats that. */
uint64_t wait_and_reap(void);
void back_off(unsigned int times);

/* The next calls fail, or all for 0 times. */
void fail_call(unsigned long request, uint32_t times, int error);

#endif
