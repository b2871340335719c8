/* SPDX-License-Identifier: MIT */
#ifndef DLI_BITMAP_MERGE_H
#define DLI_BITMAP_MERGE_H

#include "pages/owed.h"

/*
 * Makes the pages of a slot's bitmap pending, and owed if the slot owes any. words are as
 * KVM_GET_DIRTY_LOG wrote them; bits past the slot's end are cleared. Returns how many pages were
 * not pending before, and counts them.
 */
uint64_t dli_page_set_merge(struct dli_page_set *set, struct dli_owed *owed, uint64_t *words);

#endif
