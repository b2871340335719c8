/* SPDX-License-Identifier: MIT */
/* The oracle: what the receiver has against what the guest has. */
#include <stdlib.h>

#include "api.h"

/* A comparison in progress. */
struct search {
	struct dlm_receiver *receiver;
	struct dlm_slots slots;
	bool is_live;	    /* dlm_receiver_check(): the guest may run */
	unsigned char *now; /* a page of the guest */
	struct dlm_stale found;
};

/* The first byte that differs; the page's size if none does. */
static uint64_t first_difference(struct search *search, const struct dlm_copy *copy, uint64_t hva)
{
	uint64_t at, page_bytes = search->receiver->vm->page_bytes;

	model_copy(search->now, (const void *)(uintptr_t)hva, page_bytes);
	if (!copy)
		return 0;
	if (!memcmp(search->now, copy->data, page_bytes))
		return page_bytes;
	for (at = 0; search->now[at] == copy->data[at];)
		at++;
	return at;
}

/* The kernel's states of a page, merged over all slots that map it. */
static uint8_t states_at(const struct search *search, uint64_t hva)
{
	const struct dlm_vm *vm = search->receiver->vm;
	uint8_t all = 0, states;

	for (uint32_t i = 0; i < search->slots.count; i++) {
		const struct dlm_place *place = &search->slots.places[i];

		if (hva - place->hva < place->bytes &&
		    !model_page_states(vm->model, vm->fd, place->slot,
				       (hva - place->hva) / vm->page_bytes, 1, &states))
			all |= states;
	}
	return all;
}

static void describe_writer(struct dlm_stale *found, const struct dlm_write *write,
			    const struct dlm_copy *copy)
{
	/* A copy that was read after the last known write has it: somebody else has written. */
	if (!write->number || (copy && copy->is_exact && write->number <= copy->after))
		return;
	found->writer = write->writer;
	found->vcpu = write->vcpu;
	found->who = write->who;
	found->write = write->number;
	found->write_ns = write->ns;
	if (copy && write->number <= copy->after)
		found->flags |= DLM_STALE_OLD_CONTENTS;
}

static void note(struct search *search, const struct dlm_place *place, uint64_t hva,
		 const struct dlm_copy *copy, uint64_t at_byte, uint8_t states)
{
	struct dlm_write write = dlmi_journal_find(search->receiver->vm, hva);
	struct dlm_stale *found = &search->found;

	if (found->pages++)
		return;
	found->slot = place->slot;
	found->gpa = place->gpa + (hva - place->hva);
	found->hva = hva;
	found->offset_bytes = hva - place->hva;
	found->page_bytes = search->receiver->vm->page_bytes;
	found->at_byte = at_byte;
	found->states = states;
	found->flags = copy ? 0 : DLM_STALE_NEVER_COPIED;
	if (states & MODEL_PAGE_RECORDED)
		found->flags |= DLM_STALE_RECORDED;
	if (copy) {
		found->copied_after = copy->after;
		found->copied_ns = copy->ns;
	}
	describe_writer(found, &write, copy);
}

/* Whether a page that differs is one that the pass had to hand out. */
static bool is_lost(const struct search *search, const struct dlm_place *place, uint64_t hva,
		    uint8_t states)
{
	const struct dlm_receiver *receiver = search->receiver;

	if (place->placed > receiver->pass_placed)
		return false;
	return dlmi_journal_find(receiver->vm, hva).number <= receiver->pass_writes &&
	       !(states & MODEL_PAGE_RECORDED);
}

static void look(struct search *search, const struct dlm_place *place, uint64_t hva)
{
	struct dlm_receiver *receiver = search->receiver;
	const struct dlm_copy *copy = dlmi_copy_find(receiver, dlmi_key(receiver, place, hva));
	uint64_t at_byte = first_difference(search, copy, hva);
	uint8_t states;

	if (at_byte == receiver->vm->page_bytes)
		return;
	/* Again, without a writer between its store and its entry in the journal. */
	pthread_rwlock_wrlock(&receiver->vm->writes);
	at_byte = first_difference(search, copy, hva);
	states = states_at(search, hva);
	if (at_byte < receiver->vm->page_bytes &&
	    (!search->is_live || is_lost(search, place, hva, states)))
		note(search, place, hva, copy, at_byte, states);
	pthread_rwlock_unlock(&receiver->vm->writes);
}

/* Memory that several slots map is looked at in the oldest one only. */
static void look_at_all(struct search *search)
{
	for (uint32_t i = 0; i < search->slots.count; i++) {
		const struct dlm_place *place = &search->slots.places[i];
		uint64_t at;

		for (at = 0; at < place->bytes; at += search->receiver->vm->page_bytes)
			if (dlmi_home(&search->slots, place->hva + at) == place)
				look(search, place, place->hva + at);
	}
}

static int search_all(struct search *search)
{
	struct dlm_vm *vm = search->receiver->vm;
	int result = dlmi_slots(vm, &search->slots);

	if (result)
		return result;
	search->now = aligned_alloc(64, vm->page_bytes);
	if (search->now)
		look_at_all(search);
	else
		result = dlmi_fail(vm, -ENOMEM, "no memory for a page");
	free(search->now);
	free(search->slots.places);
	return result;
}

static int compare(struct dlm_receiver *receiver, struct dlm_stale *stale, bool is_live)
{
	struct search search = { .receiver = receiver, .is_live = is_live };
	int saved_errno = errno, result = 0;

	if (!receiver)
		return -EINVAL;
	if (stale)
		result = dlmi_check_size(receiver->vm, "stale", stale, sizeof(*stale));
	if (result)
		return result;
	pthread_mutex_lock(&receiver->lock);
	if (is_live && !receiver->pass)
		result = dlmi_fail(receiver->vm, -EBUSY, "no dlm_receiver_pass() was made");
	else
		result = search_all(&search);
	pthread_mutex_unlock(&receiver->lock);
	errno = saved_errno;
	if (result)
		return result;
	if (stale) {
		search.found.size = stale->size;
		*stale = search.found;
	}
	return search.found.pages != 0;
}

int dlm_receiver_compare(struct dlm_receiver *receiver, struct dlm_stale *stale)
{
	return compare(receiver, stale, false);
}

int dlm_receiver_check(struct dlm_receiver *receiver, struct dlm_stale *stale)
{
	return compare(receiver, stale, true);
}
