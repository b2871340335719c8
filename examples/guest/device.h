/* SPDX-License-Identifier: MIT */
#ifndef GUEST_DEVICE_H
#define GUEST_DEVICE_H

#include "machine.h"

/*
 * Devices emulated by the host, in a memslot of their own. A thread writes guest memory behind
 * KVM's back, as a disk or a network card does, and marks the writes in the log: one record after
 * another, cycling through a small area. A balloon writes to its pages and then discards them,
 * which changes contents without a store, and is marked too. One more page holds the number of
 * writes, stored when the device is saved. As a guest does that programs a BAR or a flash, the
 * thread can move the slot, and remove and re-create it, while its pages are on their way.
 */

/* Device state that is saved besides guest memory. */
struct device_state {
	uint64_t writes;
	uint64_t balloon_steps;
};

struct device {
	struct machine *machine;
	struct dl_log *log; /* NULL: nothing to mark */
	bool skip_marks;    /* a mistake, for --sabotage; or there is an alias */
	bool skip_discards; /* another: those are not marked */
	uint8_t *alias; /* its own mapping of the slot, where its writes need no mark; or NULL */
	bool audits;	/* the marks are missed all the same, and counted */
	bool moves_slot;
	bool elsewhere; /* the slot is at its other place */
	uint64_t slot_changes;
	struct device_state state;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool has_thread;
	bool stopping;
	int failure; /* of a mark or of a change of the slot */
};

void device_init(struct device *device, struct machine *machine, struct dl_log *log);
int device_start(struct device *device);

/* Stops the device: it writes nothing after this. May be called again. */
void device_stop(struct device *device);

/*
 * Pauses a device that runs, and lets it go on: between the two it writes nothing. They are called
 * by the same thread.
 */
void device_pause(struct device *device);
void device_resume(struct device *device);

/* Discards a page that the stopped device's balloon has written to. */
void device_discard(struct device *device);

/*
 * Puts the slot of a device that is stopped or paused back, writes its state to guest memory and
 * marks it. Returns 0, or the error of a mark or of a change of the slot.
 */
int device_save(struct device *device, struct device_state *state);

/* Loads the state. Returns false, with the reason in why, if guest memory does not match it. */
bool device_load(struct device *device, const struct device_state *state, char *why,
		 size_t why_bytes);

#endif
