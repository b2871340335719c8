/* SPDX-License-Identifier: MIT */
#ifndef DLI_LOG_H
#define DLI_LOG_H

/*
 * The dirty log of one VM: the state that the public calls share.
 *
 * Lock order: reading (iterators), lock (GET, CLEAR, flag and slot changes, harvests), a ring's
 * lock, the reset's lock. A vCPU's drain and a reap take only the last two. The reaper's lock is
 * taken under any of these, or none.
 */

#include "kvm/bitmap.h"
#include "kvm/caps.h"
#include "kvm/vm.h"
#include "pace.h"
#include "pages/slot_table.h"
#include "reaper.h"
#include "ring/reset.h"
#include "ring/vcpu_list.h"

struct dl_log {
	struct dli_vm vm;
	/* In a page of its own that fork(2) wipes in the child: 1, or 0 there. */
	volatile uint32_t *alive;
	struct dli_caps caps;
	int (*set_region)(void *opaque, uint32_t slot, uint32_t kvm_flags);
	void *opaque;
	atomic_uint references;

	pthread_mutex_t reading;
	struct dl_iter *iter; /* the open iterator, or NULL */

	pthread_mutex_t lock;
	_Atomic bool closed;	  /* written under lock */
	_Atomic uint64_t session; /* counts starts and stops */
	struct dli_slots slots;
	struct dli_bitmap_buffer buffer;
	bool clear_in_chunks;	/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
	char reason[320];	/* why this mode was chosen, or why opening failed */
	char last_failure[160]; /* last slot ioctl that failed; empty if none did */
	struct dli_pace pace;
	struct dli_reaper reaper;

	struct dli_vcpu_list vcpus;
	struct dli_reset reset;

	_Atomic uint64_t bitmap_new_pages;
};

static inline bool dli_log_is_on(const struct dl_log *log)
{
	return dli_slots_are_logging(&log->slots);
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

/* Pairs with set_logging(). */
static inline uint64_t dli_log_session(const struct dl_log *log)
{
	return atomic_load_explicit(&log->session, memory_order_acquire);
}

/* Makes the log of a VM that is not probed yet. Fails if vm_fd cannot be duplicated, or -ENOMEM. */
int dli_log_new(int vm_fd, const struct dl_options *options, struct dl_log **out);

void dli_log_get(struct dl_log *log);
void dli_log_put(struct dl_log *log);

/* Records a failure for dl_log_describe(). Called under the log's lock. */
void dli_log_note_failure(struct dl_log *log, const char *what, uint32_t slot, int error);

#endif
