/* SPDX-License-Identifier: MIT */
#ifndef LAB_VHOST_DEVICE_H
#define LAB_VHOST_DEVICE_H

/*
 * A device of the kernel's vhost and the guest's driver of its two queues, which lie in a slot. The
 * driver is this process: it marks what it writes. Errors fail the test.
 */
#include "../abi/sources.h"
#include "rig.h"

#include <linux/virtio_ring.h>

enum {
	VHOST_QUEUES = 2,
	VHOST_QUEUE_ENTRIES = 64,
	VHOST_RING_PAGES = 2, /* descriptors and available ring; used ring */
	VHOST_FIRST_BUFFER_PAGE = VHOST_QUEUES * VHOST_RING_PAGES,
};

struct vhost_queue {
	struct vring ring; /* in the guest's mapping */
	struct vhost_vring_addr address;
	uint64_t offset; /* in the slot */
	uint64_t used_offset;
	uint16_t offered; /* indexes of the driver */
	uint16_t consumed;
	int kick_fd;
	int call_fd;
};

struct vhost_device {
	const struct rig *rig;
	const struct rig_slot *slot;
	uint8_t *memory; /* the mapping that the device has: the slot's, or another of its memory */
	uint64_t features;
	struct words log;
	struct vhost_queue queues[VHOST_QUEUES];
	int fd;
};

/* Opens a device without a log, or skips the test if this machine has none. */
void vhost_open(struct vhost_device *device, const char *path, uint64_t features);

/* Accepts a zeroed or half-open device, as a failed test leaves it. */
void vhost_close(struct vhost_device *device);

/* An ioctl that must succeed. */
void vhost_call(const struct vhost_device *device, unsigned long request, const void *argument);

/* The log of the buffers, and that of the used rings, as doc/sources.md starts them. */
void vhost_log_buffers(struct vhost_device *device);
void vhost_log_rings(struct vhost_device *device);

/* The log without VHOST_F_LOG_ALL. */
void vhost_log_no_buffers(struct vhost_device *device);

/* Marks what the driver has written. */
void vhost_mark(const struct vhost_device *device, uint64_t offset, uint64_t bytes);

/* Offers a buffer (flags: VRING_DESC_F_WRITE for the device to fill); vhost_kick() says so. */
void vhost_offer(struct vhost_device *device, unsigned int queue, uint64_t offset, uint32_t bytes,
		 uint16_t flags);
void vhost_kick(const struct vhost_device *device, unsigned int queue);

/* Waits for the next buffer that the device has used. Returns its offset in the slot. */
uint64_t vhost_consume(struct vhost_device *device, unsigned int queue, uint32_t *bytes);

/* After this the device has also logged what it wrote to the buffers that were consumed. */
void vhost_settle(const struct vhost_device *device);

#endif
