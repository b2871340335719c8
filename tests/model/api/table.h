/* SPDX-License-Identifier: MIT */
#ifndef MODEL_API_TABLE_H
#define MODEL_API_TABLE_H

/* A hash table whose entries begin with their key, a uint64_t that is not 0. */

#include <stddef.h>
#include <stdint.h>

struct dlm_table {
	size_t entry_bytes;
	size_t room, count; /* room is a power of two, or 0 */
	char *entries;
};

/* NULL: there is no such entry. */
void *dlmi_table_find(const struct dlm_table *table, uint64_t key);

/* The entry with that key; a new one is zero but for the key. NULL: no memory. */
void *dlmi_table_get(struct dlm_table *table, uint64_t key);

/* The entry after this one, the first after NULL; NULL after the last. */
void *dlmi_table_next(const struct dlm_table *table, const void *entry);

void dlmi_table_free(struct dlm_table *table);

#endif
