/* SPDX-License-Identifier: MIT */
#ifndef DLI_LOG_H
#define DLI_LOG_H

/*
 * The log of one VM: what the rooms below are put together to.
 *
 * Locks, in the order in which they are taken: reading (iterators), lock (slots: GET, CLEAR, flag
 * and slot changes, harvests), a ring's, the reset's. A vCPU's drain takes the last two only.
 */

#include "bitmap.h"
#include "caps.h"
#include "reset.h"
#include "slots.h"
#include "vcpus.h"

struct dl_log {
	const struct dl_os *os;
	int vm_fd;
	struct dli_caps caps;
	int (*set_region)(void *opaque, uint32_t slot, uint32_t kvm_flags);
	void *opaque;
	atomic_uint references;

	pthread_mutex_t reading;
	struct dl_iter *iter; /* the live one */

	pthread_mutex_t lock;
	_Atomic bool closed;	  /* written under lock */
	_Atomic uint64_t session; /* counts starts and stops */
	struct dli_slots slots;
	struct dli_bitmap_buffer buffer;
	bool clear_in_chunks;	/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is on */
	char reason[320];	/* of the mode */
	char last_failure[160]; /* of a slot ioctl; empty: none */
	/*
	 * Of the last harvest's end: when, how long after the one before it (0: there was none), and
	 * how many entries of the fastest vCPU came in that time.
	 */
	_Atomic uint64_t harvested_at_ns, span_ns, span_entries;

	struct dli_vcpu_list vcpus;
	struct dli_reset reset;

	_Atomic uint64_t bitmap_new_pages, slot_ioctl_ns;
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

static inline bool dli_log_is_ring(const struct dl_log *log)
{
	return log->caps.mode == DL_MODE_RING;
}

/* Pairs with set_logging(). */
static inline uint64_t dli_log_session(const struct dl_log *log)
{
	return atomic_load_explicit(&log->session, memory_order_acquire);
}

void dli_log_get(struct dl_log *log);
void dli_log_put(struct dl_log *log);

/* Remembers, for dl_log_describe(), what failed. Under the log's lock. */
void dli_log_note_failure(struct dl_log *log, const char *what, uint32_t slot, int error);

/* What dl_log_harvest_due() goes by: rings were just emptied, at first by a start. */
void dli_log_note_pace(struct dl_log *log, bool first);

/* Runs a VM ioctl on a slot and adds its time to the statistics. */
int dli_log_slot_ioctl(struct dl_log *log, unsigned long request, void *arg);

#endif
