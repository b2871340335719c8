/* SPDX-License-Identifier: MIT */
/* Receivers: how they get pages. */
#include <stdlib.h>

#include "api.h"

#define VM_OF(receiver) ((receiver) ? (receiver)->vm : NULL)

int dlm_receiver_new(struct dlm_vm *vm, uint32_t kind, struct dlm_receiver **out)
{
	struct dlm_receiver *receiver;
	int saved_errno = errno;

	if (out)
		*out = NULL;
	if (!vm || !out)
		return dlmi_fail(vm, -EINVAL, "receiver is NULL");
	if (kind != DLM_RECEIVER_GPA && kind != DLM_RECEIVER_MEMORY)
		return dlmi_fail(vm, -EINVAL, "kind: %u is unknown", kind);
	receiver = calloc(1, sizeof(*receiver));
	errno = saved_errno;
	if (!receiver)
		return dlmi_fail(vm, -ENOMEM, "no memory for a receiver");
	receiver->vm = vm;
	receiver->kind = kind;
	receiver->copies.entry_bytes = sizeof(struct dlm_copy);
	pthread_mutex_init(&receiver->lock, NULL);
	*out = receiver;
	return 0;
}

void dlm_receiver_free(struct dlm_receiver *receiver)
{
	if (!receiver)
		return;
	dlmi_copies_free(receiver);
	pthread_mutex_destroy(&receiver->lock);
	free(receiver);
}

int dlm_receiver_pass(struct dlm_receiver *receiver)
{
	if (!receiver)
		return -EINVAL;
	pthread_mutex_lock(&receiver->lock);
	pthread_rwlock_wrlock(&receiver->vm->writes);
	receiver->pass++;
	receiver->pass_writes = dlm_writes(receiver->vm);
	receiver->pass_placed = receiver->vm->model_vm->slots_placed;
	pthread_rwlock_unlock(&receiver->vm->writes);
	pthread_mutex_unlock(&receiver->lock);
	return 0;
}

/* Keeps one page. Returns 0, -EEXIST or -ENOMEM. */
static int keep(struct dlm_receiver *receiver, uint64_t key, const void *data, bool is_exact)
{
	/* Before the contents are read: the copy has every write up to this one. */
	uint64_t after = dlm_writes(receiver->vm);
	struct dlm_copy *copy = dlmi_copy_get(receiver, key);
	int result = 0;

	if (!copy)
		return dlmi_fail(receiver->vm, -ENOMEM, "no memory for the receiver's copy");
	if (receiver->pass && copy->pass == receiver->pass)
		result = dlmi_fail(receiver->vm, -EEXIST,
				   "a page was put twice in one pass of the receiver");
	model_copy(copy->data, data, receiver->vm->page_bytes);
	copy->pass = receiver->pass;
	copy->after = after;
	copy->ns = mk_now_ns(receiver->vm->model);
	copy->is_exact = is_exact;
	receiver->given_pages++;
	return result;
}

static int keep_memory(struct dlm_receiver *receiver, const struct dlm_slots *slots, uint64_t hva,
		       uint64_t bytes)
{
	int result = 0, r;

	for (uint64_t at = hva; at < hva + bytes; at += receiver->vm->page_bytes) {
		r = keep(receiver, dlmi_key(receiver, dlmi_home(slots, at), at),
			 (const void *)(uintptr_t)at, true);
		if (r == -ENOMEM)
			return r;
		result = r ? r : result;
	}
	return result;
}

static int check_extent(const struct dlm_receiver *receiver, const struct dlm_slots *slots,
			const struct dl_extent *extent)
{
	const struct dlm_place *place = dlmi_place_named(slots, extent->slot);
	uint64_t page_bytes = receiver->vm->page_bytes;

	if (!extent->bytes || (extent->bytes | extent->offset_bytes) % page_bytes)
		return dlmi_fail(receiver->vm, -EINVAL,
				 "extent: offset %#llx, %#llx bytes: not made of pages of %llu",
				 (unsigned long long)extent->offset_bytes,
				 (unsigned long long)extent->bytes, (unsigned long long)page_bytes);
	if (!place || extent->offset_bytes >= place->bytes ||
	    extent->bytes > place->bytes - extent->offset_bytes ||
	    extent->gpa != place->gpa + extent->offset_bytes ||
	    extent->hva != place->hva + extent->offset_bytes)
		return dlmi_fail(receiver->vm, -EFAULT,
				 "extent: no slot %#x has %#llx bytes at %#llx", extent->slot,
				 (unsigned long long)extent->bytes,
				 (unsigned long long)extent->gpa);
	return 0;
}

/* Called with the receiver's lock held. */
static int put(struct dlm_receiver *receiver, const struct dl_extent *extents, uint32_t n_extents)
{
	struct dlm_slots slots;
	int result = dlmi_slots(receiver->vm, &slots), r = 0;

	if (result)
		return result;
	for (uint32_t i = 0; i < n_extents && (!r || r == -EEXIST); i++) {
		r = check_extent(receiver, &slots, &extents[i]);
		if (!r)
			r = keep_memory(receiver, &slots, extents[i].hva, extents[i].bytes);
		result = r ? r : result;
	}
	free(slots.places);
	return result;
}

