/* SPDX-License-Identifier: MIT */
#include "reference.h"

#include "bench.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define WORD_BITS (8 * sizeof(unsigned long))

static unsigned long *new_bitmap(uint64_t pages)
{
	void *memory = mmap(NULL, pages / 8 + 8, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (memory == MAP_FAILED)
		bench_die("mmap of a bitmap", errno);
	return memory;
}

void reference_open(struct reference *reference, struct kernel *kernel)
{
	memset(reference, 0, sizeof(*reference));
	reference->kernel = kernel;
	reference->pages = kernel->pages;
	reference->page_bytes = KERNEL_PAGE_BYTES;
	reference->guest_bytes = kernel->pages * reference->page_bytes;
	reference->slot_bitmap = new_bitmap(kernel->pages);
	reference->shared_bitmap = new_bitmap(kernel->pages);
	reference->migration_bitmap = new_bitmap(kernel->pages);
}

void reference_close(struct reference *reference)
{
	munmap(reference->slot_bitmap, reference->pages / 8 + 8);
	munmap(reference->shared_bitmap, reference->pages / 8 + 8);
	munmap(reference->migration_bitmap, reference->pages / 8 + 8);
}

static void mark(struct reference *reference, uint64_t page)
{
	if (page >= reference->guest_bytes / reference->page_bytes)
		return;
	__atomic_fetch_or(&reference->slot_bitmap[page / WORD_BITS], 1ul << page % WORD_BITS,
			  __ATOMIC_SEQ_CST);
}

void reference_reap(struct reference *reference)
{
	struct kernel *kernel = reference->kernel;
	bool any = false;

	for (uint32_t v = 0; v < kernel->vcpus; v++) {
		for (;;) {
			uint32_t *fetched = &reference->fetched[v];
			struct kvm_dirty_gfn *cell =
				&kernel->rings[v].cells[*fetched % kernel->entries];

			if (__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) !=
			    KVM_DIRTY_GFN_F_DIRTY)
				break;
			mark(reference, cell->slot * KERNEL_SLOT_PAGES + cell->offset);
			__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			(*fetched)++;
			any = true;
		}
	}
	if (any)
		bench_check(kernel_reset(kernel), "KVM_RESET_DIRTY_RINGS");
}

/* Merges the slot's bitmap into the shared one, and that into the migration's. */
static uint64_t merge(unsigned long *from, unsigned long *to, uint64_t pages)
{
	uint64_t words = (pages + WORD_BITS - 1) / WORD_BITS, new_pages = 0;

	for (uint64_t i = 0; i < words; i++) {
		unsigned long bits;

		if (!from[i])
			continue;
		bits = __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST);
		new_pages += (uint64_t)__builtin_popcountl(bits & ~to[i]);
		__atomic_fetch_or(&to[i], bits, __ATOMIC_SEQ_CST);
	}
	return new_pages;
}

/* Returns the first dirty page at or after page, or pages if there is none. */
static uint64_t find_next(const unsigned long *bitmap, uint64_t page, uint64_t pages)
{
	uint64_t word = page / WORD_BITS;
	unsigned long bits;

	if (page >= pages)
		return pages;
	bits = bitmap[word] & ~0ul << page % WORD_BITS;
	while (!bits) {
		if (++word * WORD_BITS >= pages)
			return pages;
		bits = bitmap[word];
	}
	return word * WORD_BITS + (uint64_t)__builtin_ctzl(bits);
}

uint64_t reference_sync(struct reference *reference)
{
	reference_reap(reference);
	(void)merge(reference->slot_bitmap, reference->shared_bitmap, reference->pages);
	return merge(reference->shared_bitmap, reference->migration_bitmap, reference->pages);
}

uint64_t reference_pass(struct reference *reference)
{
	uint64_t sent = 0, page = 0;

	(void)reference_sync(reference);
	while ((page = find_next(reference->migration_bitmap, page, reference->pages)) <
	       reference->pages) {
		reference->migration_bitmap[page / WORD_BITS] &= ~(1ul << page % WORD_BITS);
		sent++;
	}
	return sent;
}
