/* SPDX-License-Identifier: MIT */
#ifndef DLI_RESET_H
#define DLI_RESET_H

#include "kvm/os.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * KVM_RESET_DIRTY_RINGS of one VM, and the section in which cells are released, taken back and
 * verified: one thread at a time. The kernel drops its slots_lock before it flushes the TLBs, so a
 * second caller could be told that nothing is left while the first one's flush is still to come.
 * And a reset that is cut short drops the entries that it gathered, of whichever ring, so its
 * caller must be the one who verifies that nothing was left behind.
 *
 * Reset requests queue here; one leader completes the batch. Requests that arrive while the section
 * is busy are completed together by the first of them to enter next: one reset for all, since a
 * flush costs more than what most rings hold.
 */
struct dli_reset_request {
	struct dli_reset_request *next;
	int result;
	bool done;
};

struct dli_reset {
	const struct dl_os *os;
	pthread_mutex_t lock; /* of the fields up to queue; never held for long */
	pthread_cond_t changed;
	bool busy; /* a thread is in the section */
	bool closed;
	int vm_fd;
	struct dli_reset_request *queue;
	/* An overflow was certain once: signs that a healthy kernel can show count from now on. */
	_Atomic bool overflowed;
	_Atomic uint64_t repair_requests;
	uint64_t repair_requests_seen, repair_requests_served;
	_Atomic uint64_t resets, short_resets, ioctl_ns;
	/*
	 * Drains of full rings, now and when the last harvest began: they size a harvest's resets.
	 */
	_Atomic uint64_t full_drains, full_drains_seen;
};

int dli_reset_init(struct dli_reset *reset, const struct dl_os *os, int vm_fd);
void dli_reset_fini(struct dli_reset *reset);

/* The log is closed. needed: some vCPU may still have to be drained, so its ring is still reset. */
void dli_reset_close(struct dli_reset *reset, bool needed);

/* Enters the section; -ECANCELED if the log is closed. */
int dli_reset_begin(struct dli_reset *reset);
void dli_reset_end(struct dli_reset *reset);

/*
 * Queues a request and waits. NULL: a leader completed it, or the log is closed; request->result
 * tells. Otherwise the caller is in the section and leads: it runs the batch that is returned, its
 * own request among it, and calls dli_reset_complete().
 */
struct dli_reset_request *dli_reset_submit(struct dli_reset *reset,
					   struct dli_reset_request *request);
void dli_reset_complete(struct dli_reset *reset, struct dli_reset_request *batch);

/*
 * Inside the section: takes back the released cells of all rings. Returns their number, or a
 * negative errno value.
 */
int dli_reset_rings(struct dli_reset *reset);

/*
 * The reset by which dl_log_open() finds out whether a VM has rings, outside of any section: the
 * log that uses them is not known to it. Returns an error if that remains unknown.
 */
int dli_reset_probe(const struct dl_os *os, int vm_fd, bool *on);

/*
 * Entries may be lost, or taken back unprotected: the next harvest must re-protect and mark
 * everything. From any thread.
 */
void dli_reset_request_repair(struct dli_reset *reset);

/*
 * True if a repair was requested since the last dli_reset_repaired(), which serves the requests
 * that this has seen. One thread at a time.
 */
bool dli_reset_repair_needed(struct dli_reset *reset);
void dli_reset_repaired(struct dli_reset *reset);

#endif
