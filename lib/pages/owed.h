/* SPDX-License-Identifier: MIT */
#ifndef DLI_OWED_H
#define DLI_OWED_H

#include "pages/page_set.h"

/*
 * The pages of one slot that KVM_GET_DIRTY_LOG has reported, or KVM_DIRTY_LOG_INITIALLY_SET counts
 * as dirty, and KVM_CLEAR_DIRTY_LOG has not protected yet: the guest can write them unseen. An owed
 * page is cleared before its contents are handed out. A page that is not owed is never cleared:
 * that would erase a write that no GET has reported.
 *
 * One bit a page, under the log's lock.
 */
struct dli_owed {
	const struct dl_os *os;
	uint64_t *words; /* NULL: this slot owes nothing, ever */
	size_t bytes;
	uint64_t pages;
	bool any; /* false: no bit is set */
};

int dli_owed_init(struct dli_owed *owed, const struct dl_os *os, uint64_t pages);
void dli_owed_fini(struct dli_owed *owed);

void dli_owed_add(struct dli_owed *owed, const struct dli_batch *batch);
void dli_owed_add_all(struct dli_owed *owed);

/* Nothing is owed any more: logging is off. */
void dli_owed_forget(struct dli_owed *owed);

/*
 * Takes those of the n words of pages from first_word on that are owed, and in bits too if it is
 * not NULL. taken has room for n words. False: none of them is owed.
 */
bool dli_owed_take(struct dli_owed *owed, uint64_t first_word, uint32_t n, const uint64_t *bits,
		   uint64_t *taken);

/* Undoes a take. */
void dli_owed_put_back(struct dli_owed *owed, uint64_t first_word, uint32_t n,
		       const uint64_t *taken);

/* Makes everything that is owed pending in a set. */
void dli_owed_mark(const struct dli_owed *owed, struct dli_page_set *set);

#endif
