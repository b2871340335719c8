/* SPDX-License-Identifier: MIT */
#include "vhost_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LOG_PAGE_BYTES = 4096 };

void vhost_call(const struct vhost_device *device, unsigned long request, const void *argument)
{
	if (ioctl(device->fd, request, argument))
		fail_msg("vhost ioctl %#lx: %s", request, strerror(errno));
}

/* A bit for 4 KiB from guest physical address 0 to the end of the slot, in whole words. */
static void allocate_log(struct vhost_device *device)
{
	uint64_t end = device->slot->gpa + device->slot->bytes;

	device->log.n = (end / LOG_PAGE_BYTES + 63) / 64;
	device->log.at = calloc(device->log.n, sizeof(*device->log.at));
	assert_non_null(device->log.at);
}

static void share_memory(const struct vhost_device *device)
{
	uint64_t buffer[(sizeof(struct vhost_memory) + sizeof(struct vhost_memory_region)) / 8];
	struct vhost_memory *table = (struct vhost_memory *)buffer;

	*table = (struct vhost_memory){ .nregions = 1 };
	table->regions[0] = (struct vhost_memory_region){
		.guest_phys_addr = device->slot->gpa,
		.memory_size = device->slot->bytes,
		.userspace_addr = (uintptr_t)device->memory,
	};
	vhost_call(device, VHOST_SET_MEM_TABLE, table);
}

/* The address at which the device has what the driver has at another. */
static uint64_t device_address(const struct vhost_device *device, const void *of_driver)
{
	return (uintptr_t)device->memory + ((uintptr_t)of_driver - (uintptr_t)device->slot->memory);
}

static void set_up_queue(struct vhost_device *device, unsigned int index)
{
	const struct vhost_vring_state entries = { index, VHOST_QUEUE_ENTRIES };
	const struct vhost_vring_state base = { index, 0 };
	struct vhost_queue *queue = &device->queues[index];
	uint64_t page_bytes = device->rig->page_bytes;
	uint8_t *memory;

	queue->offset = index * VHOST_RING_PAGES * page_bytes;
	queue->used_offset = queue->offset + page_bytes;
	memory = device->slot->memory + queue->offset;
	memset(memory, 0, VHOST_RING_PAGES * page_bytes);
	vhost_mark(device, queue->offset, VHOST_RING_PAGES * page_bytes);
	vring_init(&queue->ring, VHOST_QUEUE_ENTRIES, memory, page_bytes);
	assert_ptr_equal(queue->ring.used, memory + page_bytes);
	queue->address = (struct vhost_vring_addr){
		.index = index,
		.desc_user_addr = device_address(device, queue->ring.desc),
		.avail_user_addr = device_address(device, queue->ring.avail),
		.used_user_addr = device_address(device, queue->ring.used),
	};
	queue->kick_fd = eventfd(0, EFD_CLOEXEC);
	queue->call_fd = eventfd(0, EFD_CLOEXEC);
	assert_true(queue->kick_fd >= 0 && queue->call_fd >= 0);
	vhost_call(device, VHOST_SET_VRING_NUM, &entries);
	vhost_call(device, VHOST_SET_VRING_BASE, &base);
	vhost_call(device, VHOST_SET_VRING_ADDR, &queue->address);
	vhost_call(device, VHOST_SET_VRING_KICK,
		   &(struct vhost_vring_file){ index, queue->kick_fd });
	vhost_call(device, VHOST_SET_VRING_CALL,
		   &(struct vhost_vring_file){ index, queue->call_fd });
}

void vhost_open(struct vhost_device *device, const char *path, uint64_t features)
{
	uint64_t offered = 0;

	device->features = features;
	device->fd = open(path, O_RDWR | O_CLOEXEC);
	if (device->fd < 0)
		rig_skip("%s: %s", path, strerror(errno));
	vhost_call(device, VHOST_SET_OWNER, NULL);
	vhost_call(device, VHOST_GET_FEATURES, &offered);
	features |= UINT64_C(1) << VHOST_F_LOG_ALL;
	assert_int_equal(offered & features, features);
	vhost_call(device, VHOST_SET_FEATURES, &device->features);
	share_memory(device);
	allocate_log(device);
	for (unsigned int i = 0; i < VHOST_QUEUES; i++)
		set_up_queue(device, i);
}

