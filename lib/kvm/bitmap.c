/* SPDX-License-Identifier: MIT */
/* KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG of one slot. */

#include "kvm/bitmap.h"

#include "kvm/uapi.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

int dli_bitmap_reserve(struct dli_bitmap_buffer *buffer, const struct dl_os *os, uint64_t pages)
{
	size_t page_bytes = dli_os_page_bytes(os),
	       bytes = dli_bitmap_words(pages) * sizeof(uint64_t);
	void *memory;
	int r;

	bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
	if (bytes <= buffer->bytes)
		return 0;
	r = dli_os_reserve(os, bytes + page_bytes, &memory);
	if (r)
		return r;
	/* -EOPNOTSUPP: the caller's table has no mprotect. */
	r = dli_os_forbid(os, (char *)memory + bytes, page_bytes);
	if (r && r != -EOPNOTSUPP) {
		dli_os_unmap(os, memory, bytes + page_bytes);
		return r;
	}
	/*
	 * A GET that cannot write here fails after it has cleared the kernel's bits. So the memory
	 * is resident beforehand, and is not freed while logging.
	 */
	memset(memory, 0, bytes);
	dli_bitmap_release(buffer, os);
	*buffer = (struct dli_bitmap_buffer){ memory, bytes, page_bytes };
	return 0;
}

void dli_bitmap_release(struct dli_bitmap_buffer *buffer, const struct dl_os *os)
{
	dli_os_unmap(os, buffer->memory, buffer->bytes + buffer->guard_bytes);
	*buffer = (struct dli_bitmap_buffer){ 0 };
}

int dli_bitmap_get(struct dli_vm *vm, uint32_t slot, uint64_t *words)
{
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = words };

	/* Not repeated: it may have cleared the bits before it failed. */
	return dli_vm_slot_ioctl_once(vm, KVM_GET_DIRTY_LOG, &log);
}

int dli_bitmap_clear(struct dli_vm *vm, uint32_t slot, uint64_t first_page, uint32_t pages,
		     uint64_t *words)
{
	struct kvm_clear_dirty_log clear = {
		.slot = slot,
		.first_page = first_page,
		.num_pages = pages,
		.dirty_bitmap = words,
	};

	for (uint64_t i = 0; i < dli_bitmap_words(pages); i++)
		words[i] = htole64(words[i]);
	return dli_vm_slot_ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear);
}
