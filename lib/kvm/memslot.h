/* SPDX-License-Identifier: MIT */
#ifndef DLI_MEMSLOT_H
#define DLI_MEMSLOT_H

#include "kvm/vm.h"

/* A memslot as KVM_SET_USER_MEMORY_REGION takes it. */
struct dli_memslot {
	uint32_t slot; /* as_id << 16 | id */
	uint32_t kvm_flags;
	uint64_t gpa, bytes, hva;
};

/* Creates the memslot, or changes its address or flags. */
int dli_memslot_set(struct dli_vm *vm, const struct dli_memslot *memslot);

/* Deletes the memslot. */
int dli_memslot_delete(struct dli_vm *vm, const struct dli_memslot *memslot);

#endif
