/* SPDX-License-Identifier: MIT */
#include "table.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 1024 };

static uint64_t *entry_at(const struct dlm_table *table, size_t i)
{
	return (uint64_t *)(void *)(table->entries + i * table->entry_bytes);
}

/* The place of a key, or the empty one where it belongs. */
static uint64_t *place(const struct dlm_table *table, uint64_t key)
{
	size_t at = (size_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 20) & (table->room - 1);

	while (*entry_at(table, at) && *entry_at(table, at) != key)
		at = (at + 1) & (table->room - 1);
	return entry_at(table, at);
}

static bool grow(struct dlm_table *table)
{
	struct dlm_table larger = *table;

	larger.room = table->room ? 2 * table->room : FIRST_ROOM;
	larger.entries = calloc(larger.room, table->entry_bytes);
	if (!larger.entries)
		return false;
	for (uint64_t *entry = NULL; (entry = dlmi_table_next(table, entry));)
		memcpy(place(&larger, *entry), entry, table->entry_bytes);
	free(table->entries);
	*table = larger;
	return true;
}

void *dlmi_table_find(const struct dlm_table *table, uint64_t key)
{
	uint64_t *entry = table->room ? place(table, key) : NULL;

	return entry && *entry ? entry : NULL;
}

void *dlmi_table_get(struct dlm_table *table, uint64_t key)
{
	uint64_t *entry;

	if (2 * table->count >= table->room && !grow(table))
		return NULL;
	entry = place(table, key);
	table->count += !*entry;
	*entry = key;
	return entry;
}

void *dlmi_table_next(const struct dlm_table *table, const void *entry)
{
	size_t i =
		entry ? (size_t)((const char *)entry - table->entries) / table->entry_bytes + 1 : 0;

	while (i < table->room && !*entry_at(table, i))
		i++;
	return i < table->room ? entry_at(table, i) : NULL;
}

void dlmi_table_free(struct dlm_table *table)
{
	free(table->entries);
}
