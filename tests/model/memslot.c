/* SPDX-License-Identifier: MIT */
/* KVM_SET_USER_MEMORY_REGION and the slot tables. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "internal.h"

/* Older headers lack the second version of the ioctl. */
struct region2 {
	uint32_t slot, flags;
	uint64_t gpa, bytes, hva;
	uint64_t guest_memfd_offset;
	uint32_t guest_memfd, padding;
	uint64_t padding2[14];
};
#define SET_REGION2    _IOW(KVMIO, 0x49, struct region2)
#define MAX_SLOT_PAGES ((1ULL << 31) - 1)

/* Read locks of one thread nest, because a hook may store from another vCPU of the VM. */
static _Thread_local const struct model_vm *read_vm;
static _Thread_local unsigned read_depth;

void mk_slots_read_lock(struct model_vm *vm)
{
	if (read_depth && read_vm == vm) {
		read_depth++;
		return;
	}
	pthread_rwlock_rdlock(&vm->slots_rw);
	if (!read_depth) {
		read_vm = vm;
		read_depth = 1;
	}
}

void mk_slots_read_unlock(struct model_vm *vm)
{
	if (read_vm == vm && read_depth > 1) {
		read_depth--;
		return;
	}
	if (read_vm == vm)
		read_depth = 0;
	pthread_rwlock_unlock(&vm->slots_rw);
}

bool mk_is_region_ioctl(const struct model *model, unsigned long request)
{
	return request == KVM_SET_USER_MEMORY_REGION ||
	       (request == SET_REGION2 && model->options.has_guest_memfd);
}

bool mk_slot_name_valid(const struct model *model, uint32_t slot)
{
	return slot >> 16 < model->options.address_spaces &&
	       (slot & 0xffff) < model->options.slot_ids;
}

struct memslot *mk_slot_by_id(struct model_vm *vm, uint32_t slot)
{
	return mk_slot_name_valid(vm->model, slot) ? vm->spaces[slot >> 16].by_id[slot & 0xffff]
						   : NULL;
}

