/* SPDX-License-Identifier: MIT */
/* Stores by the guest and by the kernel. */
#include <errno.h>
#include <string.h>

#include "internal.h"

/* A store of data to guest memory (NULL: it is only counted). */
struct store {
	uint32_t as_id;
	uint64_t gpa;
	const char *data;
	size_t bytes;
};

void model_copy(void *to, const void *from, size_t bytes)
{
	char *t = to;
	const char *f = from;

	/* Copy whole words if both sides are aligned, so that no 8-byte record is torn. */
	while (bytes && (((uintptr_t)t | (uintptr_t)f) % 8 || bytes < 8)) {
		__atomic_store_n(t, __atomic_load_n(f, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
		t++;
		f++;
		bytes--;
	}
	for (; bytes >= 8; bytes -= 8, t += 8, f += 8)
		__atomic_store_n(
			(uint64_t *)(void *)t,
			__atomic_load_n((const uint64_t *)(const void *)f, __ATOMIC_RELAXED),
			__ATOMIC_RELAXED);
	if (bytes)
		model_copy(t, f, bytes);
}

static uint64_t page_of(const struct model_vm *vm, const struct memslot *slot, uint64_t gpa)
{
	return (gpa - slot->gpa) / vm->model->options.page_bytes;
}

static void make_store(struct model_vm *vm, struct model_vcpu *vcpu, struct memslot *slot,
		       const struct store *store)
{
	const struct model_options *options = &vm->model->options;
	const struct model_stored stored = { .vcpu_fd = vcpu ? vcpu->fd : -1,
					     .hva = slot->hva + (store->gpa - slot->gpa),
					     .bytes = store->bytes };
	uint64_t page = page_of(vm, slot, store->gpa);

	if (store->data && !options->no_memory)
		model_copy((void *)(uintptr_t)stored.hva, store->data, store->bytes);
	mk_leaf_get(slot, page)->writes[page % LEAF_PAGES]++;
	if (options->stored)
		options->stored(options->stored_opaque, &stored);
}

/* The kernel's mark_page_dirty(): into the loaded vCPU's ring, or the bitmap, or nowhere. */
static void mark_page(struct model_vm *vm, struct model_vcpu *vcpu, struct memslot *slot,
		      uint64_t page)
{
	if (!(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return;
	if (vm->ring_bytes && vcpu)
		mk_ring_push(vcpu, slot->slot, page);
	else if (slot->has_bitmap)
		atomic_fetch_or(&mk_leaf_get(slot, page)->dirty[page % LEAF_PAGES / 64],
				1ULL << page % 64);
}

/* Every exit to the host flushes the buffer, so this precedes the check for a full ring. */
static void flush_pml(struct model_vcpu *vcpu)
{
	struct model_vm *vm = vcpu->vm;
	struct memslot *slot;
	uint32_t i, count;

	pthread_mutex_lock(&vcpu->guest_lock);
	count = vcpu->pml_count;
	for (i = 0; i < count; i++) {
		slot = mk_slot_by_gpa(vm, vcpu->pml[i].as_id, vcpu->pml[i].gpa);
		if (slot)
			mark_page(vm, vcpu, slot, page_of(vm, slot, vcpu->pml[i].gpa));
	}
	vcpu->pml_count = 0;
	pthread_mutex_unlock(&vcpu->guest_lock);
}

/* The buffer has room, because it is flushed when it becomes full. */
static void log_to_pml(struct model_vcpu *vcpu, struct memslot *slot, const struct store *store)
{
	pthread_mutex_lock(&vcpu->guest_lock);
	pthread_mutex_lock(&vcpu->vm->mmu_lock);
	mk_pages_map_writable(vcpu->vm, slot, page_of(vcpu->vm, slot, store->gpa));
	pthread_mutex_unlock(&vcpu->vm->mmu_lock);
	vcpu->pml[vcpu->pml_count].as_id = store->as_id;
	vcpu->pml[vcpu->pml_count].gpa = store->gpa;
	vcpu->pml_count++;
	pthread_mutex_unlock(&vcpu->guest_lock);
}

static void log_then_map(struct model_vcpu *vcpu, struct memslot *slot, uint64_t page)
{
	struct model_vm *vm = vcpu->vm;

	pthread_mutex_lock(&vm->mmu_lock);
	mark_page(vm, vcpu, slot, page);
	mk_pages_map_writable(vm, slot, page);
	pthread_mutex_unlock(&vm->mmu_lock);
}

static void map_then_log(struct model_vcpu *vcpu, struct memslot *slot, uint64_t page)
{
	struct model_vm *vm = vcpu->vm;

	pthread_mutex_lock(&vm->mmu_lock);
	mk_pages_map_writable(vm, slot, page);
	pthread_mutex_unlock(&vm->mmu_lock);
	mk_event_page(vm->model, MODEL_GUEST_MAPPED, vcpu->fd, slot->slot, page);
	mark_page(vm, vcpu, slot, page);
}

static int full_exit(struct model_vcpu *vcpu)
{
	flush_pml(vcpu);
	vcpu->in_guest = false;
	vcpu->unnoticed_writes = 0;
	__atomic_store_n(&vcpu->run->exit_reason, KVM_EXIT_DIRTY_RING_FULL, __ATOMIC_RELAXED);
	return KVM_EXIT_DIRTY_RING_FULL;
}

/* Before the vCPU continues in the guest. */
static int check_full(struct model_vcpu *vcpu)
{
	if (++vcpu->unnoticed_writes < vcpu->vm->model->options.batch_writes)
		return 0;
	vcpu->unnoticed_writes = 0;
	return mk_ring_is_full(vcpu) ? full_exit(vcpu) : 0;
}

/* A store to a protected page exits to the host; then the guest retries the store. */
static int fault(struct model_vcpu *vcpu, struct memslot *slot, const struct store *store)
{
	const struct model_options *options = &vcpu->vm->model->options;
	uint64_t page = page_of(vcpu->vm, slot, store->gpa);
	bool logs = slot->flags & KVM_MEM_LOG_DIRTY_PAGES;

	if (logs && options->pml_entries) {
		log_to_pml(vcpu, slot, store);
		if (vcpu->pml_count < options->pml_entries)
			return 0;
		flush_pml(vcpu);
	} else if (options->write_order == MODEL_MAP_THEN_LOG) {
		map_then_log(vcpu, slot, page);
	} else {
		log_then_map(vcpu, slot, page);
	}
	if (logs)
		mk_event_page(vcpu->vm->model, MODEL_GUEST_LOGGED, vcpu->fd, slot->slot, page);
	return check_full(vcpu);
}

static int store_native(struct model_vcpu *vcpu, struct memslot *slot, const struct store *store)
{
	uint64_t page = page_of(vcpu->vm, slot, store->gpa);
	struct page_leaf *leaf = mk_leaf_get(slot, page);
	int result;

	for (;;) {
		pthread_mutex_lock(&vcpu->guest_lock);
		if (mk_page_store_allowed(leaf, page))
			break;
		pthread_mutex_unlock(&vcpu->guest_lock);
		result = fault(vcpu, slot, store);
		if (result)
			return result;
	}
	make_store(vcpu->vm, vcpu, slot, store);
	pthread_mutex_unlock(&vcpu->guest_lock);
	return 0;
}

static void store_emulated(struct model_vm *vm, struct model_vcpu *vcpu, struct memslot *slot,
			   const struct store *store)
{
	uint64_t page = page_of(vm, slot, store->gpa);

	make_store(vm, vcpu, slot, store);
	if (vcpu)
		mk_event_page(vm->model, MODEL_GUEST_STORED, vcpu->fd, slot->slot, page);
	mark_page(vm, vcpu, slot, page);
}

static int store_by_vcpu(struct model_vcpu *vcpu, struct memslot *slot, const struct store *store)
{
	int result;

	if (vcpu->vm->model->options.write_order != MODEL_STORE_THEN_LOG)
		return store_native(vcpu, slot, store);
	result = check_full(vcpu);
	if (!result)
		store_emulated(vcpu->vm, vcpu, slot, store);
	return result;
}

/* Sets part to the first page's part of the store. Returns its slot, or NULL if not writable. */
static struct memslot *first_part(struct model_vm *vm, const struct store *store,
				  struct store *part)
{
	uint32_t page_bytes = vm->model->options.page_bytes;
	size_t rest = page_bytes - store->gpa % page_bytes;
	struct memslot *slot;

	if (store->as_id >= vm->model->options.address_spaces)
		return NULL;
	slot = mk_slot_by_gpa(vm, store->as_id, store->gpa);
	*part = *store;
	if (part->bytes > rest)
		part->bytes = rest;
	return slot && !(slot->flags & KVM_MEM_READONLY) ? slot : NULL;
}

static void advance(struct store *store, size_t bytes)
{
	store->gpa += bytes;
	store->bytes -= bytes;
	if (store->data)
		store->data += bytes;
}

static int enter(struct model_vcpu *vcpu)
{
	flush_pml(vcpu);
	if (mk_ring_is_full(vcpu))
		return full_exit(vcpu);
	vcpu->in_guest = true;
	__atomic_store_n(&vcpu->run->exit_reason, KVM_EXIT_UNKNOWN, __ATOMIC_RELAXED);
	return 0;
}

int model_vcpu_write(struct model *model, int vcpu_fd, uint32_t as_id, uint64_t gpa,
		     const void *data, size_t bytes)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);
	struct store store = { .as_id = as_id, .gpa = gpa, .data = data, .bytes = bytes };
	struct store part = { 0 };
	struct memslot *slot;
	int result = 0;

	if (!vcpu)
		return -EBADF;
	pthread_mutex_lock(&vcpu->run_lock);
	mk_slots_read_lock(vcpu->vm);
	if (atomic_exchange(&vcpu->kicked, false))
		flush_pml(vcpu);
	if (!vcpu->in_guest)
		result = enter(vcpu);
	while (!result && store.bytes) {
		slot = first_part(vcpu->vm, &store, &part);
		result = slot ? store_by_vcpu(vcpu, slot, &part) : -EFAULT;
		advance(&store, part.bytes);
	}
	mk_slots_read_unlock(vcpu->vm);
	pthread_mutex_unlock(&vcpu->run_lock);
	return result;
}

static int kernel_write(struct model_vm *vm, struct model_vcpu *vcpu, struct store *store)
{
	struct memslot *slot;
	struct store part = { 0 };
	int result = 0;

	mk_slots_read_lock(vm);
	while (!result && store->bytes) {
		slot = first_part(vm, store, &part);
		if (slot)
			store_emulated(vm, vcpu, slot, &part);
		else
			result = -EFAULT;
		advance(store, part.bytes);
	}
	mk_slots_read_unlock(vm);
	return result;
}

int model_vcpu_write_unchecked(struct model *model, int vcpu_fd, uint32_t as_id, uint64_t gpa,
			       const void *data, size_t bytes)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);
	struct store store = { .as_id = as_id, .gpa = gpa, .data = data, .bytes = bytes };
	int result;

	if (!vcpu)
		return -EBADF;
	pthread_mutex_lock(&vcpu->run_lock);
	result = kernel_write(vcpu->vm, vcpu, &store);
	pthread_mutex_unlock(&vcpu->run_lock);
	return result;
}

