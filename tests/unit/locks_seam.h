/* SPDX-License-Identifier: MIT */
#ifndef LOCKS_SEAM_H
#define LOCKS_SEAM_H

/*
 * Force-included before every file of lib/, which is compiled a second time for test_locks.c. It
 * replaces the watched functions that are inline in a header, where the linker cannot wrap them.
 */

#include "pages/slot_table.h"

#include <urcu-bp.h>
#include <urcu/static/urcu-bp.h>

void watched_read_lock(void);
void watched_read_unlock(void);
struct dli_slot_table *watched_slots_table(const struct dli_slots *slots);

#ifndef LOCKS_WATCHER /* test_locks.c itself */
#define _urcu_bp_read_lock()   watched_read_lock()
#define _urcu_bp_read_unlock() watched_read_unlock()
#define urcu_bp_read_lock()    watched_read_lock()
#define urcu_bp_read_unlock()  watched_read_unlock()
#define dli_slots_table(slots) watched_slots_table(slots)
#endif

#endif
