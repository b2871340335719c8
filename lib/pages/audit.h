/* SPDX-License-Identifier: MIT */
#ifndef DLI_AUDIT_H
#define DLI_AUDIT_H

#include "kvm/os.h"

#include <stdatomic.h>

/*
 * Which pages of a slot were written and never marked: the two-scan rule.
 *
 * A scan takes the pages that were written since the scan before, one by one. A page that scan N
 * finds was written after scan N - 1 began, so the mark of that write came after that too; and it
 * comes before scan N + 1 ends, unless the writer needs more than a whole pass for the way from its
 * write to its mark. So the page is missed if nothing marked it from the beginning of scan N - 1 to
 * the end of scan N + 1. Between one scan and the next is too little: the writer may have been
 * between write and mark while scan N passed. A mark that belongs to another write of the page, in
 * these two intervals, excuses it: misses can be overlooked, and are never invented.
 *
 * Any thread marks, at any time, without a lock; the rest is for one thread at a time. A cell is of
 * 64 pages.
 */
struct dli_audit_cell {
	_Atomic uint64_t marked; /* since this scan began, or the last one */
	uint64_t before;	 /* marked from the beginning of the scan before until then */
	uint64_t found;		 /* by this scan */
	uint64_t waiting;	 /* found by the scan before, and not marked */
};

struct dli_audit {
	const struct dl_os *os;
	uint64_t pages, n;
	bool failed; /* the last scan */
	struct dli_audit_cell *cells;
};

/* The first scan after this must be one whose findings are of no interest. */
int dli_audit_new(const struct dl_os *os, uint64_t pages, struct dli_audit **audit);
void dli_audit_free(struct dli_audit *audit);

/* Notes a mark of pages that lie inside the slot. Any thread. */
void dli_audit_mark(struct dli_audit *audit, uint64_t first_page, uint64_t pages);

/* Notes a mark of pages of one cell. Any thread. */
static inline void dli_audit_mark_bits(struct dli_audit *audit, uint64_t cell, uint64_t bits)
{
	/* Nothing is published with it: it only has to be there when the page is judged. */
	atomic_fetch_or_explicit(&audit->cells[cell].marked, bits, memory_order_relaxed);
}

/* A scan begins; it finds pages; it ends, and dli_audit_missed() is asked for each cell. */
void dli_audit_begin(struct dli_audit *audit);
void dli_audit_found(struct dli_audit *audit, uint64_t first_page, uint64_t pages);

/* A scan ends at which nothing is judged: it has failed, or is the first. */
void dli_audit_abandon(struct dli_audit *audit);

/* Ends the scan for the pages of one cell. Returns those of them that are missed. */
uint64_t dli_audit_judge(struct dli_audit *audit, uint64_t cell);

#endif
