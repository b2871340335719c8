/* SPDX-License-Identifier: MIT */
/* State that a real kernel does not expose: pages, writes, rings. */
#include <errno.h>
#include <string.h>

#include "internal.h"

/* A query for the states of some pages of one slot. */
struct query {
	uint32_t slot;
	uint64_t first_page, pages;
	uint8_t *states;
};

static void add_state(const struct query *query, uint64_t page, uint8_t state)
{
	if (page - query->first_page < query->pages)
		query->states[page - query->first_page] |= state;
}

static void query_mmu(struct memslot *slot, const struct query *query)
{
	uint64_t page;

	for (page = query->first_page; page < query->first_page + query->pages; page++) {
		const struct page_leaf *leaf = mk_leaf_find(slot, page);
		uint32_t word = page % LEAF_PAGES / 64;
		uint64_t bit = 1ULL << page % 64;

		if (!leaf || !(leaf->writable[word] & bit))
			add_state(query, page, MODEL_PAGE_PROTECTED);
		if (leaf && (leaf->stale[word] & bit))
			add_state(query, page, MODEL_PAGE_STALE_TLB);
		if (leaf ? (leaf->dirty[word] & bit) : slot->absent_dirty)
			add_state(query, page, MODEL_PAGE_IN_BITMAP);
	}
}

static void query_ring(struct model_vcpu *vcpu, const struct query *query)
{
	uint32_t i, flags;

	pthread_mutex_lock(&vcpu->cells_lock);
	for (i = 0; i < vcpu->ring_entries; i++) {
		struct kvm_dirty_gfn *cell = &vcpu->cells[i];

		flags = __atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE);
		if (!flags || cell->slot != query->slot)
			continue;
		add_state(query, cell->offset,
			  flags & KVM_DIRTY_GFN_F_RESET ? MODEL_PAGE_RELEASED : MODEL_PAGE_IN_RING);
	}
	pthread_mutex_unlock(&vcpu->cells_lock);
}

static void query_pml(struct model_vcpu *vcpu, const struct memslot *slot,
		      const struct query *query)
{
	uint32_t i, page_bytes = vcpu->vm->model->options.page_bytes;

	pthread_mutex_lock(&vcpu->guest_lock);
	for (i = 0; i < vcpu->pml_count; i++)
		if (vcpu->pml[i].as_id == slot->slot >> 16)
			add_state(query, (vcpu->pml[i].gpa - slot->gpa) / page_bytes,
				  MODEL_PAGE_IN_PML);
	pthread_mutex_unlock(&vcpu->guest_lock);
}

int model_page_states(struct model *model, int vm_fd, uint32_t slot_name, uint64_t first_page,
		      uint64_t pages, uint8_t *states)
{
	struct model_vm *vm = mk_find_vm(model, vm_fd);
	struct query query = { slot_name, first_page, pages, states };
	struct memslot *slot;
	int result = -ENOENT;
	uint32_t i, count;

	if (!vm)
		return -EBADF;
	memset(states, 0, pages);
	mk_slots_read_lock(vm);
	slot = mk_slot_by_id(vm, slot_name);
	if (slot && first_page <= slot->pages && pages <= slot->pages - first_page) {
		query_mmu(slot, &query);
		count = vm->vcpu_count;
		for (i = 0; i < count; i++) {
			query_pml(vm->vcpus[i], slot, &query);
			query_ring(vm->vcpus[i], &query);
		}
		result = 0;
	}
	mk_slots_read_unlock(vm);
	return result;
}

uint64_t model_page_writes(struct model *model, int vm_fd, uint32_t slot_name, uint64_t page)
{
	struct model_vm *vm = mk_find_vm(model, vm_fd);
	struct memslot *slot;
	struct page_leaf *leaf = NULL;
	uint64_t writes = 0;

	if (!vm)
		return 0;
	mk_slots_read_lock(vm);
	slot = mk_slot_by_id(vm, slot_name);
	if (slot && page < slot->pages)
		leaf = mk_leaf_find(slot, page);
	if (leaf)
		writes = leaf->writes[page % LEAF_PAGES];
	mk_slots_read_unlock(vm);
	return writes;
}

int model_vcpu_ring(struct model *model, int vcpu_fd, struct model_ring *ring)
{
	struct model_vcpu *vcpu = mk_find_vcpu(model, vcpu_fd);

	if (!vcpu)
		return -EBADF;
	*ring = (struct model_ring){
		.entries = vcpu->ring_entries,
		.soft_limit_entries = vcpu->soft_limit_entries,
		.dirty_index = vcpu->dirty_index,
		.reset_index = vcpu->reset_index,
		.pushed_entries = vcpu->pushed_entries,
		.overwritten_entries = vcpu->overwritten_entries,
	};
	return 0;
}
