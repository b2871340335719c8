/* SPDX-License-Identifier: MIT */
#include "gpa_receiver.h"

#include "../unit/cmocka_all.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 1024, MAX_PRINTED = 4 };

struct gpa_page {
	uint64_t key; /* of the address, plus 1; 0: empty */
	uint64_t pass;
	uint8_t *data;
};

void gpa_receiver_init(struct gpa_receiver *receiver, size_t page_bytes)
{
	memset(receiver, 0, sizeof(*receiver));
	pthread_mutex_init(&receiver->lock, NULL);
	receiver->page_bytes = page_bytes;
}

void gpa_receiver_free(struct gpa_receiver *receiver)
{
	if (!receiver->page_bytes)
		return;
	for (size_t i = 0; i < receiver->room; i++)
		free(receiver->pages[i].data);
	free(receiver->pages);
	pthread_mutex_destroy(&receiver->lock);
	memset(receiver, 0, sizeof(*receiver));
}

static uint64_t key_of(const struct gpa_receiver *receiver, uint32_t as_id, uint64_t gpa)
{
	return ((uint64_t)as_id << 60 | gpa / receiver->page_bytes) + 1;
}

/* The place of a key: its page, or an empty one. */
static struct gpa_page *place(struct gpa_page *pages, size_t room, uint64_t key)
{
	size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (room - 1);

	while (pages[at].key && pages[at].key != key)
		at = (at + 1) & (room - 1);
	return &pages[at];
}

static void grow(struct gpa_receiver *receiver)
{
	size_t room = receiver->room ? 2 * receiver->room : FIRST_ROOM;
	struct gpa_page *pages = calloc(room, sizeof(*pages));

	if (!pages)
		abort();
	for (size_t i = 0; i < receiver->room; i++)
		if (receiver->pages[i].key)
			*place(pages, room, receiver->pages[i].key) = receiver->pages[i];
	free(receiver->pages);
	receiver->pages = pages;
	receiver->room = room;
}

/* The page at an address, which is made if it is not there. */
static struct gpa_page *page_at(struct gpa_receiver *receiver, uint32_t as_id, uint64_t gpa)
{
	uint64_t key = key_of(receiver, as_id, gpa);
	struct gpa_page *page;

	if (2 * receiver->count >= receiver->room)
		grow(receiver);
	page = place(receiver->pages, receiver->room, key);
	if (page->key)
		return page;
	page->key = key;
	page->data = calloc(1, receiver->page_bytes);
	if (!page->data)
		abort();
	receiver->count++;
	return page;
}

bool gpa_receiver_put(struct gpa_receiver *receiver, uint32_t as_id, uint64_t gpa, uint64_t bytes,
		      const uint8_t *data, uint64_t pass)
{
	bool is_new = true;

	pthread_mutex_lock(&receiver->lock);
	for (uint64_t at = 0; at < bytes; at += receiver->page_bytes) {
		struct gpa_page *page = page_at(receiver, as_id, gpa + at);

		is_new &= !pass || page->pass != pass;
		page->pass = pass;
		memcpy(page->data, data + at, receiver->page_bytes);
	}
	pthread_mutex_unlock(&receiver->lock);
	return is_new;
}

static struct dl_slot *find(struct gpa_receiver *receiver, uint32_t number)
{
	for (unsigned int i = 0; i < receiver->slot_count; i++)
		if (receiver->slots[i].slot == number)
			return &receiver->slots[i];
	return NULL;
}

void gpa_receiver_map(struct gpa_receiver *receiver, const struct dl_slot *slot)
{
	struct dl_slot *known;

	pthread_mutex_lock(&receiver->lock);
	known = find(receiver, slot->slot);
	if (!known && receiver->slot_count == GPA_RECEIVER_SLOTS)
		abort();
	if (!known)
		known = &receiver->slots[receiver->slot_count++];
	*known = *slot;
	pthread_mutex_unlock(&receiver->lock);
}

void gpa_receiver_unmap(struct gpa_receiver *receiver, uint32_t slot)
{
	struct dl_slot *known;

	pthread_mutex_lock(&receiver->lock);
	known = find(receiver, slot);
	if (known) {
		struct dl_slot *end = &receiver->slots[receiver->slot_count--];

		memmove(known, known + 1, (size_t)(end - (known + 1)) * sizeof(*known));
	}
	pthread_mutex_unlock(&receiver->lock);
}

bool gpa_receiver_find(struct gpa_receiver *receiver, uint32_t number, struct dl_slot *slot)
{
	const struct dl_slot *known;

	pthread_mutex_lock(&receiver->lock);
	known = find(receiver, number);
	if (known)
		*slot = *known;
	pthread_mutex_unlock(&receiver->lock);
	return known != NULL;
}

/* The oldest slot that maps a host address. */
static const struct dl_slot *home_of(const struct gpa_receiver *receiver, uint64_t hva)
{
	for (unsigned int i = 0; i < receiver->slot_count; i++)
		if (hva - receiver->slots[i].hva < receiver->slots[i].bytes)
			return &receiver->slots[i];
	return NULL;
}

static const void *memory_at(uint64_t hva)
{
	return (const void *)(uintptr_t)hva;
}

void gpa_receiver_equalize(struct gpa_receiver *receiver,
			   void (*copy)(void *to, const void *from, size_t bytes))
{
	pthread_mutex_lock(&receiver->lock);
	for (unsigned int i = 0; i < receiver->slot_count; i++) {
		const struct dl_slot *slot = &receiver->slots[i];

		for (uint64_t at = 0; at < slot->bytes; at += receiver->page_bytes)
			copy(page_at(receiver, slot->slot >> 16, slot->gpa + at)->data,
			     memory_at(slot->hva + at), receiver->page_bytes);
	}
	pthread_mutex_unlock(&receiver->lock);
}

static bool differs(struct gpa_receiver *receiver, uint64_t hva)
{
	const struct dl_slot *home = home_of(receiver, hva);
	const struct gpa_page *page;

	if (!receiver->room)
		return true;
	page = place(receiver->pages, receiver->room,
		     key_of(receiver, home->slot >> 16, home->gpa + (hva - home->hva)));
	return !page->key || memcmp(page->data, memory_at(hva), receiver->page_bytes) != 0;
}

uint64_t gpa_receiver_differing(struct gpa_receiver *receiver, bool print,
				bool (*is_ignored)(void *opaque, uint64_t hva), void *opaque)
{
	uint64_t pages = 0;

	pthread_mutex_lock(&receiver->lock);
	for (unsigned int i = 0; i < receiver->slot_count; i++) {
		const struct dl_slot *slot = &receiver->slots[i];

		for (uint64_t at = 0; at < slot->bytes; at += receiver->page_bytes) {
			if (is_ignored(opaque, slot->hva + at) ||
			    !differs(receiver, slot->hva + at))
				continue;
			if (print && pages < MAX_PRINTED)
				print_error("by gpa: slot %x at %llx, page %llu differs\n",
					    slot->slot, (unsigned long long)slot->gpa,
					    (unsigned long long)(at / receiver->page_bytes));
			pages++;
		}
	}
	pthread_mutex_unlock(&receiver->lock);
	return pages;
}
