/* SPDX-License-Identifier: MIT */
#ifndef DLI_WATCH_H
#define DLI_WATCH_H

#include "log.h"

/*
 * Watches: the VMM writes to a slot through a second mapping of its memory, and userfaultfd finds
 * the pages. KVM does not map that one, so the guest's own writes are not among them, and a scan
 * costs the guest nothing.
 *
 * All functions are called with the log's changes and lock held, dli_watch_scan() with the lock.
 */

/* Begins a watch of [alias, alias + slot->bytes): what is written from now on is found. */
int dli_watch_begin(struct dl_log *log, struct dli_slot *slot, uint64_t alias, bool audit);

/* Begins or ends the audit of a slot that is watched. */
int dli_watch_set_audit(struct dl_log *log, struct dli_slot *slot, bool audit);

/*
 * Ends the watch of a slot, if it has one. What was written until then is pending, unless the slot
 * or the log is about to go: last is false.
 */
void dli_watch_end(struct dl_log *log, struct dli_slot *slot, bool last);

/* Ends all: the log is closed. */
void dli_watch_end_all(struct dl_log *log);

/*
 * Protects what was written through the alias and makes it pending, then judges what the scan
 * before found. After an error the whole slot is pending. Allocates nothing.
 */
int dli_watch_scan(struct dl_log *log, struct dli_slot *slot);

#endif
