/* SPDX-License-Identifier: MIT */
/* Journal of the last writer of each page. */
#include <stdlib.h>

#include "api.h"

void dlmi_journal_init(struct dlm_vm *vm)
{
	vm->journal.pages.entry_bytes = sizeof(struct dlm_write);
	pthread_mutex_init(&vm->journal.lock, NULL);
}

void dlmi_journal_free(struct dlm_vm *vm)
{
	dlmi_table_free(&vm->journal.pages);
	pthread_mutex_destroy(&vm->journal.lock);
}

static void add_page(struct dlm_journal *journal, const struct dlm_write *write, uint64_t page)
{
	struct dlm_write *at = dlmi_table_get(&journal->pages, page);

	if (!at)
		abort();
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
	struct dlm_write *write = NULL;

	pthread_mutex_lock(&vm->journal.lock);
	while ((write = dlmi_table_next(&vm->journal.pages, write)))
		if (write->page - 1 >= first && write->page - 1 < end)
			*write = (struct dlm_write){ .page = write->page };
	pthread_mutex_unlock(&vm->journal.lock);
}

struct dlm_write dlmi_journal_find(const struct dlm_vm *vm, uint64_t hva)
{
	struct dlm_journal *journal = (struct dlm_journal *)&vm->journal;
	struct dlm_write found = { 0 };
	const struct dlm_write *write;

	pthread_mutex_lock(&journal->lock);
	write = dlmi_table_find(&journal->pages, hva / vm->page_bytes + 1);
	if (write)
		found = *write;
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