/* Index of the first slot that ends after gpa. */
static uint32_t index_of(const struct model_vm *vm, const struct as_slots *space, uint64_t gpa)
{
	uint32_t low = 0, high = space->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct memslot *slot = space->by_gpa[middle];

		if (slot->gpa + slot->pages * vm->model->options.page_bytes > gpa)
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

struct memslot *mk_slot_by_gpa(struct model_vm *vm, uint32_t as_id, uint64_t gpa)
{
	struct as_slots *space = &vm->spaces[as_id];
	uint32_t index = index_of(vm, space, gpa);

	return index < space->count && space->by_gpa[index]->gpa <= gpa ? space->by_gpa[index]
									: NULL;
}

static bool overlaps(const struct model_vm *vm, const struct as_slots *space,
		     const struct memslot *except, uint64_t gpa, uint64_t bytes)
{
	uint32_t index = index_of(vm, space, gpa);

	for (; index < space->count && space->by_gpa[index]->gpa < gpa + bytes; index++)
		if (space->by_gpa[index] != except)
			return true;
	return false;
}

static void table_remove(struct as_slots *space, struct memslot *slot)
{
	uint32_t i;

	for (i = 0; space->by_gpa[i] != slot; i++)
		;
	space->count--;
	memmove(&space->by_gpa[i], &space->by_gpa[i + 1],
		(space->count - i) * sizeof(space->by_gpa[0]));
	space->by_id[slot->slot & 0xffff] = NULL;
}

static int table_reserve(struct as_slots *space)
{
	uint32_t room = space->room ? space->room * 2 : 16;
	struct memslot **grown;

	if (space->count < space->room)
		return 0;
	grown = realloc(space->by_gpa, room * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	space->by_gpa = grown;
	space->room = room;
	return 0;
}

static void table_insert(struct model_vm *vm, struct as_slots *space, struct memslot *slot)
{
	uint32_t index = index_of(vm, space, slot->gpa);

	memmove(&space->by_gpa[index + 1], &space->by_gpa[index],
		(space->count - index) * sizeof(space->by_gpa[0]));
	space->by_gpa[index] = slot;
	space->count++;
	space->by_id[slot->slot & 0xffff] = slot;
}

/* Clearing the flag frees the bitmap; setting it allocates one, all set if "initially set". */
static void apply_log_flag(struct model_vm *vm, struct memslot *slot, uint32_t flags)
{
	bool initially_set = vm->manual_protect & KVM_DIRTY_LOG_INITIALLY_SET;

	slot->flags = flags;
	if (!(flags & KVM_MEM_LOG_DIRTY_PAGES)) {
		slot->has_bitmap = false;
		mk_pages_set_dirty_all(slot, false);
	} else if (!slot->has_bitmap && uses_bitmap(vm)) {
		slot->has_bitmap = true;
		mk_pages_set_dirty_all(slot, initially_set);
	}
}

static int create_slot(struct model_vm *vm, const struct region2 *region)
{
	struct as_slots *space = &vm->spaces[region->slot >> 16];
	struct memslot *slot = calloc(1, sizeof(*slot));

	if (!slot)
		return -ENOMEM;
	slot->slot = region->slot;
	slot->gpa = region->gpa;
	slot->pages = region->bytes / vm->model->options.page_bytes;
	slot->hva = region->hva;
	slot->born = vm->slots_created++;
	slot->placed = ++vm->slots_placed;
	pthread_rwlock_wrlock(&vm->slots_rw);
	if (mk_pages_new(slot) || table_reserve(space)) {
		pthread_rwlock_unlock(&vm->slots_rw);
		if (slot->leaves)
			mk_pages_free(slot);
		free(slot);
		return -ENOMEM;
	}
	apply_log_flag(vm, slot, region->flags);
	table_insert(vm, space, slot);
	pthread_rwlock_unlock(&vm->slots_rw);
	return 0;
}

/* For a slot that is moved or deleted. slots_rw is held for writing. */
static void unmap_for_removal(struct model_vm *vm, struct memslot *slot)
{
	uint32_t i, s;

	mk_pages_unmap_all(vm, slot);
	for (i = 0; vm->model->options.delete_unmaps_all && i < vm->model->options.address_spaces;
	     i++)
		for (s = 0; s < vm->spaces[i].count; s++)
			mk_pages_unmap_all(vm, vm->spaces[i].by_gpa[s]);
}

static int delete_slot(struct model_vm *vm, struct memslot *slot)
{
	pthread_rwlock_wrlock(&vm->slots_rw);
	table_remove(&vm->spaces[slot->slot >> 16], slot);
	unmap_for_removal(vm, slot);
	pthread_rwlock_unlock(&vm->slots_rw);
	mk_pages_free(slot);
	free(slot);
	return 0;
}

static int move_slot(struct model_vm *vm, struct memslot *slot, const struct region2 *region)
{
	struct as_slots *space = &vm->spaces[slot->slot >> 16];

	pthread_rwlock_wrlock(&vm->slots_rw);
	table_remove(space, slot);
	unmap_for_removal(vm, slot);
	slot->gpa = region->gpa;
	slot->placed = ++vm->slots_placed;
	apply_log_flag(vm, slot, region->flags);
	table_insert(vm, space, slot);
	pthread_rwlock_unlock(&vm->slots_rw);
	return 0;
}

static int change_flags(struct model_vm *vm, struct memslot *slot, uint32_t flags)
{
	bool on = flags & ~slot->flags & KVM_MEM_LOG_DIRTY_PAGES;

	pthread_rwlock_wrlock(&vm->slots_rw);
	apply_log_flag(vm, slot, flags);
	pthread_rwlock_unlock(&vm->slots_rw);
	/* With "initially set", CLEAR protects instead, even if there is no bitmap. */
	if (on && !(flags & KVM_MEM_READONLY) &&
	    !(vm->manual_protect & KVM_DIRTY_LOG_INITIALLY_SET))
		mk_pages_protect_all(vm, slot);
	return 0;
}

static int change_slot(struct model_vm *vm, struct memslot *slot, const struct region2 *region)
{
	uint64_t pages = region->bytes / vm->model->options.page_bytes;

	if ((region->flags | slot->flags) & KVM_MEM_GUEST_MEMFD)
		return -EINVAL;
	if (region->hva != slot->hva || pages != slot->pages ||
	    ((region->flags ^ slot->flags) & KVM_MEM_READONLY))
		return -EINVAL;
	if (region->gpa != slot->gpa) {
		if (overlaps(vm, &vm->spaces[slot->slot >> 16], slot, region->gpa, region->bytes))
			return -EEXIST;
		return move_slot(vm, slot, region);
	}
	return region->flags != slot->flags ? change_flags(vm, slot, region->flags) : 0;
}

static bool flags_valid(const struct model *model, uint32_t flags)
{
	uint32_t valid = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;

	/* Private memory can be neither logged nor read-only. */
	if (model->options.has_guest_memfd && (flags & KVM_MEM_GUEST_MEMFD))
		valid = KVM_MEM_GUEST_MEMFD;
	return !(flags & ~valid);
}

static bool region_valid(struct model_vm *vm, const struct region2 *region)
{
	const struct model_options *options = &vm->model->options;
	uint64_t page_bytes = options->page_bytes;

	if (region->bytes % page_bytes || region->gpa % page_bytes)
		return false;
	if (!options->no_memory &&
	    (region->hva % page_bytes || region->hva + region->bytes < region->hva))
		return false;
	return mk_slot_name_valid(vm->model, region->slot) &&
	       region->gpa + region->bytes >= region->gpa &&
	       region->bytes / page_bytes <= MAX_SLOT_PAGES;
}

static int set_region_locked(struct model_vm *vm, const struct region2 *region)
{
	struct memslot *slot;

	if (!region_valid(vm, region))
		return -EINVAL;
	slot = mk_slot_by_id(vm, region->slot);
	if (!region->bytes)
		return slot ? delete_slot(vm, slot) : -EINVAL;
	if (slot)
		return change_slot(vm, slot, region);
	if (overlaps(vm, &vm->spaces[region->slot >> 16], NULL, region->gpa, region->bytes))
		return -EEXIST;
	return create_slot(vm, region);
}

int mk_set_region(struct model_vm *vm, const struct model_call *call)
{
	bool first_version = call->request == KVM_SET_USER_MEMORY_REGION;
	struct region2 region = { .slot = 0 };
	int result;

	if (!call->arg)
		return -EFAULT;
	memcpy(&region, call->arg,
	       first_version ? sizeof(struct kvm_userspace_memory_region) : sizeof(region));
	if (first_version && (region.flags & KVM_MEM_GUEST_MEMFD))
		return -EINVAL;
	if (!flags_valid(vm->model, region.flags))
		return -EINVAL;
	pthread_mutex_lock(&vm->slots_lock);
	result = set_region_locked(vm, &region);
	pthread_mutex_unlock(&vm->slots_lock);
	return result;
}

int mk_slots_new(struct model_vm *vm)
{
	const struct model_options *options = &vm->model->options;
	uint32_t i;

	vm->spaces = calloc(options->address_spaces, sizeof(*vm->spaces));
	for (i = 0; vm->spaces && i < options->address_spaces; i++) {
		vm->spaces[i].by_id = calloc(options->slot_ids, sizeof(struct memslot *));
		if (!vm->spaces[i].by_id)
			return -ENOMEM;
	}
	return vm->spaces ? 0 : -ENOMEM;
}

void mk_slots_free(struct model_vm *vm)
{
	uint32_t i, s;

	for (i = 0; vm->spaces && i < vm->model->options.address_spaces; i++) {
		for (s = 0; s < vm->spaces[i].count; s++) {
			mk_pages_free(vm->spaces[i].by_gpa[s]);
			free(vm->spaces[i].by_gpa[s]);
		}
		free(vm->spaces[i].by_gpa);
		free(vm->spaces[i].by_id);
	}
	free(vm->spaces);
}
