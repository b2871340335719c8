/* SPDX-License-Identifier: MIT */
#ifndef DLI_CLEAR_H
#define DLI_CLEAR_H

#include "log.h"

/*
 * KVM_CLEAR_DIRTY_LOG of owed pages: of these only, because clearing another page would erase a
 * write that no GET has reported. After an error they are owed still.
 *
 * Both are called with the log's lock held.
 */

/* Clears the pages of a batch, which lies in one chunk. */
int dli_clear_batch(struct dl_log *log, struct dli_slot *slot, const struct dli_batch *batch);

/* Clears a range of pages, extended to whole words. */
int dli_clear_range(struct dl_log *log, struct dli_slot *slot, uint64_t first_page, uint64_t pages);

#endif
