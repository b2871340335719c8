/* SPDX-License-Identifier: MIT */
/* KVM_CHECK_EXTENSION and KVM_ENABLE_CAP, with checks in the kernel's order. */
#include <errno.h>

#include "internal.h"

#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_USER_MEMORY2
#define KVM_CAP_USER_MEMORY2 231
#endif

static uint32_t manual_protect_options(const struct model *model)
{
	if (!has(model, MODEL_HAS_MANUAL_PROTECT))
		return 0;
	if (!has(model, MODEL_HAS_INITIALLY_SET))
		return KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	return KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
}

int mk_check_extension(struct model *model, uintptr_t cap)
{
	const struct model_options *options = &model->options;

	switch (cap) {
	case KVM_CAP_DIRTY_LOG_RING:
		return has(model, MODEL_HAS_RING_TSO) ? (int)options->ring_max_bytes : 0;
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		return has(model, MODEL_HAS_RING_ACQ_REL) ? (int)options->ring_max_bytes : 0;
	case KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP:
		return has(model, MODEL_HAS_BACKUP);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return (int)manual_protect_options(model);
	case KVM_CAP_NR_MEMSLOTS:
		return (int)options->slot_ids;
	case KVM_CAP_MULTI_ADDRESS_SPACE:
		return options->address_spaces > 1 ? (int)options->address_spaces : 0;
	case KVM_CAP_USER_MEMORY:
	case KVM_CAP_DESTROY_MEMORY_REGION_WORKS:
	case KVM_CAP_READONLY_MEM:
	case KVM_CAP_ENABLE_CAP_VM:
	case KVM_CAP_CHECK_EXTENSION_VM:
	case KVM_CAP_IMMEDIATE_EXIT:
		return 1;
	case KVM_CAP_USER_MEMORY2:
	case KVM_CAP_GUEST_MEMFD:
		return options->has_guest_memfd;
	default:
		return 0;
	}
}

static int enable_ring(struct model_vm *vm, uint32_t bytes)
{
	const struct model_options *options = &vm->model->options;
	int result = 0;

	if (!bytes || (bytes & (bytes - 1)))
		return -EINVAL;
	if (bytes < options->reserved_entries * sizeof(struct kvm_dirty_gfn) ||
	    bytes < options->page_bytes || bytes < options->ring_min_bytes)
		return -EINVAL;
	if (bytes > options->ring_max_bytes)
		return -E2BIG;
	pthread_mutex_lock(&vm->lock);
	if (vm->ring_bytes || vm->vcpu_count)
		result = -EINVAL;
	else
		vm->ring_bytes = bytes;
	pthread_mutex_unlock(&vm->lock);
	return result;
}

static int enable_backup(struct model_vm *vm, uint32_t flags)
{
	int result = 0;
	uint32_t i;

	if (!has(vm->model, MODEL_HAS_BACKUP) || !vm->ring_bytes || flags)
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	for (i = 0; i < vm->model->options.address_spaces; i++)
		if (vm->spaces[i].count)
			result = -EINVAL;
	if (!result)
		vm->ring_with_bitmap = true;
	pthread_mutex_unlock(&vm->slots_lock);
	return result;
}

static int enable_manual_protect(struct model_vm *vm, const struct kvm_enable_cap *cap)
{
	uint64_t allowed = manual_protect_options(vm->model);

	/* INITIALLY_SET is only valid together with ENABLE. */
	if (!(cap->args[0] & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE))
		allowed &= KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	if (!has(vm->model, MODEL_HAS_MANUAL_PROTECT) || cap->flags || (cap->args[0] & ~allowed))
		return -EINVAL;
	vm->manual_protect = (uint32_t)cap->args[0];
	return 0;
}

int mk_enable_cap(struct model_vm *vm, const struct kvm_enable_cap *cap)
{
	switch (cap->cap) {
	case KVM_CAP_DIRTY_LOG_RING:
	case KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
		if (!mk_check_extension(vm->model, cap->cap))
			return -EINVAL;
		/* The kernel truncates the size to 32 bits too, and ignores flags. */
		return enable_ring(vm, (uint32_t)cap->args[0]);
	case KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP:
		return enable_backup(vm, cap->flags);
	case KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2:
		return enable_manual_protect(vm, cap);
	default:
		return -EINVAL;
	}
}
