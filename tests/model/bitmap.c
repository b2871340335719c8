/* SPDX-License-Identifier: MIT */
/* KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG. Their bitmaps are little-endian on every machine. */
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

#include "internal.h"

/* Clears bits in a word of the bitmap and protects their pages. */
static uint64_t take_bits(struct model_vm *vm, struct memslot *slot, uint64_t page, uint64_t mask)
{
	struct page_leaf *leaf = mk_leaf_find(slot, page);

	if (!leaf && !slot->absent_dirty)
		return 0;
	leaf = mk_leaf_get(slot, page);
	mask &= atomic_fetch_and(&leaf->dirty[page % LEAF_PAGES / 64], ~mask);
	if (mask)
		mk_pages_protect(vm, slot, page, mask);
	return mask;
}

static bool write_all(int fd, const void *from, size_t bytes, uint64_t offset_bytes)
{
	return pwrite(fd, from, bytes, (off_t)offset_bytes) == (ssize_t)bytes;
}

/* Writes the leaf's part of the bitmap to the file; parts without a bit stay holes. */
static int collect_leaf(struct model_vm *vm, struct memslot *slot, uint64_t leaf_index, bool *taken)
{
	uint64_t words[LEAF_WORDS] = { 0 }, any = 0;
	uint64_t page = leaf_index * LEAF_PAGES;
	struct page_leaf *leaf = mk_leaf_find(slot, page);
	uint32_t i, count;

	if (!leaf && !slot->absent_dirty)
		return 0;
	for (count = 0; count < LEAF_WORDS && page + count * 64 < slot->pages; count++) {
		uint64_t first = page + count * 64;

		if (!vm->manual_protect)
			words[count] = take_bits(vm, slot, first, ~0ULL);
		else
			words[count] = leaf ? (uint64_t)leaf->dirty[count]
					    : mk_word_valid_mask(slot, first);
	}
	for (i = 0; i < count; i++) {
		any |= words[i];
		words[i] = htole64(words[i]);
	}
	if (!any)
		return 0;
	*taken = !vm->manual_protect;
	return write_all(vm->copy_memfd, words, count * sizeof(words[0]), page / 8) ? 0 : -ENOMEM;
}

/* pread() instead of memcpy(): a bad address is an error, not a crash. */
static int deliver(struct model_vm *vm, void *to, uint64_t bytes)
{
	uint64_t done = 0;

	while (done < bytes) {
		ssize_t n = pread(vm->copy_memfd, (char *)to + done, bytes - done, (off_t)done);

		if (n <= 0)
			return -EFAULT;
		done += (uint64_t)n;
	}
	return 0;
}

static int get_locked(struct model_vm *vm, const struct kvm_dirty_log *log, bool undelivered)
{
	struct memslot *slot;
	bool taken = false;
	uint64_t bytes, i;

	if (!uses_bitmap(vm))
		return -ENXIO;
	if (!mk_slot_name_valid(vm->model, log->slot))
		return -EINVAL;
	slot = mk_slot_by_id(vm, log->slot);
	if (!slot || !slot->has_bitmap)
		return -ENOENT;
	bytes = (slot->pages + 63) / 64 * 8;
	if (ftruncate(vm->copy_memfd, 0) || ftruncate(vm->copy_memfd, (off_t)bytes))
		return -ENOMEM;
	for (i = 0; i < slot->leaf_count; i++)
		if (collect_leaf(vm, slot, i, &taken))
			return -ENOMEM;
	if (taken) {
		mk_event_page(vm->model, MODEL_BITMAP_PROTECTED, vm->fd, slot->slot, 0);
		mk_tlb_flush(vm);
	}
	return undelivered ? 0 : deliver(vm, log->dirty_bitmap, bytes);
}

/* Asks the vCPUs to leave the guest, which flushes their PML buffers. Does not wait. */
static void kick_vcpus(struct model_vm *vm)
{
	uint32_t i, count = vm->vcpu_count;

	for (i = 0; i < count; i++)
		vm->vcpus[i]->kicked = true;
}

int mk_get_dirty_log(struct model_vm *vm, const struct model_call *call)
{
	int result;

	if (!call->arg)
		return -EFAULT;
	pthread_mutex_lock(&vm->slots_lock);
	kick_vcpus(vm);
	result = get_locked(vm, call->arg, call->undelivered);
	pthread_mutex_unlock(&vm->slots_lock);
	return result;
}

/* Copies the caller's bits into new memory. Returns NULL if they cannot be read. */
static uint64_t *fetch_bits(struct model_vm *vm, const void *from, uint64_t words)
{
	uint64_t *bits = malloc((words ? words : 1) * sizeof(*bits));
	size_t bytes = words * sizeof(*bits);

	if (bits && !ftruncate(vm->copy_memfd, 0) && write_all(vm->copy_memfd, from, bytes, 0) &&
	    pread(vm->copy_memfd, bits, bytes, 0) == (ssize_t)bytes)
		return bits;
	free(bits);
	return NULL;
}

static bool range_valid(const struct memslot *slot, const struct kvm_clear_dirty_log *log)
{
	uint64_t rest;

	if (log->first_page > slot->pages)
		return false;
	rest = slot->pages - log->first_page;
	return log->num_pages <= rest && (log->num_pages == rest || !(log->num_pages & 63));
}

static int clear_locked(struct model_vm *vm, const struct kvm_clear_dirty_log *log)
{
	uint64_t i, words = ((uint64_t)log->num_pages + 63) / 64;
	struct memslot *slot;
	uint64_t *bits;
	bool taken = false;

	if (!uses_bitmap(vm))
		return -ENXIO;
	if (!mk_slot_name_valid(vm->model, log->slot) || (log->first_page & 63))
		return -EINVAL;
	slot = mk_slot_by_id(vm, log->slot);
	if (!slot || !slot->has_bitmap)
		return -ENOENT;
	if (!range_valid(slot, log))
		return -EINVAL;
	bits = fetch_bits(vm, log->dirty_bitmap, words);
	if (!bits)
		return -EFAULT;
	for (i = 0; i < words; i++) {
		uint64_t mask = le64toh(bits[i]);

		if (mask && take_bits(vm, slot, log->first_page + i * 64, mask))
			taken = true;
	}
	free(bits);
	if (taken) {
		mk_event_page(vm->model, MODEL_BITMAP_PROTECTED, vm->fd, slot->slot,
			      log->first_page);
		mk_tlb_flush(vm);
	}
	return 0;
}

int mk_clear_dirty_log(struct model_vm *vm, const struct kvm_clear_dirty_log *log)
{
	int result;

	if (!log)
		return -EFAULT;
	pthread_mutex_lock(&vm->slots_lock);
	kick_vcpus(vm);
	result = clear_locked(vm, log);
	pthread_mutex_unlock(&vm->slots_lock);
	return result;
}
