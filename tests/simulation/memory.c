/* SPDX-License-Identifier: MIT */
/*
 * Memory and files of one run. Freed memory is poisoned and not reused before the run ends, so
 * that a read of it returns nonsense and a write to it is found at the end. Under the address
 * sanitizer every piece is an allocation of its own instead.
 */
#include "stand_ins.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED_BY_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_BY_ASAN 1
#endif
#endif
#ifndef WATCHED_BY_ASAN
#define WATCHED_BY_ASAN 0
#endif

enum {
	ARENA_BYTES = 16 << 20,
	FILES = 64,
	FIRST_FILE = 1000,
	LIVE = 0x11fe,
	FREED = 0xf4ee,
	POISON = 0xdb,
};

struct piece {
	alignas(16) size_t bytes;
	uint32_t state;
	struct piece *next;
};

struct file {
	bool used;
	char *memory;
	size_t bytes, room;
};

static alignas(64) char arena[ARENA_BYTES];
static size_t arena_used;
static struct piece *pieces;
static uint64_t live_pieces;
static struct file files[FILES];

uint32_t sim_allocations_until_failure;

static struct piece *piece_new(size_t bytes)
{
	size_t whole = (sizeof(struct piece) + bytes + 15) & ~(size_t)15;
	struct piece *piece;

	if (WATCHED_BY_ASAN) {
		piece = calloc(1, sizeof(*piece) + bytes);
		if (!piece)
			abort();
		return piece;
	}
	if (whole > ARENA_BYTES - arena_used)
		sim_fail(SIM_MEMORY, "the memory of the run is exhausted");
	piece = (struct piece *)(void *)(arena + arena_used);
	arena_used += whole;
	return piece;
}

void *sim_allocate(size_t bytes, bool of_library)
{
	struct piece *piece;

	if (of_library && sim_allocations_until_failure && !--sim_allocations_until_failure) {
		sim_trace("an allocation fails");
		return NULL;
	}
	piece = piece_new(bytes);
	piece->bytes = bytes;
	piece->state = LIVE;
	piece->next = pieces;
	pieces = piece;
	live_pieces++;
	return piece + 1;
}

void sim_free(void *memory)
{
	struct piece *piece;

	if (!memory)
		return;
	piece = (struct piece *)memory - 1;
	if (piece->state != LIVE)
		sim_fail(SIM_MEMORY, "freed twice, or never allocated: %p", memory);
	live_pieces--;
	piece->state = FREED;
	if (WATCHED_BY_ASAN) {
		struct piece **at = &pieces;

		while (*at != piece)
			at = &(*at)->next;
		*at = piece->next;
		free(piece);
		return;
	}
	memset(memory, POISON, piece->bytes);
}

void *sim_reallocate(void *memory, size_t bytes)
{
	void *grown = sim_allocate(bytes, false);
	size_t old_bytes = memory ? ((struct piece *)memory - 1)->bytes : 0;

	if (old_bytes)
		memcpy(grown, memory, old_bytes < bytes ? old_bytes : bytes);
	sim_free(memory);
	return grown;
}

static bool is_poisoned(const struct piece *piece)
{
	const unsigned char *at = (const unsigned char *)(piece + 1);

	for (size_t i = 0; i < piece->bytes; i++)
		if (at[i] != POISON)
			return false;
	return true;
}

uint64_t sim_memory_left(void)
{
	return live_pieces;
}

bool sim_memory_written_after_free(void)
{
	for (struct piece *piece = pieces; piece && !WATCHED_BY_ASAN; piece = piece->next)
		if (piece->state == FREED && !is_poisoned(piece))
			return true;
	return false;
}

void sim_memory_reset(void)
{
	while (WATCHED_BY_ASAN && pieces) {
		struct piece *next = pieces->next;

		free(pieces);
		pieces = next;
	}
	memset(arena, 0, arena_used);
	arena_used = 0;
	pieces = NULL;
	live_pieces = 0;
	memset(files, 0, sizeof(files));
	sim_allocations_until_failure = 0;
}

static struct file *file_of(int file)
{
	return &files[file - FIRST_FILE];
}

int sim_file_new(void)
{
	int i = 0;

	while (i < FILES && files[i].used)
		i++;
	if (i == FILES)
		abort();
	files[i] = (struct file){ .used = true };
	return FIRST_FILE + i;
}

/* The file of a mapped ring keeps its size, so a resize never moves mapped memory. */
int sim_file_resize(int number, size_t bytes)
{
	struct file *file = file_of(number);

	if (bytes > file->room) {
		char *grown = sim_allocate(bytes, false);

		if (file->bytes)
			memcpy(grown, file->memory, file->bytes);
		sim_free(file->memory);
		file->memory = grown;
		file->room = bytes;
	} else if (bytes > file->bytes) {
		memset(file->memory + file->bytes, 0, bytes - file->bytes);
	}
	file->bytes = bytes;
	return 0;
}

int sim_file_close(int number)
{
	sim_free(file_of(number)->memory);
	*file_of(number) = (struct file){ .used = false };
	return 0;
}

void *sim_file_map(int number, size_t bytes, size_t offset_bytes)
{
	if (number < 0)
		return sim_allocate(bytes, false);
	return file_of(number)->memory + offset_bytes;
}

const void *sim_file_around(const void *address)
{
	for (size_t i = 0; i < FILES; i++)
		if (files[i].used && (const char *)address >= files[i].memory &&
		    (const char *)address < files[i].memory + files[i].room)
			return files[i].memory;
	return NULL;
}

/* The memory of a file is freed with the file. */
int sim_file_unmap(void *memory)
{
	for (int i = 0; i < FILES; i++)
		if (files[i].used && (char *)memory >= files[i].memory &&
		    (char *)memory < files[i].memory + files[i].room)
			return 0;
	sim_free(memory);
	return 0;
}

long sim_file_read(int number, void *to, size_t bytes, size_t offset_bytes)
{
	memcpy(to, file_of(number)->memory + offset_bytes, bytes);
	return (long)bytes;
}

long sim_file_write(int number, const void *from, size_t bytes, size_t offset_bytes)
{
	struct file *file = file_of(number);

	if (offset_bytes + bytes > file->bytes)
		sim_file_resize(number, offset_bytes + bytes);
	memcpy(file->memory + offset_bytes, from, bytes);
	return (long)bytes;
}