int model_kernel_write(struct model *model, int vm_fd, uint32_t as_id, uint64_t gpa,
		       const void *data, size_t bytes)
{
	struct model_vm *vm = mk_find_vm(model, vm_fd);
	struct store store = { .as_id = as_id, .gpa = gpa, .data = data, .bytes = bytes };

	return vm ? kernel_write(vm, NULL, &store) : -EBADF;
}

int model_vcpu_enter(struct model *model, int vcpu_fd)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);
	int result = 0;

	if (!vcpu)
		return -EBADF;
	pthread_mutex_lock(&vcpu->run_lock);
	mk_slots_read_lock(vcpu->vm);
	result = enter(vcpu);
	mk_slots_read_unlock(vcpu->vm);
	pthread_mutex_unlock(&vcpu->run_lock);
	return result;
}

void model_vcpu_exit(struct model *model, int vcpu_fd, uint32_t exit_reason)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);

	if (!vcpu)
		return;
	pthread_mutex_lock(&vcpu->run_lock);
	mk_slots_read_lock(vcpu->vm);
	flush_pml(vcpu);
	vcpu->in_guest = false;
	__atomic_store_n(&vcpu->run->exit_reason, exit_reason, __ATOMIC_RELAXED);
	mk_slots_read_unlock(vcpu->vm);
	pthread_mutex_unlock(&vcpu->run_lock);
}
