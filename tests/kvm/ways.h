/* SPDX-License-Identifier: MIT */
#ifndef KVM_WAYS_H
#define KVM_WAYS_H

/*
 * Tests that run in every way in which a log can learn of writes: with rings, with each kind of
 * bitmap that a kernel can have, and with both kinds of guest.
 */

#include "rig.h"

struct way {
	const char *name;
	uint32_t mode;
	enum guest_mode guest;
	int manual_protect; /* what KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is said to return */
};

/* A test of a way. run gets it as its state. */
struct way_test {
	const char *name;
	void (*run)(void **state);
	bool (*concerns)(const struct way *way); /* NULL: all of them */
};

#define way_test(function)          \
	{                           \
#function, function \
	}
#define way_test_of(ways, function)       \
	{                                 \
#function, function, ways \
	}

/* Runs each test in every way that it concerns, by the name WAY_TEST. */
int ways_run(const char *group, const struct way_test *tests, size_t count);

#define ways_run_tests(group, tests) ways_run(group, tests, sizeof(tests) / sizeof((tests)[0]))

/* A rig for the way; the system calls of its log are made by ways_spy(). May skip the test. */
struct rig *way_rig(const struct way *way, unsigned int vcpus);

/* As way_rig(), with rings of so many entries. */
struct rig *way_rig_of(const struct way *way, unsigned int vcpus, uint32_t ring_entries);

struct spy *ways_spy(void);

bool way_has_rings(const struct way *way);
bool way_has_bitmap(const struct way *way);

/* Pages that are found dirty stay writable until they are read. */
bool way_clears(const struct way *way);

bool way_is_user(const struct way *way);

#endif
