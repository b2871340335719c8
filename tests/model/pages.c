/* SPDX-License-Identifier: MIT */
/* MMU state and dirty bitmap of a slot: sparse, one leaf for LEAF_PAGES pages. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "internal.h"

int mk_pages_new(struct memslot *slot)
{
	void *directory;

	slot->leaf_count = (slot->pages + LEAF_PAGES - 1) / LEAF_PAGES;
	slot->directory_bytes = slot->leaf_count * sizeof(*slot->leaves);
	directory = mmap(NULL, slot->directory_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (directory == MAP_FAILED)
		return -ENOMEM;
	/* Backing a single pointer with a huge page would make sparse slots expensive. */
	madvise(directory, slot->directory_bytes, MADV_NOHUGEPAGE);
	slot->leaves = directory;
	return 0;
}

void mk_pages_free(struct memslot *slot)
{
	uint64_t i;

	for (i = 0; i < slot->leaf_count; i++)
		free(slot->leaves[i]);
	munmap((void *)slot->leaves, slot->directory_bytes);
}

/* Bits of the page's 64-page word that lie inside the slot. */
uint64_t mk_word_valid_mask(const struct memslot *slot, uint64_t page)
{
	uint64_t first = page & ~63ULL;

	if (slot->pages - first >= 64)
		return ~0ULL;
	return (1ULL << (slot->pages - first)) - 1;
}

struct page_leaf *mk_leaf_find(const struct memslot *slot, uint64_t page)
{
	return slot->leaves[page / LEAF_PAGES];
}

static void leaf_fill_dirty(const struct memslot *slot, struct page_leaf *leaf, uint64_t page)
{
	uint32_t word;

	for (word = 0; word < LEAF_WORDS && page + word * 64 < slot->pages; word++)
		leaf->dirty[word] = mk_word_valid_mask(slot, page + word * 64);
}

struct page_leaf *mk_leaf_get(struct memslot *slot, uint64_t page)
{
	struct page_leaf *leaf = mk_leaf_find(slot, page), *other = NULL;

	if (leaf)
		return leaf;
	leaf = calloc(1, sizeof(*leaf));
	if (!leaf)
		abort();
	if (slot->absent_dirty)
		leaf_fill_dirty(slot, leaf, page / LEAF_PAGES * LEAF_PAGES);
	if (atomic_compare_exchange_strong(&slot->leaves[page / LEAF_PAGES], &other, leaf))
		return leaf;
	free(leaf);
	return other;
}

/* Sets or clears the whole bitmap. No GET, CLEAR or store may run. */
void mk_pages_set_dirty_all(struct memslot *slot, bool dirty)
{
	uint64_t i;
	uint32_t word;

	slot->absent_dirty = dirty;
	for (i = 0; i < slot->leaf_count; i++) {
		struct page_leaf *leaf = slot->leaves[i];

		if (leaf && dirty)
			leaf_fill_dirty(slot, leaf, i * LEAF_PAGES);
		for (word = 0; leaf && !dirty && word < LEAF_WORDS; word++)
			leaf->dirty[word] = 0;
	}
}

static void remember_stale(struct model_vm *vm, struct page_leaf *leaf, uint32_t word)
{
	if (vm->stale_count == vm->stale_room) {
		vm->stale_room = vm->stale_room ? vm->stale_room * 2 : 64;
		vm->stale = realloc(vm->stale, vm->stale_room * sizeof(*vm->stale));
		if (!vm->stale)
			abort();
	}
	vm->stale[vm->stale_count++] = (struct stale_word){ .leaf = leaf, .word = word };
}

/*
 * mmu_lock is held. Set stale before clearing writable: a store that misses writable must see
 * stale.
 */
static void protect_word(struct model_vm *vm, struct page_leaf *leaf, uint32_t word, uint64_t mask)
{
	uint64_t were_writable = leaf->writable[word] & mask;

	if (!were_writable)
		return;
	if (!atomic_fetch_or(&leaf->stale[word], were_writable))
		remember_stale(vm, leaf, word);
	atomic_fetch_and(&leaf->writable[word], ~were_writable);
}

/* Without a bitmap arm64 does not split huge pages: it maps and protects them as a whole. */
static uint64_t huge_page_pages(struct model_vm *vm, const struct memslot *slot)
{
	if (!vm->model->options.ring_alone_loses_huge_pages || slot->has_bitmap)
		return 0;
	return vm->model->options.page_bytes / 8;
}

