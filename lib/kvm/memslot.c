/* SPDX-License-Identifier: MIT */
/* KVM_SET_USER_MEMORY_REGION. */

#include "kvm/memslot.h"

#include "kvm/trace.h"
#include "kvm/uapi.h"

static int set_region(struct dli_vm *vm, const struct dli_memslot *memslot, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = memslot->slot,
		.flags = memslot->kvm_flags,
		.guest_phys_addr = memslot->gpa,
		.memory_size = bytes,
		.userspace_addr = memslot->hva,
	};

	int r = dli_vm_slot_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);

	DLI_TRACE_SLOT_CHANGE(memslot->slot, memslot->kvm_flags, memslot->gpa, bytes, r);
	return r;
}

int dli_memslot_set(struct dli_vm *vm, const struct dli_memslot *memslot)
{
	return set_region(vm, memslot, memslot->bytes);
}

int dli_memslot_delete(struct dli_vm *vm, const struct dli_memslot *memslot)
{
	return set_region(vm, memslot, 0);
}
