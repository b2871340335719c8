/* SPDX-License-Identifier: MIT */
#ifndef UNIT_DRAIN_GUEST_H
#define UNIT_DRAIN_GUEST_H

/*
 * A fixture for tests in which several threads drain at once: a guest with rings whose log is on,
 * and hooks around its resets.
 */

#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

enum { PAGES = 4096, ENTRIES = 4096 };

extern struct guest guest;

/* Called once, before and after the next reset. */
extern void (*before_reset)(void), (*after_reset)(void);
extern int reset_error; /* result of the next reset; 0: the kernel's */

int setup(void **state);
int teardown(void **state);

#define drain_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

struct dli_reset *reset(void);
struct dli_ring *ring_of(int vcpu);

/* The vCPU writes its first pages; no page belongs to two vCPUs. */
void write_pages(int vcpu, uint64_t pages);
uint64_t pending_pages(void);

void harvest(void);

/* Waits until that many requests are queued. */
void wait_for_requests(unsigned int requests);

/* As after an overflow, but the ring's entries are sound: it only has to be resynced. */
void desync_ring(int vcpu);

#endif
