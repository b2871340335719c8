/* SPDX-License-Identifier: MIT */
#ifndef VMM_RAM_H
#define VMM_RAM_H

/*
 * RAM blocks: memory of the guest, wherever and whether or not it is mapped. The destination of a
 * migration knows memory by block and offset. Each consumer inside the VMM has a bitmap of its own
 * on each block, which it takes pages from as it likes.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ram_client {
	RAM_MIGRATION,
	RAM_DISPLAY,
	RAM_CODE, /* what was translated from guest code */
	RAM_RATE,
	RAM_CLIENTS,
};

#define RAM_BIT(client) (1u << (client))
#define RAM_ALL		(RAM_BIT(RAM_CLIENTS) - 1)

/* Each writer has a word of its own in every page, whose value only grows. */
enum ram_writer {
	RAM_VCPU0,
	RAM_VCPU1,
	RAM_SCRIPT,	/* the vCPU of the test */
	RAM_SCRIPT_SMM, /* another, in the second address space */
	RAM_DEVICE,
	RAM_KERNEL,
	RAM_WRITERS,
};

enum { RAM_CHUNK_PAGES = 64 };

struct ram_block {
	const char *name;
	uint8_t *host, *copy; /* the destination's */
	uint64_t pages, max_pages;
	uint32_t page_bytes;
	uint64_t *dirty[RAM_CLIENTS];
	uint64_t *unclear; /* a bit a chunk: clear the log before the contents are read */
	uint64_t *kept;	   /* pages of slots that are gone, for slots to come */
};

void ram_open(struct ram_block *block, const char *name, uint64_t pages, uint64_t max_pages,
	      uint32_t page_bytes);
void ram_close(struct ram_block *block);

static inline uint64_t ram_words(uint64_t pages)
{
	return (pages + 63) / 64;
}

/* Offset of a writer's word in each page. */
static inline uint64_t ram_place(enum ram_writer writer)
{
	return ((uint64_t)writer + 1) * 64;
}

/* The value of a writer's word of a page. */
uint64_t ram_value(const uint8_t *memory, const struct ram_block *block, uint64_t page,
		   enum ram_writer writer);

bool ram_test(const uint64_t *bitmap, uint64_t page);
void ram_set(uint64_t *bitmap, uint64_t page);
bool ram_test_and_clear(uint64_t *bitmap, uint64_t page);
uint64_t ram_count(const uint64_t *bitmap, uint64_t pages);

/* The first dirty page from page on, or the number of pages. */
uint64_t ram_next(const struct ram_block *block, const uint64_t *bitmap, uint64_t page);

/* Makes a range dirty for clients, a mask of RAM_BIT(). */
void ram_dirty(struct ram_block *block, uint32_t clients, uint64_t first, uint64_t pages);

/* Hands pages of a slot, whose page 0 is the block's page first, to clients. */
void ram_fan_out(struct ram_block *block, uint32_t clients, uint64_t first, const uint64_t *words,
		 uint64_t pages);

/* Notes that these pages may still be writable unseen. */
void ram_owe_clear(struct ram_block *block, uint64_t first, const uint64_t *words, uint64_t pages);

#endif
