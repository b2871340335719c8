/* SPDX-License-Identifier: MIT */
#ifndef DLI_BITMAP_MERGE_H
#define DLI_BITMAP_MERGE_H

#include "pages/slot_table.h"

/*
 * Makes the pages of a slot's bitmap pending, and owed if the slot owes any. words are as
 * KVM_GET_DIRTY_LOG wrote them; bits past the slot's end are cleared. Some cursor covers the slot.
 * Returns how many pages were not pending before. Under the log's lock.
 */
uint64_t dli_slot_merge(struct dli_slot *slot, uint64_t *words);

#endif
