/* SPDX-License-Identifier: MIT */
#ifndef UNIT_DRAIN_GUEST_H
#define UNIT_DRAIN_GUEST_H

/*
 * A guest with rings whose log is on, and a look into its resets: for programs about several
 * threads that drain at once.
 */

#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

enum { PAGES = 4096, ENTRIES = 4096 };

extern struct guest guest;

/* Called before the next reset, and behind it. */
extern void (*in_reset)(void), (*after_reset)(void);
extern int reset_error; /* of the next one */

int setup(void **state);
int teardown(void **state);

#define drain_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

struct dli_reset *reset(void);
struct dli_ring *ring_of(int vcpu);

/* Each vCPU has pages of its own. */
void write_pages(int vcpu, uint64_t pages);
uint64_t pending_pages(void);

void harvest(void);

/* Waits until that many requests are queued. */
void wait_for_requests(unsigned int requests);

/* As after an overflow, but what the ring has is sound: both sides only have to find each other. */
void desync_ring(int vcpu);

#endif
