/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOT_LOGGING_H
#define DLI_SLOT_LOGGING_H

#include "log.h"
#include "pages/view.h"

/*
 * KVM_MEM_LOG_DIRTY_PAGES of slots: on while some cursor covers the slot. All functions are called
 * with the log's lock held.
 */

/*
 * Sets the KVM flags of an existing slot, with or without logging. Under INITIALLY_SET all pages of
 * a slot that is switched on are owed, so the caller makes them pending for every cursor. After an
 * error KVM may have done it all the same: the slot is in doubt until another call succeeds.
 */
int dli_slot_logging_set(struct dl_log *log, struct dli_slot *slot, bool on);

/*
 * Switch logging on or off; no ioctl if KVM is known to have it so. A slot in doubt is switched off
 * before it is switched on: KVM protects the pages of a slot only if its logging was off.
 */
int dli_slot_logging_on(struct dl_log *log, struct dli_slot *slot);
int dli_slot_logging_off(struct dl_log *log, struct dli_slot *slot);

/* Records that KVM has the slot with, or without, logging. */
void dli_slot_logging_is(struct dl_log *log, struct dli_slot *slot, bool on);

/* Switches slots off that no cursor covers. Continues after a failure, and returns the first. */
int dli_slot_logging_stop(struct dl_log *log);

/*
 * Re-protects every page of every slot that a cursor covers, by switching logging off and on.
 * Writes in between are not recorded, so the caller must make everything pending afterwards. After
 * an error slots may be left without logging: the caller makes this call again.
 */
int dli_slot_logging_restart(struct dl_log *log);

/* Makes every page of every slot pending for every cursor. Returns how many were not. */
uint64_t dli_mark_all_slots(struct dl_log *log);

/*
 * Chooses manual protect for the first cursor, before any slot is logged. INITIALLY_SET saves a
 * cursor that begins with everything pending from protecting every page at once: the CLEAR before a
 * page is handed out does it. The kernel then reports every page, so a clean cursor does without.
 */
int dli_set_manual_protect(struct dl_log *log, bool clean);

/* Makes room for the bitmap of a slot, if bitmaps are read in this mode. */
int dli_reserve_bitmap(struct dl_log *log, uint64_t pages);

#endif
