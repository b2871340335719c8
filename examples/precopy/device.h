/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DEVICE_H
#define PRECOPY_DEVICE_H

#include "machine.h"

/*
 * A device of the host's side, as a disk or a network card would be: a thread that writes into guest
 * memory behind KVM's back, record after record round a small area, and tells the log. One more
 * page has the device's own count of them, written when the device is saved.
 */

/* What goes to the destination beside the guest's memory. */
struct device_state {
	uint64_t writes;
};

struct device {
	struct machine *machine;
	struct dl_log *log; /* NULL: there is nobody to tell */
	bool silent;	    /* do not tell the log; for --sabotage mark */
	struct device_state state;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool has_thread;
	bool ends;
	int failure; /* the log's, when a mark failed */
};

void device_init(struct device *device, struct machine *machine, struct dl_log *log);
int device_start(struct device *device);

/* Stops it; nothing is written after this. Can be called again. */
void device_stop(struct device *device);

/* Writes the stopped device's state to guest memory, and marks it. Returns a failed mark's error. */
int device_save(struct device *device, struct device_state *state);

/* Whether guest memory has what a device in this state wrote; why says where not. */
bool device_load(struct device *device, const struct device_state *state, char *why,
		 size_t why_bytes);

#endif
