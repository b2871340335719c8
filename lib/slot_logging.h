/* SPDX-License-Identifier: MIT */
#ifndef DLI_PROTECT_H
#define DLI_PROTECT_H

#include "log.h"

/* Switching KVM_MEM_LOG_DIRTY_PAGES, and marking all. All under the log's lock. */

bool dli_slot_is_loggable(const struct dli_slot *slot);

/* Gives a slot that exists its flags, with or without logging. */
int dli_slot_logging_set(struct dl_log *log, struct dli_slot *slot, bool on);

/* Every slot that can be logged. The first failure ends on, off goes on and returns the first. */
int dli_slot_logging_set_all(struct dl_log *log, bool on);

/*
 * Has every page of every slot protected anew: logging off and on. What was written meanwhile is
 * not recorded: mark all afterwards.
 */
int dli_slot_logging_restart(struct dl_log *log);

/*
 * Switches logging on where it is off while it should be on, as a failed ioctl left it, and marks
 * such slots wholly: what was written there meanwhile is not recorded.
 */
int dli_slot_logging_resume(struct dl_log *log);

/* Makes every page of every logged slot pending, once where two address spaces show it. */
void dli_mark_all_slots(struct dl_log *log);

#endif
