/* SPDX-License-Identifier: MIT */
#ifndef UNIT_PASS_GUEST_H
#define UNIT_PASS_GUEST_H

/*
 * A fixture for tests of passes: one slot of several chunks, whose memory is never touched, a
 * cursor, and its open pass. Tests mark the pages that they read.
 */

#include "cmocka_all.h"
#include "guest.h"
#include "pages/page_set.h"

#define PASS_GPA (UINT64_C(1) << 32)
#define PASS_HVA (UINT64_C(1) << 40)

enum {
	PASS_SLOT = 2,
	CHUNK = PAGE_SET_CHUNK_PAGES,
	PAGES = 3 * CHUNK + 100,
};

extern struct guest guest;

/* As setup_ring() and setup_bitmap(), with a cursor of these options. */
void pass_begin(uint32_t mode, const struct dl_cursor_options *options);

int setup_ring(void **state);
int setup_bitmap(void **state);
int teardown(void **state);

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

struct dl_slot pass_slot(void);

/* Makes pages pending. */
void mark(uint64_t page, uint64_t pages);

/* Begins a pass, and ends it. */
void begin_pass(void);
void end_pass(void);

/* Reads extents of the pass. */
int read_extents(struct dl_extent *extents, uint32_t max_extents);

/* An extent of the slot. */
void expect_extent(const struct dl_extent *extent, uint64_t page, uint64_t pages);

/* A whole pass hands out exactly these extents, with their flags. */
struct wanted_extent {
	uint64_t page, pages;
	uint32_t flags;
};
void expect_pass_of(const struct wanted_extent *wanted, int n);
#define expect_pass(...)                                                       \
	expect_pass_of((const struct wanted_extent[]){ __VA_ARGS__ },          \
		       sizeof((const struct wanted_extent[]){ __VA_ARGS__ }) / \
			       sizeof(struct wanted_extent))

/* Counters of the cursor, in pages. */
uint64_t pending_pages(void);
uint64_t unacked_pages(void);

#endif
