/* SPDX-License-Identifier: MIT */
/* The two-scan rule: what was written and never marked. */

#include "pages/audit.h"

#include "pages/bits.h"

#include <errno.h>
#include <stdlib.h>

int dli_audit_new(const struct dl_os *os, uint64_t pages, struct dli_audit **out)
{
	struct dli_audit *audit = dli_allocate(1, sizeof(*audit));
	void *cells;
	int r;

	if (!audit)
		return -ENOMEM;
	audit->os = os;
	audit->pages = pages;
	audit->n = divide_up(pages, 64);
	r = dli_os_reserve(os, audit->n * sizeof(audit->cells[0]), &cells);
	if (r) {
		free(audit);
		return r;
	}
	audit->cells = cells;
	*out = audit;
	return 0;
}

void dli_audit_free(struct dli_audit *audit)
{
	if (!audit)
		return;
	dli_os_unmap(audit->os, audit->cells, audit->n * sizeof(audit->cells[0]));
	free(audit);
}

void dli_audit_mark(struct dli_audit *audit, uint64_t first_page, uint64_t pages)
{
	uint64_t end = first_page + pages;

	for (uint64_t cell = first_page / 64; cell * 64 < end; cell++)
		dli_audit_mark_bits(audit, cell, range_bits(cell, first_page, end));
}

/* Only what is marked is written: most cells stay as they were mapped, without memory. */
static uint64_t take_marked(struct dli_audit_cell *cell)
{
	if (!atomic_load_explicit(&cell->marked, memory_order_relaxed))
		return 0;
	return atomic_exchange_explicit(&cell->marked, 0, memory_order_relaxed);
}

void dli_audit_begin(struct dli_audit *audit)
{
	for (uint64_t i = 0; i < audit->n; i++) {
		struct dli_audit_cell *cell = &audit->cells[i];
		uint64_t marked = take_marked(cell);

		/* A scan that failed may have left pages to this one. */
		if (audit->failed)
			marked |= cell->before;
		if (cell->before != marked)
			cell->before = marked;
		if (cell->waiting & marked)
			cell->waiting &= ~marked;
	}
	audit->failed = false;
}

void dli_audit_found(struct dli_audit *audit, uint64_t first_page, uint64_t pages)
{
	uint64_t end = first_page + pages;

	for (uint64_t cell = first_page / 64; cell * 64 < end; cell++)
		audit->cells[cell].found |= range_bits(cell, first_page, end);
}

void dli_audit_abandon(struct dli_audit *audit)
{
	for (uint64_t i = 0; i < audit->n; i++)
		if (audit->cells[i].found)
			audit->cells[i].found = 0;
	audit->failed = true;
}

uint64_t dli_audit_judge(struct dli_audit *audit, uint64_t i)
{
	struct dli_audit_cell *cell = &audit->cells[i];
	uint64_t missed;

	if (!(cell->found | cell->waiting))
		return 0;
	missed = cell->waiting & ~atomic_load_explicit(&cell->marked, memory_order_relaxed);
	cell->waiting = cell->found & ~cell->before;
	cell->found = 0;
	return missed;
}
