/* SPDX-License-Identifier: MIT */
#ifndef DLI_BITMAP_H
#define DLI_BITMAP_H

#include "kvm/vm.h"

#include <endian.h>

/* KVM's bitmap of a slot: little-endian, one bit a host page, in whole 64-bit words. */

/* A resident buffer for the bitmap of the largest slot. */
struct dli_bitmap_buffer {
	void *memory;
	size_t bytes;	    /* usable, a multiple of the page size; a guard page follows */
	size_t guard_bytes; /* one page */
};

static inline uint64_t dli_bitmap_words(uint64_t pages)
{
	return pages / 64 + (pages % 64 != 0);
}

/* Makes room for a slot of that many pages. The buffer never shrinks. */
int dli_bitmap_reserve(struct dli_bitmap_buffer *buffer, const struct dl_os *os, uint64_t pages);
void dli_bitmap_release(struct dli_bitmap_buffer *buffer, const struct dl_os *os);

/*
 * Returns the place for the bitmap of a slot of that many pages. It ends at the guard page: if the
 * VMM has replaced the slot by a larger one behind the library, KVM_GET_DIRTY_LOG fails with
 * -EFAULT instead of overwriting other memory.
 */
static inline uint64_t *dli_bitmap_at(const struct dli_bitmap_buffer *buffer, uint64_t pages)
{
	return (uint64_t *)((char *)buffer->memory + buffer->bytes) - dli_bitmap_words(pages);
}

/* KVM_GET_DIRTY_LOG of a whole slot. words are in the kernel's byte order: dli_bitmap_word(). */
int dli_bitmap_get(struct dli_vm *vm, uint32_t slot, uint64_t *words);

static inline uint64_t dli_bitmap_word(uint64_t word)
{
	return le64toh(word);
}

/*
 * KVM_CLEAR_DIRTY_LOG of pages from first_page on. Both are multiples of 64, unless the range
 * reaches the slot's end. words are in host byte order and are overwritten.
 */
int dli_bitmap_clear(struct dli_vm *vm, uint32_t slot, uint64_t first_page, uint32_t pages,
		     uint64_t *words);

#endif