static void close_one(int *fd)
{
	if (*fd > 0)
		close(*fd);
	*fd = 0;
}

void vhost_close(struct vhost_device *device)
{
	close_one(&device->fd);
	for (unsigned int i = 0; i < VHOST_QUEUES; i++) {
		close_one(&device->queues[i].kick_fd);
		close_one(&device->queues[i].call_fd);
	}
	free(device->log.at);
	device->log.at = NULL;
}

void vhost_log_buffers(struct vhost_device *device)
{
	assert_int_equal(vhost_start_log(device->fd, device->features, &device->log), 0);
}

void vhost_log_rings(struct vhost_device *device)
{
	for (unsigned int i = 0; i < VHOST_QUEUES; i++) {
		const struct vhost_queue *queue = &device->queues[i];

		assert_int_equal(vhost_log_ring(device->fd, queue->address,
						device->slot->gpa + queue->used_offset),
				 0);
	}
}

void vhost_log_no_buffers(struct vhost_device *device)
{
	uint64_t base = (uintptr_t)device->log.at;

	vhost_call(device, VHOST_SET_LOG_BASE, &base);
}

void vhost_mark(const struct vhost_device *device, uint64_t offset, uint64_t bytes)
{
	assert_int_equal(dl_mark_slot(device->rig->log, device->slot->slot, offset, bytes), 0);
}

void vhost_offer(struct vhost_device *device, unsigned int index, uint64_t offset, uint32_t bytes,
		 uint16_t flags)
{
	struct vhost_queue *queue = &device->queues[index];
	uint16_t entry = queue->offered % VHOST_QUEUE_ENTRIES;

	assert_true((uint16_t)(queue->offered - queue->consumed) < VHOST_QUEUE_ENTRIES);
	assert_in_range(offset + bytes, bytes, device->slot->bytes);
	queue->ring.desc[entry] = (struct vring_desc){
		.addr = device->slot->gpa + offset,
		.len = bytes,
		.flags = flags,
	};
	queue->ring.avail->ring[entry] = entry;
	__atomic_store_n(&queue->ring.avail->idx, ++queue->offered, __ATOMIC_RELEASE);
	vhost_mark(device, queue->offset, device->rig->page_bytes);
}

static void wait_for(int event_fd)
{
	uint64_t events;

	assert_int_equal(read(event_fd, &events, sizeof(events)), sizeof(events));
}

void vhost_kick(const struct vhost_device *device, unsigned int index)
{
	const uint64_t one = 1;

	assert_int_equal(write(device->queues[index].kick_fd, &one, sizeof(one)), sizeof(one));
}

uint64_t vhost_consume(struct vhost_device *device, unsigned int index, uint32_t *bytes)
{
	struct vhost_queue *queue = &device->queues[index];
	const struct vring_used_elem *used;

	while (__atomic_load_n(&queue->ring.used->idx, __ATOMIC_ACQUIRE) == queue->consumed)
		wait_for(queue->call_fd);
	used = &queue->ring.used->ring[queue->consumed++ % VHOST_QUEUE_ENTRIES];
	assert_in_range(used->id, 0, VHOST_QUEUE_ENTRIES - 1);
	*bytes = used->len;
	return queue->ring.desc[used->id].addr - device->slot->gpa;
}

/* The ioctl takes the queue's mutex, which the kernel's worker holds until it has logged. */
void vhost_settle(const struct vhost_device *device)
{
	for (unsigned int i = 0; i < VHOST_QUEUES; i++) {
		struct vhost_vring_state state = { .index = i };

		vhost_call(device, VHOST_GET_VRING_BASE, &state);
	}
}
