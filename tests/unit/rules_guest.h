/* SPDX-License-Identifier: MIT */
#ifndef UNIT_RULES_GUEST_H
#define UNIT_RULES_GUEST_H

/*
 * A fixture for tests of the rules that the interface promises: a guest with one vCPU, whose slots
 * and cursors the tests make themselves. A test is named after its rule, as in r1_...: identity of
 * slots, c1_...: several cursors and CLEAR, d1_...: deferred CLEAR.
 */

#include "cmocka_all.h"
#include "guest.h"
#include "pages/page_set.h"

enum { CHUNK = PAGE_SET_CHUNK_PAGES, MOST_PAGES = 2000 };

extern struct guest guest;
extern struct guest_vcpu *vcpu;

/* Each of these opens a guest in one mode. */
int setup_ring(void **state);
int setup_backup(void **state);
int setup_bitmap(void **state);
int setup_no_manual(void **state); /* bitmap mode of a kernel without CLEAR */
int setup_oldest(void **state);	   /* that, and it has no watches either */
int setup_sparse(void **state);	   /* bitmap mode; slots have no memory, and may be huge */
int teardown(void **state);

#define rule_test(mode, f) cmocka_unit_test_setup_teardown(f, setup_##mode, teardown)

/* A rule that holds in every mode. */
#define rule_tests(f) rule_test(ring, f), rule_test(bitmap, f), rule_test(no_manual, f)

/* A slot over new memory. */
struct guest_block *set_slot(uint32_t number, uint64_t gpa_page, uint64_t pages, uint32_t flags);
void set_alias(uint32_t number, uint64_t gpa_page, const struct guest_block *block,
	       uint64_t first_page, uint64_t pages, uint32_t flags);

/* Sets the slot again, at another address or with other flags. Returns dl_slot_set()'s result. */
int reset_slot(uint32_t number, uint64_t gpa_page, uint32_t flags);

/* The slot as it was set last. */
struct dl_slot slot_of(uint32_t number);

void remove_slot(uint32_t number);

/* Cursors that are left over go with the guest. */
struct dl_cursor *join(uint32_t flags);
struct dl_cursor *join_slot(uint32_t flags, uint32_t slot);
void leave(struct dl_cursor *cursor);

/* The vCPU writes; the VMM marks. */
void write_page(uint64_t gpa_page);
void mark_page(uint32_t slot, uint64_t page);

void begin_pass(struct dl_cursor *cursor);
void end_pass(struct dl_cursor *cursor);

/* The next extent of the open pass must be these guest pages, or there must be none. */
struct dl_extent expect_read(struct dl_cursor *cursor, uint64_t gpa_page, uint64_t pages);
void expect_no_more(struct dl_cursor *cursor);

/* A whole pass hands out exactly n guest pages from gpa_page on, and all are acknowledged. */
void expect_pass(struct dl_cursor *cursor, uint64_t gpa_page, int n);
void expect_empty_pass(struct dl_cursor *cursor);

/* Takes words of a slot of at most 64 * 4 pages with dl_cursor_take(). */
struct four_words {
	uint64_t w[4];
	uint64_t bytes;
	int result;
};
struct four_words take(struct dl_cursor *cursor, uint32_t slot, uint32_t flags);

uint64_t pending_of(const struct dl_cursor *cursor); /* in pages */
uint64_t unacked_of(const struct dl_cursor *cursor);

/* MODEL_PAGE_* of a page of a slot; is it protected for all vCPUs? */
uint8_t state_of(uint32_t slot, uint64_t page);
bool is_protected(uint32_t slot, uint64_t page);

/* The next calls fail. */
void fail_calls(unsigned long request, uint32_t skip, uint32_t times, int error);

#endif
