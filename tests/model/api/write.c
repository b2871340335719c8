/* SPDX-License-Identifier: MIT */
/* Writers that are no vCPU, and what all writers share. */
#include "api.h"

int dlmi_range_check(const struct dlm_vm *vm, uint64_t start, uint64_t bytes)
{
	if (start + bytes < start)
		return dlmi_fail(vm, -EINVAL, "the range %#llx + %#llx wraps",
				 (unsigned long long)start, (unsigned long long)bytes);
	return 0;
}

uint64_t dlmi_first_part(const struct dlm_vm *vm, uint64_t start, uint64_t bytes)
{
	uint64_t rest = vm->page_bytes - start % vm->page_bytes;

	return bytes < rest ? bytes : rest;
}

/* Odd in its top byte too, so that no part of it is the zero of fresh memory. */
uint64_t dlmi_new_value(struct dlm_vm *vm)
{
	return ++vm->values * UINT64_C(0x9e3779b97f4a7c15) | UINT64_C(0x0101010101010101);
}

static int refuse(const struct dlm_vm *vm, uint32_t as_id, uint64_t gpa)
{
	return dlmi_fail(vm, -EFAULT, "no memory that it may write at %#llx of address space %u",
			 (unsigned long long)gpa, as_id);
}

/* One page's part of a store. */
struct part {
	const char *who;
	uint32_t as_id;
	uint64_t gpa;
	const void *data;
	uint64_t bytes;
};

typedef int store_part(struct dlm_vm *vm, const struct part *part);

static int kernel_part(struct dlm_vm *vm, const struct part *part)
{
	return model_kernel_write(vm->model, vm->fd, part->as_id, part->gpa, part->data,
				  part->bytes);
}

/* Through the alias, if there is one. */
static void store_at(struct dlm_vm *vm, uint64_t hva, const struct part *part)
{
	uint64_t alias = dlmi_alias_of(vm, hva);
	void *at = (void *)(uintptr_t)(alias ? alias : hva);

	model_copy(at, part->data, part->bytes);
	if (alias)
		model_alias_wrote(vm->model, at, part->bytes);
}

static int vmm_part(struct dlm_vm *vm, const struct part *part)
{
	const struct dlm_write write = { .writer = DLM_WRITER_VMM,
					 .who = part->who,
					 .ns = mk_now_ns(vm->model) };
	const struct memslot *slot = NULL;
	uint64_t hva;

	mk_slots_read_lock(vm->model_vm);
	if (part->as_id < vm->model->options.address_spaces)
		slot = mk_slot_by_gpa(vm->model_vm, part->as_id, part->gpa);
	if (slot) {
		hva = slot->hva + (part->gpa - slot->gpa);
		store_at(vm, hva, part);
		dlmi_journal_add(vm, &write, hva, part->bytes);
	}
	mk_slots_read_unlock(vm->model_vm);
	return slot ? 0 : -EFAULT;
}

static int store(struct dlm_vm *vm, struct part part, uint64_t bytes, store_part *make)
{
	const char *data = part.data;
	uint64_t done, value;
	int result = 0;

	for (done = 0; !result && done < bytes; done += part.bytes, part.gpa += part.bytes) {
		struct part now = part;

		part.bytes = now.bytes = dlmi_first_part(vm, part.gpa, bytes - done);
		if (data) {
			now.data = data + done;
		} else {
			value = dlmi_new_value(vm);
			now.data = &value;
			now.bytes = now.bytes < sizeof(value) ? now.bytes : sizeof(value);
		}
		pthread_rwlock_rdlock(&vm->writes);
		result = make(vm, &now);
		pthread_rwlock_unlock(&vm->writes);
		if (result)
			refuse(vm, part.as_id, part.gpa);
	}
	return result;
}

int dlm_kernel_write(struct dlm_vm *vm, uint32_t as_id, uint64_t gpa, const void *data,
		     uint64_t bytes)
{
	const struct part part = { .as_id = as_id, .gpa = gpa, .data = data };
	int result = vm ? dlmi_range_check(vm, gpa, bytes) : -EINVAL;

	return result ? result : store(vm, part, bytes, kernel_part);
}

int dlm_vmm_write(struct dlm_vm *vm, const char *who, uint32_t as_id, uint64_t gpa,
		  const void *data, uint64_t bytes)
{
	const struct part part = { .who = who, .as_id = as_id, .gpa = gpa, .data = data };
	int result = vm ? dlmi_range_check(vm, gpa, bytes) : -EINVAL;

	return result ? result : store(vm, part, bytes, vmm_part);
}

int dlm_vmm_wrote(struct dlm_vm *vm, const char *who, const void *address, uint64_t bytes)
{
	struct dlm_write write = { .writer = DLM_WRITER_VMM, .who = who };
	int result = vm ? dlmi_range_check(vm, (uintptr_t)address, bytes) : -EINVAL;

	if (!result && !address)
		result = dlmi_fail(vm, -EINVAL, "address is NULL");
	if (result)
		return result;
	write.ns = mk_now_ns(vm->model);
	pthread_rwlock_rdlock(&vm->writes);
	model_alias_wrote(vm->model, address, bytes);
	dlmi_journal_add(vm, &write, dlmi_memory_of(vm, (uintptr_t)address), bytes);
	pthread_rwlock_unlock(&vm->writes);
	return 0;
}
