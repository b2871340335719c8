/* SPDX-License-Identifier: MIT */
#ifndef DLI_RESET_H
#define DLI_RESET_H

#include "os.h"

#include <pthread.h>
#include <stdatomic.h>

struct dli_ring;

/*
 * KVM_RESET_DIRTY_RINGS of one VM, and the section in which cells are released, taken back and looked
 * at again: one at a time. The kernel drops its slots_lock before it flushes the TLBs, so a second
 * caller could be told that nothing is left while the first one's flush is still to come; and a reset
 * that is cut short loses what it had gathered, of whichever ring, so its caller must be the one who
 * looks whether something was left behind.
 *
 * Who wants rings handed back comes as a party. Parties that come while the section is taken are all
 * served together by the first of them to enter next: one reset for all, as a flush costs more than
 * what most rings hold.
 */
struct dli_party {
	struct dli_ring *first; /* its rings, whose locks it holds, each linked to the next */
	bool is_drain;		/* of a vCPU's own: one ring */
	bool full;		/* the vCPU came out because that is full */
	bool idle;		/* out: there was little in it */
	int result;		/* out */
	/* The section's own. */
	bool stepped, served;
	struct dli_party *next;
};

struct dli_reset {
	const struct dl_os *os;
	pthread_mutex_t lock; /* of the fields up to waiting; never held for long */
	pthread_cond_t changed;
	bool taken; /* somebody is in the section */
	bool closed;
	bool own_fd; /* vm_fd is a duplicate */
	int vm_fd;
	struct dli_party *waiting;
	/* An overflow was certain once: signs that a healthy kernel can show now count too. */
	_Atomic bool overflowed;
	_Atomic uint64_t repair_requests; /* repairs that were called for */
	uint64_t repair_requests_seen, repair_requests_served;
	_Atomic uint64_t resets, short_resets, ioctl_ns;
	/* Drains of full rings, now and when a harvest last began. They tell it how much to do at once. */
	_Atomic uint64_t full_drains, full_drains_seen;
};

int dli_reset_init(struct dli_reset *reset, const struct dl_os *os, int vm_fd);
void dli_reset_fini(struct dli_reset *reset);

/*
 * After this no call uses the caller's file descriptor of the VM. needed: some vCPU may still have to
 * be drained, so its ring is reset through a duplicate of it, if one can be had.
 */
void dli_reset_close(struct dli_reset *reset, bool needed);

/* Enters the section. -ECANCELED, and not entered, when closed. */
int dli_reset_begin(struct dli_reset *reset);
void dli_reset_end(struct dli_reset *reset);

/*
 * Has a party served, by a call of serve() inside the section, in this thread or another one, with all
 * parties that are served together. Returns its result; -ECANCELED when closed.
 */
int dli_reset_join(struct dli_reset *reset, struct dli_party *party,
		   void (*serve)(struct dli_reset *reset, struct dli_party *parties));

/*
 * Inside the section: takes back what is released in all rings. Returns the number of cells or a
 * negative errno value.
 */
int dli_reset_rings(struct dli_reset *reset);

/*
 * Entries may have been lost, or taken back unprotected: the next harvest has to protect and mark
 * everything. Any thread.
 */
void dli_reset_request_repair(struct dli_reset *reset);

/*
 * Whether that was called since the last dli_reset_repaired(); what is seen here is what that call
 * will mark as repaired. One thread at a time.
 */
bool dli_reset_repair_needed(struct dli_reset *reset);
void dli_reset_repaired(struct dli_reset *reset);

#endif
