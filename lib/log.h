/* SPDX-License-Identifier: MIT */
#ifndef DLI_LOG_H
#define DLI_LOG_H

/*
 * The dirty log of one VM: the state that the public calls share.
 *
 * Lock order: changes (cursors and slots come and go), a plan's (its looks; never under changes), a
 * cursor's lock (its pass and its readers; all cursors' for a change of a slot, in the order of the
 * list), lock (GET, CLEAR, flags, who gets which page), a ring's lock, the reset's lock. A vCPU's
 * drain and a reap take only the last two. The reaper's lock is taken under any of these, or none.
 */

#include "error.h"
#include "kvm/bitmap.h"
#include "kvm/caps.h"
#include "kvm/uffd.h"
#include "kvm/vm.h"
#include "pace.h"
#include "pages/slot_table.h"
#include "plan/limit.h"
#include "reaper.h"
#include "ring/reset.h"
#include "ring/vcpu_list.h"

/* Watches of slots: watch.h. */
struct dli_watcher {
	struct dli_uffd uffd;		 /* open while a slot is watched */
	struct dli_page_region *regions; /* what one scan can report; NULL: nothing is watched */
	uint32_t watches, audits;
	_Atomic bool audit; /* some slot is audited */
	_Atomic uint64_t found_pages, missed_pages;
};

struct dl_log {
	struct dli_vm vm;
	/* In a page of its own that fork(2) wipes in the child: 1, or 0 there. */
	volatile uint32_t *alive;
	struct dli_caps caps;
	char reason[320]; /* why this mode was chosen, or why opening failed */
	atomic_uint references;
	struct dli_error error;

	pthread_mutex_t changes;
	/* Both are changed under changes and lock. */
	struct dl_cursor *cursors;
	uint32_t next_cursor_id;

	pthread_mutex_t lock;
	_Atomic bool closed; /* written under changes and lock */
	struct dli_slots slots;
	uint64_t next_age; /* of the next slot that is created */
	uint32_t aliased;  /* slots whose memory an older slot maps too */
	struct dli_bitmap_buffer buffer;
	bool clear_in_chunks; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
	bool initially_set;   /* and its KVM_DIRTY_LOG_INITIALLY_SET */
	uint64_t clear_bits[PAGE_SET_CHUNK_WORDS], clear_words[PAGE_SET_CHUNK_WORDS]; /* clear.c */
	struct dli_watcher watcher;
	struct dli_pace pace;
	struct dli_reaper reaper;

	struct dli_vcpu_list vcpus;
	struct dli_reset reset;
	struct dli_limits limits;
	struct dl_plan *plan;	  /* under lock; NULL: none */
	struct dli_window window; /* of bitmaps; under lock */

	_Atomic uint32_t paused_passes; /* open passes that began with no vCPU in KVM_RUN */
	_Atomic uint64_t bitmap_new_pages, repairs, repair_pages, late_marks, failed_marks;
};

/* True if some cursor exists. */
static inline bool dli_log_is_on(const struct dl_log *log)
{
	return dli_slots_are_logging(&log->slots);
}

/* True if marks are recorded: for a cursor, or for an audit. */
static inline bool dli_log_wants_marks(const struct dl_log *log)
{
	/* Pairs with count_audit() in watch.c: the slot's audit is there. */
	return dli_log_is_on(log) ||
	       atomic_load_explicit(&log->watcher.audit, memory_order_acquire);
}

/* Pairs with dl_log_close(). */
static inline bool dli_log_is_closed(const struct dl_log *log)
{
	return atomic_load_explicit(&log->closed, memory_order_acquire);
}

/* A child of fork(2) has a copy of the log that must not touch what it shares: rings and the VM. */
static inline bool dli_log_in_child(const struct dl_log *log)
{
	return !*log->alive;
}

static inline bool dli_log_is_ring(const struct dl_log *log)
{
	return log->caps.mode == DL_MODE_RING;
}

/* Makes the log of a VM that is not probed yet. Fails if vm_fd cannot be duplicated, or -ENOMEM. */
int dli_log_new(int vm_fd, const struct dl_options *options, struct dl_log **out);

void dli_log_get(struct dl_log *log);
void dli_log_put(struct dl_log *log);

/* Records a failure for dl_log_last_error(), and returns error. Any thread. */
static inline int dli_log_fail(const struct dl_log *log, enum dli_failure failure, uint32_t slot,
			       int error)
{
	/* const covers the caller's view of the log, not the record of its failures. */
	return dli_error_note((struct dli_error *)&log->error, failure, slot, error);
}

#endif
