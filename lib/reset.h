/* SPDX-License-Identifier: MIT */
#ifndef DLI_RESET_H
#define DLI_RESET_H

#include "os.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * KVM_RESET_DIRTY_RINGS of one VM, and the lock under which cells are released, taken back and
 * looked at again: one section, never two at once. The kernel drops its slots_lock before it
 * flushes the TLBs, so a second caller could be told that nothing is left while the first one's
 * flush is still to come; and a reset that is cut short loses what it had gathered, of whichever
 * ring, so its caller must be the one who looks whether something was left behind.
 */
struct dli_reset {
	const struct dl_os *os;
	pthread_mutex_t lock;
	int vm_fd;
	bool closed;
	bool own_fd; /* vm_fd is a duplicate */
	/* An overflow was certain once: signs that a healthy kernel can show now count too. */
	_Atomic bool overflowed;
	_Atomic uint64_t resets, short_resets, ioctl_ns;
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
 * Inside the section: takes back what is released in all rings. Returns the number of cells or a
 * negative errno value.
 */
int dli_reset_rings(struct dli_reset *reset);

#endif
