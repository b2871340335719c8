/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_DEVICE_H
#define PRECOPY_DEVICE_H

#include "machine.h"

/*
 * A device emulated by the host, like a disk or a network card: a thread that writes guest memory
 * behind KVM's back and marks the writes in the log. It writes one record after another, cycling
 * through a small area. One more page holds the number of writes, stored when the device is saved.
 */

/* Device state that is migrated besides guest memory. */
struct device_state {
	uint64_t writes;
};

struct device {
	struct machine *machine;
	struct dl_log *log; /* NULL: nothing to mark */
	bool skip_marks;    /* for --sabotage mark */
	struct device_state state;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool has_thread;
	bool stopping;
	int failure; /* error of a failed mark */
};

void device_init(struct device *device, struct machine *machine, struct dl_log *log);
int device_start(struct device *device);

/* Stops the device: it writes nothing after this. May be called again. */
void device_stop(struct device *device);

/* Writes the stopped device's state to guest memory and marks it. Returns 0 or a mark's error. */
int device_save(struct device *device, struct device_state *state);

/* Loads the state. Returns false, with the reason in why, if guest memory does not match it. */
bool device_load(struct device *device, const struct device_state *state, char *why,
		 size_t why_bytes);

#endif
