/* SPDX-License-Identifier: MIT */
/* The VM's slots as they are now. */
#include <stdlib.h>

#include "api.h"

static int by_age(const void *left, const void *right)
{
	const struct dlm_place *a = left, *b = right;

	return a->born < b->born ? -1 : a->born > b->born;
}

/* Called with the slots locked. Memory that KVM cannot log has no host address. */
static void list(struct model_vm *vm, struct dlm_slots *slots, uint32_t most)
{
	for (uint32_t s = 0; s < vm->model->options.address_spaces; s++) {
		for (uint32_t i = 0; i < vm->spaces[s].count && slots->count < most; i++) {
			const struct memslot *slot = vm->spaces[s].by_gpa[i];

			if (slot->flags & KVM_MEM_GUEST_MEMFD)
				continue;
			slots->places[slots->count++] = (struct dlm_place){
				.slot = slot->slot,
				.flags = slot->flags,
				.gpa = slot->gpa,
				.hva = slot->hva,
				.bytes = slot->pages * vm->model->options.page_bytes,
				.born = slot->born,
				.placed = slot->placed,
			};
		}
	}
}

int dlmi_slots(const struct dlm_vm *vm, struct dlm_slots *slots)
{
	uint32_t count = 0;

	slots->count = 0;
	mk_slots_read_lock(vm->model_vm);
	for (uint32_t s = 0; s < vm->model->options.address_spaces; s++)
		count += vm->model_vm->spaces[s].count;
	slots->places = calloc(count + 1, sizeof(*slots->places));
	if (slots->places)
		list(vm->model_vm, slots, count);
	mk_slots_read_unlock(vm->model_vm);
	if (!slots->places)
		return dlmi_fail(vm, -ENOMEM, "no memory for a list of %u slots", count);
	qsort(slots->places, slots->count, sizeof(*slots->places), by_age);
	return 0;
}

const struct dlm_place *dlmi_home(const struct dlm_slots *slots, uint64_t hva)
{
	for (uint32_t i = 0; i < slots->count; i++)
		if (hva - slots->places[i].hva < slots->places[i].bytes)
			return &slots->places[i];
	return NULL;
}

const struct dlm_place *dlmi_place_at(const struct dlm_slots *slots, uint32_t as_id, uint64_t gpa)
{
	for (uint32_t i = 0; i < slots->count; i++)
		if (slots->places[i].slot >> 16 == as_id &&
		    gpa - slots->places[i].gpa < slots->places[i].bytes)
			return &slots->places[i];
	return NULL;
}

const struct dlm_place *dlmi_place_named(const struct dlm_slots *slots, uint32_t slot)
{
	for (uint32_t i = 0; i < slots->count; i++)
		if (slots->places[i].slot == slot)
			return &slots->places[i];
	return NULL;
}

int dlm_page_states(const struct dlm_vm *vm, uint32_t slot, uint64_t first_page, uint64_t pages,
		    uint8_t *states)
{
	int result;

	if (!vm || !states)
		return dlmi_fail(vm, -EINVAL, "states is NULL");
	result = model_page_states(vm->model, vm->fd, slot, first_page, pages, states);
	if (result)
		dlmi_fail(vm, result, "slot %#x does not exist, or has fewer pages", slot);
	return result;
}
