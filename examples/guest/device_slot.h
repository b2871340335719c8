/* SPDX-License-Identifier: MIT */
#ifndef GUEST_DEVICE_SLOT_H
#define GUEST_DEVICE_SLOT_H

#include "device.h"

/* The device's memslot, which comes, goes and moves while pages are on their way. */

/* Where the slot is now. */
uint64_t device_slot_gpa(const struct device *device);

/*
 * Called at every step of the device, and by its thread alone: in turn moves the slot away, moves
 * it back, and removes and re-creates it. Most steps change nothing. Returns 0 or a negative errno
 * value.
 */
int device_slot_change(struct device *device);

/* Moves the slot back, if it is at its other place. */
int device_slot_home(struct device *device);

#endif
