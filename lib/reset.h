/* SPDX-License-Identifier: MIT */
#ifndef DLI_RESET_H
#define DLI_RESET_H

#include "os.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * KVM_RESET_DIRTY_RINGS of one VM, one call at a time. The kernel drops its slots_lock before it
 * flushes the TLBs: a second caller could be told that nothing is left while the first one's flush
 * is still to come, and would then read pages that a vCPU can still write unseen.
 */
struct dli_reset {
	const struct dl_os *os;
	pthread_mutex_t lock;
	int vm_fd;
	bool closed;
	_Atomic uint64_t resets, short_resets, ioctl_ns;
};

int dli_reset_init(struct dli_reset *reset, const struct dl_os *os, int vm_fd);
void dli_reset_fini(struct dli_reset *reset);

/* After this no call uses the VM. */
void dli_reset_close(struct dli_reset *reset);

/*
 * Takes back what was released in all rings. Returns the number of cells or a negative errno value,
 * -ECANCELED when closed.
 */
int dli_reset_rings(struct dli_reset *reset);

#endif
