/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_CHECKER_H
#define MIGRATIONS_CHECKER_H

/*
 * The question of every migration test: does the copy equal the memory?
 *
 * A checker is a consumer of the dirty log, with a cursor, and two receivers: one goes by blocks of
 * memory and holds a copy of each, the other goes by guest addresses (gpa_receiver.h). A pass
 * harvests, sends the extents that the cursor returns to both, acknowledges them, and flushes. No
 * page may be in a pass twice. After the last pass, every page of both must equal the memory.
 *
 * It does not depend on the kernel: the tests on the model use it (guest_checker.h), and so do
 * those on the real one (tests/kvm/rig.h). Functions marked [T] may be called by several threads.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

#include "channels.h"
#include "gpa_receiver.h"

enum {
	CHECKER_BLOCKS = 24,
	CHECKER_MAX_RUNS = 64,
	CHECKER_MAX_READERS = 8,
};

/* A block of guest memory. It outlives the slots that map it. */
struct checker_block {
	uint8_t *memory;
	uint8_t *copy;
	size_t bytes;
	bool ignored; /* left out of the comparison: the test discards its changes */
	atomic_ulong pages_sent;
	_Atomic uint64_t *passes; /* for each page: the last one that handed it out */
	uint64_t *kept;		  /* pages of removed slots that were not sent, one bit each */
};

typedef void checker_copy(void *to, const void *from, size_t bytes);

struct checker {
	struct dl_log *log;
	struct dl_cursor *cursor; /* NULL: not joined */
	size_t page_bytes;
	checker_copy *copy;
	struct checker_block blocks[CHECKER_BLOCKS];
	unsigned int block_count;
	struct gpa_receiver by_gpa;
	bool is_late; /* two channels deliver at the end of a pass */
	struct channels channels;
	uint32_t batch_runs; /* extents per dl_cursor_read(), at most CHECKER_MAX_RUNS */
	uint64_t pass;
	atomic_ulong pages_sent;
	/* Extents that lie in no block, are not page-aligned, or are in one pass twice. */
	atomic_ulong bad_runs;
};

/* copy reads memory that other threads may be writing. NULL: memcpy(). */
void checker_init(struct checker *checker, struct dl_log *log, size_t page_bytes,
		  checker_copy *copy);

/* Leaves the log first. */
void checker_free(struct checker *checker);

/* From now on what is sent arrives at the end of the pass, by two channels. */
void checker_deliver_late(struct checker *checker, uint64_t seed);

/* Adds memory, with a copy that differs in every byte. */
struct checker_block *checker_add(struct checker *checker, void *memory, size_t bytes);

/* Makes every copy equal to its memory, as DL_CURSOR_CLEAN requires. */
void checker_equalize(struct checker *checker);

/* As checker_equalize(), for the memory of one slot, which may be about to be set. */
void checker_equalize_slot(struct checker *checker, const struct dl_slot *slot);

/* Begins to log, and ends: dl_cursor_new() with enum dl_cursor_flag, dl_cursor_free(). */
int checker_join(struct checker *checker, uint32_t flags);
int checker_join_one(struct checker *checker, uint32_t flags, uint32_t slot);
void checker_leave(struct checker *checker);

/*
 * Slots that change while the receivers watch. A removal keeps the pages that were not sent (flags:
 * enum dl_remove_flag); they are marked when a slot with DL_SLOT_CLEAN maps the memory again, and
 * otherwise sent to the receiver by blocks at the end. checker_slot_drop() forgets them.
 */
int checker_slot_set(struct checker *checker, const struct dl_slot *slot);
int checker_slot_remove(struct checker *checker, uint32_t slot, uint32_t flags);
int checker_slot_drop(struct checker *checker, uint32_t slot, uint32_t flags);

/* A slot that somebody else has set or removed. */
static inline void checker_map(struct checker *checker, const struct dl_slot *slot)
{
	gpa_receiver_map(&checker->by_gpa, slot);
}

static inline void checker_unmap(struct checker *checker, uint32_t slot)
{
	gpa_receiver_unmap(&checker->by_gpa, slot);
}

/* [T] Sends an extent. Returns false, and counts a bad run, if no slot can have given it. */
bool checker_copy_run(struct checker *checker, const struct dl_extent *run);

/* [T] Reads, sends and acknowledges the open pass to its end. Returns 0 or the first error. */
int checker_read(struct checker *checker);

/* Delivers everything that was sent: between two passes, and after the last. */
void checker_flush(struct checker *checker);

/* Ends the open pass and flushes. */
void checker_end(struct checker *checker, uint32_t flags);

/* Both of these, by this many threads. Returns 0 or the first error. */
int checker_finish_pass(struct checker *checker, unsigned int readers);

/* A whole pass: dl_harvest(), then checker_finish_pass(). Returns 0 or the first error. */
int checker_pass(struct checker *checker, uint32_t flags, unsigned int readers);

/* The last pass, with no vCPU in KVM_RUN: repeated until nothing is pending. */
int checker_last_pass(struct checker *checker, unsigned int readers);

/* A pass that reads nothing: everything is pending again. Returns dl_harvest()'s result. */
int checker_harvest(struct checker *checker, uint32_t flags, uint64_t *pending_bytes);

/*
 * The other way to consume: takes a slot (flags: enum dl_take_flag), has it cleared if that was
 * left out, and sends its pages. Returns 0 or the first error, and adds to *pages.
 */
int checker_take(struct checker *checker, uint32_t slot, uint32_t flags, uint64_t *pages);

/* As checker_take(), for all slots of the receiver by gpa. */
int checker_take_all(struct checker *checker, uint32_t flags, uint64_t *pages);

/* Counters of the cursor, in bytes; 0 without a cursor. */
uint64_t checker_pending(const struct checker *checker);
uint64_t checker_unacked(const struct checker *checker);

/* The number of pages that differ in a receiver. The memory must not change meanwhile. */
uint64_t checker_differing_pages(const struct checker *checker);
uint64_t checker_differing_by_gpa(struct checker *checker);

/* Fails the test if a page differs, and prints the first ones, or if there was a bad run. */
void checker_expect_equal(struct checker *checker);

#endif
