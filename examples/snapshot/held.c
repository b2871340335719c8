/* SPDX-License-Identifier: MIT */
#include "held.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int held_init(struct held *held, uint64_t room_bytes)
{
	void *memory;

	memset(held, 0, sizeof(*held));
	if (!room_bytes)
		return 0;
	held->room = room_bytes / 4096;
	held->ranges = malloc((held->room + 1) * sizeof(*held->ranges));
	memory = mmap(NULL, room_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	held->memory = memory == MAP_FAILED ? NULL : memory;
	held->room_bytes = room_bytes;
	if (held->ranges && held->memory) {
		/* Resident too. */
		memset(held->ranges, 1, (held->room + 1) * sizeof(*held->ranges));
		return 0;
	}
	held_free(held);
	return -ENOMEM;
}

void held_free(struct held *held)
{
	free(held->ranges);
	if (held->memory)
		munmap(held->memory, held->room_bytes);
	memset(held, 0, sizeof(*held));
}

bool held_add(struct held *held, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes)
{
	if (bytes > held->room_bytes - held->used_bytes || held->n == held->room)
		return false;
	memcpy(held->memory + held->used_bytes, memory, bytes);
	held->used_bytes += bytes;
	held->ranges[held->n++] = (struct held_range){ image_bytes, bytes };
	return true;
}

int held_write(struct held *held, struct file *file)
{
	uint64_t at = 0;
	int r = 0;

	for (uint64_t i = 0; !r && i < held->n; i++) {
		r = file_add(file, held->memory + at, held->ranges[i].image_bytes,
			     held->ranges[i].bytes);
		at += held->ranges[i].bytes;
	}
	return r ? r : file_flush(file);
}

void held_forget(struct held *held)
{
	held->n = held->used_bytes = 0;
}
