/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOT_INDEX_H
#define DLI_SLOT_INDEX_H

#include "pages/slot_parts.h"

/*
 * Slots in the order of an address: leaves of sorted entries, and an array of branches, one for
 * each leaf. A change copies the branches and one to three leaves. Two indexes use it: by guest
 * address, where entries do not overlap, and by host address, where they may.
 */
enum { DLI_INDEX_LEAF = 128 };

struct dli_slot;

/* Sorted by as_id, address and number. */
struct dli_index_key {
	uint32_t as_id;	 /* 0 in the index by host address */
	uint32_t number; /* of the slot: tells entries of one host address apart */
	uint64_t address;
};

struct dli_index_entry {
	struct dli_index_key key;
	uint64_t end;
	uint64_t reach; /* the highest end in the leaf up to here */
	struct dli_slot *slot;
};

/* Never empty. */
struct dli_index_leaf {
	struct dli_part part;
	uint32_t n;
	struct dli_index_entry entries[DLI_INDEX_LEAF];
};

struct dli_index_branch {
	struct dli_index_key first;
	uint64_t leaf_reach; /* the highest end in the leaf */
	uint64_t reach;	     /* the highest end in the leaves up to this */
	struct dli_index_leaf *leaf;
};

struct dli_index {
	uint32_t n;
	struct dli_index_branch *branches;
};

/* A position in an index: before the entry, or at the end if there is no such branch. */
struct dli_index_position {
	const struct dli_index *index;
	uint32_t branch, entry;
};

/* Copies the branches, with room for one more leaf. False: no memory. */
bool dli_index_copy(struct dli_index *index, const struct dli_index *old);

/* Removes the entry, which exists. Comes before dli_index_add() in a change. False: no memory. */
bool dli_index_remove(struct dli_index *index, struct dli_parts *parts,
		      const struct dli_index_key *key);

/* Adds an entry; its reach need not be set. False: no memory. */
bool dli_index_add(struct dli_index *index, struct dli_parts *parts,
		   const struct dli_index_entry *entry);

/* The first entry of the address space that ends after the address, if entries do not overlap. */
struct dli_index_position dli_index_after(const struct dli_index *index, uint32_t as_id,
					  uint64_t address);

/* The entry here; moves on to the next. NULL: the end. */
static inline const struct dli_index_entry *dli_index_next(struct dli_index_position *at)
{
	const struct dli_index_leaf *leaf;
	const struct dli_index_entry *entry;

	if (at->branch == at->index->n)
		return NULL;
	leaf = at->index->branches[at->branch].leaf;
	entry = &leaf->entries[at->entry];
	if (++at->entry == leaf->n) {
		at->branch++;
		at->entry = 0;
	}
	return entry;
}

/* A search for the entries that overlap [from, to), which is not empty, in address space 0. */
struct dli_index_search {
	struct dli_index_position at;
	uint64_t from, to;
};

struct dli_index_search dli_index_search(const struct dli_index *index, uint64_t from, uint64_t to);

/* The next overlapping entry, by address. NULL: there are no more. */
const struct dli_index_entry *dli_index_found(struct dli_index_search *search);

#endif
