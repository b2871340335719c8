/* SPDX-License-Identifier: MIT */
/* The pages that a receiver has. */
#include <stdlib.h>

#include "api.h"

uint64_t dlmi_key(const struct dlm_receiver *receiver, const struct dlm_place *home, uint64_t hva)
{
	uint64_t page_bytes = receiver->vm->page_bytes;

	if (receiver->kind == DLM_RECEIVER_MEMORY)
		return hva / page_bytes + 1;
	return ((uint64_t)(home->slot >> 16) << 60 | (home->gpa + (hva - home->hva)) / page_bytes) +
	       1;
}

struct dlm_copy *dlmi_copy_find(const struct dlm_receiver *receiver, uint64_t key)
{
	return dlmi_table_find(&receiver->copies, key);
}

struct dlm_copy *dlmi_copy_get(struct dlm_receiver *receiver, uint64_t key)
{
	struct dlm_copy *copy = dlmi_copy_find(receiver, key);
	uint8_t *data;

	if (copy)
		return copy;
	data = malloc(receiver->vm->page_bytes);
	copy = data ? dlmi_table_get(&receiver->copies, key) : NULL;
	if (copy)
		copy->data = data;
	else
		free(data);
	return copy;
}

void dlmi_copies_free(struct dlm_receiver *receiver)
{
	for (struct dlm_copy *copy = NULL; (copy = dlmi_table_next(&receiver->copies, copy));)
		free(copy->data);
	dlmi_table_free(&receiver->copies);
}
