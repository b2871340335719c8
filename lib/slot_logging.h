/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOT_LOGGING_H
#define DLI_SLOT_LOGGING_H

#include "log.h"

/* Switching KVM_MEM_LOG_DIRTY_PAGES, and marking whole slots. All need the log's lock. */

bool dli_slot_is_loggable(const struct dli_slot *slot);

/* Sets the KVM flags of an existing slot, with or without logging. */
int dli_slot_logging_set(struct dl_log *log, struct dli_slot *slot, bool on);

/*
 * Switches every loggable slot. Switching on stops at the first failure; switching off continues
 * and returns the first failure.
 */
int dli_slot_logging_set_all(struct dl_log *log, bool on);

/*
 * Re-protects every page of every slot, by switching logging off and on. Writes in between are not
 * recorded, so the caller must mark all slots afterwards.
 */
int dli_slot_logging_restart(struct dl_log *log);

/*
 * Switches logging on again for slots that a failed ioctl left without it, and marks them whole:
 * writes in between were not recorded.
 */
int dli_slot_logging_resume(struct dl_log *log);

/* Marks every logged slot whole; memory that two address spaces share is marked once. */
void dli_mark_all_slots(struct dl_log *log);

#endif
