/* SPDX-License-Identifier: MIT */
/* Who wrote which page last. */
#include <stdlib.h>

#include "api.h"

enum { FIRST_ROOM = 1024 };

void dlmi_journal_init(struct dlm_vm *vm)
{
	pthread_mutex_init(&vm->journal.lock, NULL);
}

void dlmi_journal_free(struct dlm_vm *vm)
{
	free(vm->journal.pages);
	pthread_mutex_destroy(&vm->journal.lock);
}

/* The place of a page, or the empty one where it belongs. */
static struct dlm_write *place(struct dlm_write *pages, size_t room, uint64_t page)
{
	size_t at = (size_t)(page * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (room - 1);

	while (pages[at].page && pages[at].page != page)
		at = (at + 1) & (room - 1);
	return &pages[at];
}

static void grow(struct dlm_journal *journal)
{
	size_t room = journal->room ? 2 * journal->room : FIRST_ROOM;
	struct dlm_write *pages = calloc(room, sizeof(*pages));

	if (!pages)
		abort();
	for (size_t i = 0; i < journal->room; i++)
		if (journal->pages[i].page)
			*place(pages, room, journal->pages[i].page) = journal->pages[i];
	free(journal->pages);
	journal->pages = pages;
	journal->room = room;
}

static void add_page(struct dlm_journal *journal, const struct dlm_write *write, uint64_t page)
{
	struct dlm_write *at;

	if (2 * journal->count >= journal->room)
		grow(journal);
	at = place(journal->pages, journal->room, page);
	if (!at->page)
		journal->count++;
	*at = *write;
	at->page = page;
	at->number = ++journal->writes;
}

void dlmi_journal_add(struct dlm_vm *vm, const struct dlm_write *write, uint64_t hva,
		      uint64_t bytes)
{
	uint64_t page, last = (hva + bytes - 1) / vm->page_bytes;

	pthread_mutex_lock(&vm->journal.lock);
	for (page = hva / vm->page_bytes; bytes && page <= last; page++)
		add_page(&vm->journal, write, page + 1);
	pthread_mutex_unlock(&vm->journal.lock);
}

void dlmi_journal_forget(struct dlm_vm *vm, uint64_t hva, uint64_t bytes)
{
	uint64_t first = hva / vm->page_bytes, end = (hva + bytes) / vm->page_bytes;

	pthread_mutex_lock(&vm->journal.lock);
	for (size_t i = 0; i < vm->journal.room; i++) {
		struct dlm_write *write = &vm->journal.pages[i];

		if (write->page && write->page - 1 >= first && write->page - 1 < end)
			*write = (struct dlm_write){ .page = write->page };
	}
	pthread_mutex_unlock(&vm->journal.lock);
}

struct dlm_write dlmi_journal_find(const struct dlm_vm *vm, uint64_t hva)
{
	struct dlm_journal *journal = (struct dlm_journal *)&vm->journal;
	struct dlm_write found = { 0 };

	pthread_mutex_lock(&journal->lock);
	if (journal->room)
		found = *place(journal->pages, journal->room, hva / vm->page_bytes + 1);
	pthread_mutex_unlock(&journal->lock);
	return found;
}

uint64_t dlm_writes(const struct dlm_vm *vm)
{
	struct dlm_journal *journal = vm ? (struct dlm_journal *)&vm->journal : NULL;
	uint64_t writes = 0;

	if (!vm)
		return 0;
	pthread_mutex_lock(&journal->lock);
	writes = journal->writes;
	pthread_mutex_unlock(&journal->lock);
	return writes;
}
