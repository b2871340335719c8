/* SPDX-License-Identifier: MIT */
#include "ram.h"

#include "hv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void *new_memory(size_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	hv_check(memory == MAP_FAILED ? -ENOMEM : 0, "memory of a RAM block");
	return memory;
}

static uint64_t *new_bitmap(uint64_t bits)
{
	uint64_t *words = calloc(ram_words(bits), sizeof(*words));

	hv_check(words ? 0 : -ENOMEM, "a bitmap");
	return words;
}

void ram_open(struct ram_block *block, const char *name, uint64_t pages, uint64_t max_pages,
	      uint32_t page_bytes)
{
	size_t bytes = max_pages * page_bytes;

	*block = (struct ram_block){
		.name = name, .pages = pages, .max_pages = max_pages, .page_bytes = page_bytes
	};
	block->host = new_memory(bytes);
	block->copy = new_memory(bytes);
	memset(block->copy, 0xa5, bytes);
	for (uint64_t page = 0; page < max_pages; page++)
		memset(block->host + page * page_bytes + page_bytes / 2, (int)page | 1, 64);
	for (int client = 0; client < RAM_CLIENTS; client++)
		block->dirty[client] = new_bitmap(max_pages);
	block->unclear = new_bitmap(max_pages / RAM_CHUNK_PAGES + 1);
	block->kept = new_bitmap(max_pages);
}

void ram_close(struct ram_block *block)
{
	munmap(block->host, block->max_pages * block->page_bytes);
	munmap(block->copy, block->max_pages * block->page_bytes);
	for (int client = 0; client < RAM_CLIENTS; client++)
		free(block->dirty[client]);
	free(block->unclear);
	free(block->kept);
}

uint64_t ram_value(const uint8_t *memory, const struct ram_block *block, uint64_t page,
		   enum ram_writer writer)
{
	const void *at = memory + page * block->page_bytes + ram_place(writer);

	return __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
}

bool ram_test(const uint64_t *bitmap, uint64_t page)
{
	return __atomic_load_n(&bitmap[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}

void ram_set(uint64_t *bitmap, uint64_t page)
{
	__atomic_fetch_or(&bitmap[page / 64], UINT64_C(1) << page % 64, __ATOMIC_SEQ_CST);
}

bool ram_test_and_clear(uint64_t *bitmap, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << page % 64;

	return __atomic_fetch_and(&bitmap[page / 64], ~bit, __ATOMIC_SEQ_CST) & bit;
}

uint64_t ram_count(const uint64_t *bitmap, uint64_t pages)
{
	uint64_t n = 0;

	for (uint64_t page = 0; page < pages; page++)
		n += ram_test(bitmap, page);
	return n;
}

uint64_t ram_next(const struct ram_block *block, const uint64_t *bitmap, uint64_t page)
{
	while (page < block->pages && !ram_test(bitmap, page))
		page++;
	return page;
}

static void dirty_page(struct ram_block *block, uint32_t clients, uint64_t page)
{
	for (int client = 0; client < RAM_CLIENTS; client++)
		if (clients & RAM_BIT(client))
			ram_set(block->dirty[client], page);
}

void ram_dirty(struct ram_block *block, uint32_t clients, uint64_t first, uint64_t pages)
{
	for (uint64_t page = first; page < first + pages; page++)
		dirty_page(block, clients, page);
}

/* The slot begins with a word of the block's bitmaps: whole words move. */
static void fan_out_words(struct ram_block *block, uint32_t clients, uint64_t first_word,
			  const uint64_t *words, uint64_t n)
{
	for (int client = 0; client < RAM_CLIENTS; client++) {
		uint64_t *to = block->dirty[client] + first_word;

		if (!(clients & RAM_BIT(client)))
			continue;
		for (uint64_t i = 0; i < n; i++)
			if (words[i])
				__atomic_fetch_or(&to[i], words[i], __ATOMIC_SEQ_CST);
	}
}

void ram_fan_out(struct ram_block *block, uint32_t clients, uint64_t first, const uint64_t *words,
		 uint64_t pages)
{
	if (first % 64 == 0) {
		fan_out_words(block, clients, first / 64, words, ram_words(pages));
		return;
	}
	for (uint64_t page = 0; page < pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			dirty_page(block, clients, first + page);
}

void ram_owe_clear(struct ram_block *block, uint64_t first, const uint64_t *words, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			ram_set(block->unclear, (first + page) / RAM_CHUNK_PAGES);
}