static void for_huge_page(struct model_vm *vm, struct memslot *slot, uint64_t page, uint64_t pages,
			  bool writable)
{
	uint64_t p, first = page / pages * pages;

	for (p = first; p < first + pages && p < slot->pages; p += 64) {
		struct page_leaf *leaf = mk_leaf_get(slot, p);
		uint32_t word = p % LEAF_PAGES / 64;

		if (writable)
			atomic_fetch_or(&leaf->writable[word], mk_word_valid_mask(slot, p));
		else
			protect_word(vm, leaf, word, ~0ULL);
	}
}

/* Sets every bit from the lowest to the highest set one. */
static uint64_t filled(uint64_t mask)
{
	return mask ? ~0ULL >> __builtin_clzll(mask) & ~0ULL << __builtin_ctzll(mask) : 0;
}

/* Protects page + i for every bit i of the mask (arm64: also those between). No TLB flush. */
void mk_pages_protect(struct model_vm *vm, struct memslot *slot, uint64_t page, uint64_t mask)
{
	uint64_t huge_pages = huge_page_pages(vm, slot);
	struct page_leaf *leaf;
	unsigned shift = page % 64;

	if (vm->model->options.protects_ranges)
		mask = filled(mask);
	pthread_mutex_lock(&vm->mmu_lock);
	if (huge_pages) {
		for (; mask; mask &= mask - 1)
			for_huge_page(vm, slot, page + (uint64_t)__builtin_ctzll(mask), huge_pages,
				      false);
	} else {
		leaf = mk_leaf_find(slot, page);
		if (leaf)
			protect_word(vm, leaf, page % LEAF_PAGES / 64, mask << shift);
		if (shift && mask >> (64 - shift)) {
			page = (page & ~63ULL) + 64;
			leaf = mk_leaf_find(slot, page);
			if (leaf)
				protect_word(vm, leaf, page % LEAF_PAGES / 64,
					     mask >> (64 - shift));
		}
	}
	pthread_mutex_unlock(&vm->mmu_lock);
}

void mk_pages_protect_all(struct model_vm *vm, struct memslot *slot)
{
	uint64_t i;
	uint32_t word;

	pthread_mutex_lock(&vm->mmu_lock);
	for (i = 0; i < slot->leaf_count; i++) {
		struct page_leaf *leaf = slot->leaves[i];

		for (word = 0; leaf && word < LEAF_WORDS; word++)
			protect_word(vm, leaf, word, ~0ULL);
	}
	pthread_mutex_unlock(&vm->mmu_lock);
	mk_tlb_flush(vm);
}

/* To a store, an unmapped page is the same as a protected one. */
void mk_pages_unmap_all(struct model_vm *vm, struct memslot *slot)
{
	mk_pages_protect_all(vm, slot);
}

void mk_pages_map_writable(struct model_vm *vm, struct memslot *slot, uint64_t page)
{
	uint64_t huge_pages = huge_page_pages(vm, slot);

	if (huge_pages)
		for_huge_page(vm, slot, page, huge_pages, true);
	else
		atomic_fetch_or(&mk_leaf_get(slot, page)->writable[page % LEAF_PAGES / 64],
				1ULL << page % 64);
}

/* The caller holds its vCPU's guest_lock until it has stored. */
bool mk_page_store_allowed(struct page_leaf *leaf, uint64_t page)
{
	uint32_t word = page % LEAF_PAGES / 64;
	uint64_t bit = 1ULL << page % 64;

	return (leaf->writable[word] & bit) || (leaf->stale[word] & bit);
}

/*
 * The interrupt to all vCPUs: clear the stale bits, then wait for stores that may have seen them.
 */
void mk_tlb_flush(struct model_vm *vm)
{
	uint32_t i, count = vm->vcpu_count;
	size_t s;

	pthread_mutex_lock(&vm->mmu_lock);
	for (s = 0; s < vm->stale_count; s++)
		vm->stale[s].leaf->stale[vm->stale[s].word] = 0;
	vm->stale_count = 0;
	pthread_mutex_unlock(&vm->mmu_lock);
	for (i = 0; i < count; i++) {
		pthread_mutex_lock(&vm->vcpus[i]->guest_lock);
		pthread_mutex_unlock(&vm->vcpus[i]->guest_lock);
	}
}

void model_flush_tlb(struct model *model, int vm_fd)
{
	struct model_vm *vm = mk_find_vm(model, vm_fd);

	if (vm)
		mk_tlb_flush(vm);
}
