/* SPDX-License-Identifier: MIT */
/* The device's own mapping of its memory, which the log watches. */
#include "device_alias.h"

#include "model.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const struct layout_slot *slot_of(const struct device *device)
{
	return &device->machine->layout.slots[LAYOUT_DEVICE_SLOT];
}

/* A file with the contents of the slot's memory takes its place. */
static int map_twice(struct device *device, int fd)
{
	const struct layout_slot *slot = slot_of(device);
	uint8_t *memory = device->machine->memory + slot->offset_bytes;
	void *alias;

	if (ftruncate(fd, (off_t)slot->bytes))
		return -errno;
	alias = mmap(NULL, slot->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (alias == MAP_FAILED)
		return -errno;
	memcpy(alias, memory, slot->bytes);
	if (mmap(memory, slot->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED) {
		int r = -errno;

		munmap(alias, slot->bytes);
		return r;
	}
	device->alias = alias;
	return 0;
}

int device_alias_map(struct device *device)
{
	int fd = memfd_create("device", MFD_CLOEXEC), r;

	if (fd < 0)
		return -errno;
	r = map_twice(device, fd);
	close(fd);
	return r;
}

int device_alias_watch(struct device *device)
{
	if (!device->alias)
		return 0;
	return dl_slot_watch(device->log, LAYOUT_DEVICE_SLOT, device->alias,
			     device->audits ? DL_WATCH_AUDIT : 0);
}

void device_alias_unmap(struct device *device)
{
	if (!device->alias)
		return;
	(void)!dl_slot_watch(device->log, LAYOUT_DEVICE_SLOT, NULL, 0);
	munmap(device->alias, slot_of(device)->bytes);
	device->alias = NULL;
}

void device_store(struct device *device, uint64_t offset, const void *data, size_t bytes)
{
	uint8_t *at = device->machine->memory + offset;

	if (device->alias)
		at = device->alias + (offset - slot_of(device)->offset_bytes);
	memcpy(at, data, bytes);
	/* A page fault tells a real kernel. */
	if (device->alias && device->machine->model)
		model_alias_wrote(device->machine->model, at, bytes);
}

int device_drop_page(struct device *device, uint64_t offset)
{
	struct machine *machine = device->machine;
	bool is_file = device->alias || machine->memory_fd >= 0;

	return madvise(machine->memory + offset, machine->layout.page_bytes,
		       is_file ? MADV_REMOVE : MADV_DONTNEED)
		       ? -errno
		       : 0;
}
