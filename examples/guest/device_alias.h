/* SPDX-License-Identifier: MIT */
#ifndef GUEST_DEVICE_ALIAS_H
#define GUEST_DEVICE_ALIAS_H

#include "device.h"

/*
 * For --watch: the memory of the device's slot is a file, mapped for the guest and once more for
 * the device, which writes through its own mapping. The log finds these writes without a mark.
 */

/* Maps the memory twice, with what it contains. The guest must be paused. */
int device_alias_map(struct device *device);

/* Has the log watch it, also after the slot was made anew. Nothing without an alias. */
int device_alias_watch(struct device *device);

/* Ends that; nothing without an alias. */
void device_alias_unmap(struct device *device);

/* Writes guest memory, through the alias if there is one. */
void device_store(struct device *device, uint64_t offset, const void *data, size_t bytes);

/* Discards a page: afterwards it is zero. No watch notices. */
int device_drop_page(struct device *device, uint64_t offset);

#endif
