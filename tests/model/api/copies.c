/* SPDX-License-Identifier: MIT */
/* The pages that a receiver has. */
#include <stdlib.h>

#include "api.h"

enum { FIRST_ROOM = 1024 };

uint64_t dlmi_key(const struct dlm_receiver *receiver, const struct dlm_place *home, uint64_t hva)
{
	uint64_t page_bytes = receiver->vm->page_bytes;

	if (receiver->kind == DLM_RECEIVER_MEMORY)
		return hva / page_bytes + 1;
	return ((uint64_t)(home->slot >> 16) << 60 | (home->gpa + (hva - home->hva)) / page_bytes) +
	       1;
}

/* The place of a key, or the empty one where it belongs. */
static struct dlm_copy *place(struct dlm_copy *copies, size_t room, uint64_t key)
{
	size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (room - 1);

	while (copies[at].key && copies[at].key != key)
		at = (at + 1) & (room - 1);
	return &copies[at];
}

static bool grow(struct dlm_receiver *receiver)
{
	size_t room = receiver->room ? 2 * receiver->room : FIRST_ROOM;
	struct dlm_copy *copies = calloc(room, sizeof(*copies));

	if (!copies)
		return false;
	for (size_t i = 0; i < receiver->room; i++)
		if (receiver->copies[i].key)
			*place(copies, room, receiver->copies[i].key) = receiver->copies[i];
	free(receiver->copies);
	receiver->copies = copies;
	receiver->room = room;
	return true;
}

struct dlm_copy *dlmi_copy_find(const struct dlm_receiver *receiver, uint64_t key)
{
	struct dlm_copy *copy;

	if (!receiver->room)
		return NULL;
	copy = place(receiver->copies, receiver->room, key);
	return copy->key ? copy : NULL;
}

struct dlm_copy *dlmi_copy_get(struct dlm_receiver *receiver, uint64_t key)
{
	struct dlm_copy *copy;

	if (2 * receiver->count >= receiver->room && !grow(receiver))
		return NULL;
	copy = place(receiver->copies, receiver->room, key);
	if (copy->key)
		return copy;
	copy->data = malloc(receiver->vm->page_bytes);
	if (!copy->data)
		return NULL;
	copy->key = key;
	receiver->count++;
	return copy;
}

void dlmi_copies_free(struct dlm_receiver *receiver)
{
	for (size_t i = 0; i < receiver->room; i++)
		free(receiver->copies[i].data);
	free(receiver->copies);
}