int dlm_receiver_put(struct dlm_receiver *receiver, const struct dl_extent *extents,
		     uint32_t n_extents)
{
	int saved_errno = errno, result;

	if (!receiver || (!extents && n_extents))
		return dlmi_fail(VM_OF(receiver), -EINVAL, "extents is NULL");
	pthread_mutex_lock(&receiver->lock);
	result = put(receiver, extents, n_extents);
	pthread_mutex_unlock(&receiver->lock);
	errno = saved_errno;
	return result;
}

/* Where contents that were sent belong: an address of one of the two kinds. */
struct target {
	uint32_t kind;
	uint32_t as_id;
	uint64_t address;
};

static int check_target(const struct dlm_receiver *receiver, const struct target *target,
			const void *data, uint64_t bytes)
{
	struct dlm_vm *vm = receiver->vm;

	if (receiver->kind != target->kind)
		return dlmi_fail(vm, -EBUSY, "the receiver is of the other kind");
	if (!data || !bytes || (target->address | bytes) % vm->page_bytes)
		return dlmi_fail(vm, -EINVAL, "%#llx bytes for %#llx: not made of pages of %llu",
				 (unsigned long long)bytes, (unsigned long long)target->address,
				 (unsigned long long)vm->page_bytes);
	if (target->as_id >= vm->model->options.address_spaces)
		return dlmi_fail(vm, -EINVAL, "as_id: %u is no address space", target->as_id);
	return dlmi_range_check(vm, target->address, bytes);
}

/* The destination maps the memory of several slots as the source does. */
static uint64_t key_at(const struct dlm_receiver *receiver, const struct dlm_slots *slots,
		       const struct target *target, uint64_t at)
{
	uint64_t address = target->address + at, hva;
	const struct dlm_place *place;
	const struct dlm_place raw = { .slot = target->as_id << 16, .gpa = address };

	if (target->kind == DLM_RECEIVER_MEMORY)
		return dlmi_key(receiver, NULL, address);
	place = dlmi_place_at(slots, target->as_id, address);
	if (!place)
		return dlmi_key(receiver, &raw, 0);
	hva = place->hva + (address - place->gpa);
	return dlmi_key(receiver, dlmi_home(slots, hva), hva);
}

static int put_data(struct dlm_receiver *receiver, const struct target *target, const char *data,
		    uint64_t bytes)
{
	struct dlm_slots slots;
	int result, r = 0;

	result = check_target(receiver, target, data, bytes);
	if (!result)
		result = dlmi_slots(receiver->vm, &slots);
	if (result)
		return result;
	pthread_mutex_lock(&receiver->lock);
	for (uint64_t at = 0; at < bytes && r != -ENOMEM; at += receiver->vm->page_bytes) {
		r = keep(receiver, key_at(receiver, &slots, target, at), data + at, false);
		result = r ? r : result;
	}
	pthread_mutex_unlock(&receiver->lock);
	free(slots.places);
	return result;
}

int dlm_receiver_put_gpa(struct dlm_receiver *receiver, uint32_t as_id, uint64_t gpa,
			 const void *data, uint64_t bytes)
{
	const struct target target = { DLM_RECEIVER_GPA, as_id, gpa };

	return receiver ? put_data(receiver, &target, data, bytes) : -EINVAL;
}

int dlm_receiver_put_memory(struct dlm_receiver *receiver, const void *address, const void *data,
			    uint64_t bytes)
{
	const struct target target = { DLM_RECEIVER_MEMORY, 0, (uintptr_t)address };

	return receiver ? put_data(receiver, &target, data, bytes) : -EINVAL;
}

int dlm_receiver_equalize(struct dlm_receiver *receiver)
{
	struct dlm_slots slots;
	int saved_errno = errno, result = 0;
	uint64_t pass;

	if (!receiver)
		return -EINVAL;
	result = dlmi_slots(receiver->vm, &slots);
	if (result)
		return result;
	pthread_mutex_lock(&receiver->lock);
	/* It belongs to no pass. */
	pass = receiver->pass;
	receiver->pass = 0;
	for (uint32_t i = 0; i < slots.count && !result; i++)
		result = keep_memory(receiver, &slots, slots.places[i].hva, slots.places[i].bytes);
	receiver->pass = pass;
	pthread_mutex_unlock(&receiver->lock);
	free(slots.places);
	errno = saved_errno;
	return result;
}

int dlm_receiver_pages(const struct dlm_receiver *receiver, uint64_t *given_pages,
		       uint64_t *kept_pages)
{
	struct dlm_receiver *writable = (struct dlm_receiver *)receiver;

	if (!receiver)
		return -EINVAL;
	pthread_mutex_lock(&writable->lock);
	if (given_pages)
		*given_pages = receiver->given_pages;
	if (kept_pages)
		*kept_pages = receiver->copies.count;
	pthread_mutex_unlock(&writable->lock);
	return 0;
}
