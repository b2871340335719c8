/* SPDX-License-Identifier: MIT */
/* Sorted slots in leaves. Readers search a table's indexes; a change makes new ones. */

#include "pages/slot_index.h"

#include "kvm/os.h"

#include <string.h>

bool dli_index_copy(struct dli_index *index, const struct dli_index *old)
{
	index->n = old->n;
	index->branches = dli_allocate_dirty((size_t)old->n + 1, sizeof(*index->branches));
	if (!index->branches)
		return false;
	if (old->n)
		memcpy(index->branches, old->branches, old->n * sizeof(*index->branches));
	return true;
}

static bool key_before(const struct dli_index_key *a, const struct dli_index_key *b)
{
	if (a->as_id != b->as_id)
		return a->as_id < b->as_id;
	if (a->address != b->address)
		return a->address < b->address;
	return a->number < b->number;
}

/* The last leaf that does not begin after the key, or the first. The index is not empty. */
static uint32_t branch_of(const struct dli_index *index, const struct dli_index_key *key)
{
	uint32_t low = 1, high = index->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (key_before(key, &index->branches[middle].first))
			high = middle;
		else
			low = middle + 1;
	}
	return low - 1;
}

/* How many entries of the leaf are not after the key. */
static uint32_t entries_up_to(const struct dli_index_leaf *leaf, const struct dli_index_key *key)
{
	uint32_t low = 0, high = leaf->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (key_before(key, &leaf->entries[middle].key))
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

static uint64_t higher(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* After a change of entries of the leaf, from one on. */
static void note_reach_in_leaf(struct dli_index_leaf *leaf, uint32_t from)
{
	uint64_t reach = from ? leaf->entries[from - 1].reach : 0;

	for (uint32_t i = from; i < leaf->n; i++) {
		reach = higher(reach, leaf->entries[i].end);
		leaf->entries[i].reach = reach;
	}
}

static void set_branch(struct dli_index *index, uint32_t i, struct dli_index_leaf *leaf)
{
	struct dli_index_branch *branch = &index->branches[i];

	branch->leaf = leaf;
	branch->first = leaf->entries[0].key;
	branch->leaf_reach = leaf->entries[leaf->n - 1].reach;
}

/* After a change of branches, from one on. */
static void note_reach_of_leaves(struct dli_index *index, uint32_t from)
{
	uint64_t reach = from ? index->branches[from - 1].reach : 0;

	for (uint32_t i = from; i < index->n; i++) {
		reach = higher(reach, index->branches[i].leaf_reach);
		index->branches[i].reach = reach;
	}
}

static void insert_branch(struct dli_index *index, uint32_t i)
{
	memmove(&index->branches[i + 1], &index->branches[i],
		(index->n++ - i) * sizeof(*index->branches));
}

static void drop_branch(struct dli_index *index, uint32_t i)
{
	memmove(&index->branches[i], &index->branches[i + 1],
		(--index->n - i) * sizeof(*index->branches));
}

static struct dli_index_leaf *new_leaf(struct dli_parts *parts)
{
	struct dli_index_leaf *leaf = dli_part_new(parts, sizeof(*leaf));

	if (leaf)
		leaf->n = 0;
	return leaf;
}

static void append(struct dli_index_leaf *leaf, const struct dli_index_entry *entries, uint32_t n)
{
	memcpy(&leaf->entries[leaf->n], entries, n * sizeof(*entries));
	leaf->n += n;
}

/* Whether the leaf and the next would leave half a leaf free after a removal. */
static bool fit_together(const struct dli_index *index, uint32_t i)
{
	return i + 1 < index->n &&
	       index->branches[i].leaf->n + index->branches[i + 1].leaf->n - 1 <=
		       DLI_INDEX_LEAF / 2;
}

/* Moves the entries of n leaves into a new one. */
static struct dli_index_leaf *join(struct dli_index *index, struct dli_parts *parts, uint32_t i,
				   uint32_t n)
{
	struct dli_index_leaf *leaf = new_leaf(parts);

	if (!leaf)
		return NULL;
	for (uint32_t k = i; k < i + n; k++) {
		struct dli_index_leaf *old = index->branches[k].leaf;

		append(leaf, old->entries, old->n);
		dli_part_replace(parts, &old->part);
	}
	if (n == 2)
		drop_branch(index, i);
	return leaf;
}

bool dli_index_remove(struct dli_index *index, struct dli_parts *parts,
		      const struct dli_index_key *key)
{
	uint32_t i = branch_of(index, key), n = 1, at;
	struct dli_index_leaf *leaf = index->branches[i].leaf;

	if (leaf->n == 1) {
		dli_part_replace(parts, &leaf->part);
		drop_branch(index, i);
		note_reach_of_leaves(index, i);
		return true;
	}
	if (i && fit_together(index, i - 1))
		i--;
	if (fit_together(index, i))
		n = 2;
	leaf = join(index, parts, i, n);
	if (!leaf)
		return false;
	at = entries_up_to(leaf, key) - 1;
	memmove(&leaf->entries[at], &leaf->entries[at + 1],
		(--leaf->n - at) * sizeof(leaf->entries[0]));
	note_reach_in_leaf(leaf, n == 2 ? 0 : at);
	set_branch(index, i, leaf);
	note_reach_of_leaves(index, i);
	return true;
}

static void insert(struct dli_index_leaf *leaf, uint32_t at, const struct dli_index_entry *entry)
{
	memmove(&leaf->entries[at + 1], &leaf->entries[at],
		(leaf->n++ - at) * sizeof(leaf->entries[0]));
	leaf->entries[at] = *entry;
	note_reach_in_leaf(leaf, at);
}

/*
 * Splits a full leaf and adds the entry to one half. Slots are mostly added upwards, so the last
 * leaf stays full and the entry begins a new one.
 */
static bool split(struct dli_index *index, struct dli_parts *parts, uint32_t i,
		  const struct dli_index_entry *entry)
{
	struct dli_index_leaf *low = index->branches[i].leaf, *high = new_leaf(parts);
	uint32_t at = entries_up_to(low, &entry->key), keep = DLI_INDEX_LEAF / 2;

	if (!high)
		return false;
	if (i + 1 == index->n && at == low->n)
		keep = low->n;
	append(high, &low->entries[keep], low->n - keep);
	low->n = keep;
	if (at >= keep) {
		note_reach_in_leaf(high, 0);
		insert(high, at - keep, entry);
	} else {
		insert(low, at, entry);
		note_reach_in_leaf(high, 0);
	}
	insert_branch(index, i + 1);
	set_branch(index, i + 1, high);
	return true;
}

/* Replaces the leaf by a copy that may be changed, unless it is one. */
static bool make_fresh(struct dli_index *index, struct dli_parts *parts, uint32_t i)
{
	struct dli_index_leaf *leaf = index->branches[i].leaf;

	if (dli_part_is_fresh(parts, &leaf->part))
		return true;
	leaf = join(index, parts, i, 1);
	if (leaf)
		index->branches[i].leaf = leaf;
	return leaf != NULL;
}

static bool add_first(struct dli_index *index, struct dli_parts *parts,
		      const struct dli_index_entry *entry)
{
	struct dli_index_leaf *leaf = new_leaf(parts);

	if (!leaf)
		return false;
	insert(leaf, 0, entry);
	index->n = 1;
	set_branch(index, 0, leaf);
	note_reach_of_leaves(index, 0);
	return true;
}

bool dli_index_add(struct dli_index *index, struct dli_parts *parts,
		   const struct dli_index_entry *entry)
{
	struct dli_index_leaf *leaf;
	uint32_t i;

	if (!index->n)
		return add_first(index, parts, entry);
	i = branch_of(index, &entry->key);
	if (!make_fresh(index, parts, i))
		return false;
	leaf = index->branches[i].leaf;
	if (leaf->n == DLI_INDEX_LEAF) {
		if (!split(index, parts, i, entry))
			return false;
	} else {
		insert(leaf, entries_up_to(leaf, &entry->key), entry);
	}
	set_branch(index, i, leaf);
	note_reach_of_leaves(index, i);
	return true;
}

struct dli_index_position dli_index_after(const struct dli_index *index, uint32_t as_id,
					  uint64_t address)
{
	const struct dli_index_key key = { as_id, UINT32_MAX, address };
	struct dli_index_position at = { .index = index };
	const struct dli_index_leaf *leaf;

	if (!index->n)
		return at;
	at.branch = branch_of(index, &key);
	leaf = index->branches[at.branch].leaf;
	at.entry = entries_up_to(leaf, &key);
	if (at.entry && leaf->entries[at.entry - 1].key.as_id == as_id &&
	    leaf->entries[at.entry - 1].end > address)
		at.entry--;
	if (at.entry == leaf->n) {
		at.branch++;
		at.entry = 0;
	}
	return at;
}

struct dli_index_search dli_index_search(const struct dli_index *index, uint64_t from, uint64_t to)
{
	struct dli_index_search search = { .at = { .index = index }, .from = from, .to = to };
	uint32_t low = 0, high = index->n;

	/* Finds the first leaf that reaches the range. No leaf before it overlaps the range. */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (index->branches[middle].reach <= from)
			low = middle + 1;
		else
			high = middle;
	}
	search.at.branch = low;
	return search;
}

/* The first entry of the leaf that reaches the range; those before it do not overlap it. */
static uint32_t first_reaching(const struct dli_index_leaf *leaf, uint64_t from)
{
	uint32_t low = 0, high = leaf->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (leaf->entries[middle].reach <= from)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct dli_index_entry *found_in_leaf(struct dli_index_search *search,
						   const struct dli_index_leaf *leaf)
{
	if (!search->at.entry)
		search->at.entry = first_reaching(leaf, search->from);
	while (search->at.entry < leaf->n) {
		const struct dli_index_entry *entry = &leaf->entries[search->at.entry++];

		if (entry->key.address >= search->to)
			return NULL;
		if (entry->end > search->from)
			return entry;
	}
	return NULL;
}

const struct dli_index_entry *dli_index_found(struct dli_index_search *search)
{
	const struct dli_index *index = search->at.index;

	for (; search->at.branch < index->n; search->at.branch++, search->at.entry = 0) {
		const struct dli_index_branch *branch = &index->branches[search->at.branch];
		const struct dli_index_entry *entry;

		if (branch->first.address >= search->to)
			return NULL;
		/* A long entry far below makes the search begin early: pass over its followers. */
		if (branch->leaf_reach <= search->from)
			continue;
		entry = found_in_leaf(search, branch->leaf);
		if (entry)
			return entry;
	}
	return NULL;
}
