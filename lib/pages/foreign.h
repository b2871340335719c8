/* SPDX-License-Identifier: MIT */
#ifndef DLI_FOREIGN_H
#define DLI_FOREIGN_H

#include "pages/slot_table.h"

/*
 * A foreign dirty log: a bitmap of guest memory that somebody else fills, with pages of its own
 * size. Its pages become pending in the slots that have them.
 */
struct dli_foreign {
	_Atomic uint64_t *words;
	uint64_t bits; /* in the bitmap */
	uint64_t gpa;  /* of bit 0, a multiple of the foreign page size */
	uint32_t as_id;
	uint32_t foreign_shift, host_shift; /* log2 of the page sizes */
	bool take;			    /* exchange bits before marking */
	bool little_endian;
};

struct dli_foreign_result {
	uint64_t pages; /* host pages that were marked, each once */
	uint64_t end;	/* guest address after the last of them */
	bool outside;	/* a bit is set of a page no part of which is in a slot */
};

/* The next word at or after word that is not 0, or the number of words. */
uint64_t dli_foreign_next(const struct dli_foreign *foreign, uint64_t word);

/*
 * Marks what the words [word, end) name. Called inside the read section that the table was read
 * in: once a cursor's beginning has waited for a grace period, no bit that is set afterwards can
 * be taken by a caller that does not know of the cursor.
 */
void dli_foreign_mark(const struct dli_foreign *foreign, const struct dli_slot_table *table,
		      uint64_t word, uint64_t end, struct dli_foreign_result *result);

#endif
