/* SPDX-License-Identifier: MIT */
/* The slot table under RCU. */

#include "pages/slot_table.h"

#include "pages/rcu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef DLI_TSAN
atomic_uint dli_rcu_edge;
#endif

int dli_slot_new(uint32_t page_bytes, uint32_t id, uint64_t bytes, struct dli_slot **out)
{
	struct dli_slot *slot = dli_allocate(1, sizeof(*slot));

	if (!slot)
		return -ENOMEM;
	slot->slot = id;
	slot->bytes = bytes;
	slot->pages = bytes / page_bytes;
	*out = slot;
	return 0;
}

void dli_slot_free(struct dli_slot *slot)
{
	if (!slot)
		return;
	dli_page_set_free(slot->fresh);
	dli_owed_fini(&slot->owed);
	free(slot->aliases);
	free(slot);
}

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* Room for the blocks of all ids of all address spaces, copied from the old table. */
static bool copy_ids(struct dli_slot_table *table, const struct dli_slot_table *old,
		     const struct dli_slot *add)
{
	uint32_t blocks = old->id_blocks, address_spaces = old->address_spaces;

	if (add) {
		address_spaces = larger(address_spaces, (add->slot >> 16) + 1);
		blocks = larger(blocks, (add->slot & 0xffff) / DLI_ID_BLOCK + 1);
	}
	/* One more than needed, so that an empty table is no special case. */
	table->by_id = dli_allocate((size_t)address_spaces * blocks + 1, sizeof(*table->by_id));
	if (!table->by_id)
		return false;
	table->id_blocks = blocks;
	table->address_spaces = address_spaces;
	for (uint32_t as_id = 0; as_id < old->address_spaces; as_id++)
		memcpy(&table->by_id[as_id * blocks], &old->by_id[as_id * old->id_blocks],
		       old->id_blocks * sizeof(*table->by_id));
	return true;
}

static struct dli_slot_table *copy_table(const struct dli_slot_table *old,
					 const struct dli_slot *add)
{
	struct dli_slot_table *table = dli_allocate(1, sizeof(*table));

	if (!table)
		return NULL;
	table->n = old->n;
	table->parts.version = old->parts.version + 1;
	if (!copy_ids(table, old, add) || !dli_index_copy(&table->by_gpa, &old->by_gpa) ||
	    !dli_index_copy(&table->by_hva, &old->by_hva)) {
		dli_slot_table_free(table);
		return NULL;
	}
	return table;
}

void dli_slot_table_free(struct dli_slot_table *table)
{
	if (!table)
		return;
	dli_part_free_list(table->last);
	free(table->by_id);
	free(table->by_gpa.branches);
	free(table->by_hva.branches);
	free(table);
}

int dli_slots_init(struct dli_slots *slots)
{
	static const struct dli_slot_table nothing;
	struct dli_slot_table *table = copy_table(&nothing, NULL);

	if (!table)
		return -ENOMEM;
	atomic_init(&slots->table, table);
	return 0;
}

/* Every part of the table that is in use, instead of what only differs from another. */
static void collect_parts(struct dli_slot_table *table)
{
	struct dli_parts all = { 0 };

	for (uint32_t i = 0; i < table->address_spaces * table->id_blocks; i++)
		if (table->by_id[i])
			dli_part_replace(&all, &table->by_id[i]->part);
	for (uint32_t i = 0; i < table->by_gpa.n; i++)
		dli_part_replace(&all, &table->by_gpa.branches[i].leaf->part);
	for (uint32_t i = 0; i < table->by_hva.n; i++)
		dli_part_replace(&all, &table->by_hva.branches[i].leaf->part);
	table->last = all.replaced;
}

void dli_slots_fini(struct dli_slots *slots)
{
	struct dli_slot_table *table = dli_slots_table(slots);
	struct dli_slot *slot;

	if (!table)
		return;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		dli_slot_free(slot);
	collect_parts(table);
	dli_slot_table_free(table);
}

bool dli_slot_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
		       uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	struct dli_slot_walk walk = dli_slot_walk_from(table, as_id, gpa);
	const struct dli_index_entry *range;

	while ((range = dli_slot_next_range(&walk))) {
		if (range->key.as_id != as_id || range->key.address >= gpa + bytes)
			return false;
		if (range->slot != except)
			return true;
	}
	return false;
}

bool dli_slot_hva_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
			   uint64_t hva, uint64_t bytes)
{
	struct dli_slot_hva_walk walk = dli_slot_hva_walk(table, hva, bytes);
	const struct dli_slot *slot;

	while ((slot = dli_slot_hva_next(&walk)))
		if (slot != except)
			return true;
	return false;
}

static struct dli_id_block **block_of(const struct dli_slot_table *table,
				      const struct dli_slot *slot)
{
	uint32_t as_id = slot->slot >> 16, id = slot->slot & 0xffff;

	return &table->by_id[as_id * table->id_blocks + id / DLI_ID_BLOCK];
}

/* The slot's place in a block that only this table has. NULL: no memory. */
static struct dli_slot_place *fresh_place(struct dli_slot_table *table, const struct dli_slot *slot)
{
	struct dli_id_block **at = block_of(table, slot), *old = *at, *block = old;

	if (!old || !dli_part_is_fresh(&table->parts, &old->part)) {
		block = dli_part_new(&table->parts, sizeof(*block));
		if (!block)
			return NULL;
		block->n = old ? old->n : 0;
		if (old)
			memcpy(block->places, old->places, sizeof(block->places));
		else
			memset(block->places, 0, sizeof(block->places));
		if (old)
			dli_part_replace(&table->parts, &old->part);
		*at = block;
	}
	return &block->places[(slot->slot & 0xffff) % DLI_ID_BLOCK];
}

static struct dli_index_entry range_of(struct dli_slot *slot, uint64_t gpa)
{
	return (struct dli_index_entry){
		.key = { .as_id = slot->slot >> 16, .number = slot->slot, .address = gpa },
		.end = gpa + slot->bytes,
		.slot = slot,
	};
}

static struct dli_index_entry host_range_of(struct dli_slot *slot)
{
	return (struct dli_index_entry){
		.key = { .number = slot->slot, .address = slot->hva },
		.end = slot->hva + slot->bytes,
		.slot = slot,
	};
}

static bool remove_ranges(struct dli_slot_table *table, struct dli_slot *slot, uint64_t gpa,
			  bool moves)
{
	const struct dli_index_entry range = range_of(slot, gpa), host = host_range_of(slot);

	if (!dli_index_remove(&table->by_gpa, &table->parts, &range.key))
		return false;
	return moves || dli_index_remove(&table->by_hva, &table->parts, &host.key);
}

static bool take_out(struct dli_slot_table *table, struct dli_slot *slot, bool moves)
{
	struct dli_id_block *block = *block_of(table, slot);
	uint64_t gpa = block->places[(slot->slot & 0xffff) % DLI_ID_BLOCK].gpa;
	struct dli_slot_place *place;

	table->n--;
	if (!remove_ranges(table, slot, gpa, moves))
		return false;
	if (block->n == 1) {
		dli_part_replace(&table->parts, &block->part);
		*block_of(table, slot) = NULL;
		return true;
	}
	place = fresh_place(table, slot);
	if (!place)
		return false;
	*place = (struct dli_slot_place){ 0 };
	(*block_of(table, slot))->n--;
	return true;
}

static bool put_in(struct dli_slot_table *table, struct dli_slot *slot, uint64_t gpa, bool moves)
{
	const struct dli_index_entry range = range_of(slot, gpa), host = host_range_of(slot);
	struct dli_slot_place *place = fresh_place(table, slot);

	if (!place || !dli_index_add(&table->by_gpa, &table->parts, &range))
		return false;
	*place = (struct dli_slot_place){ slot, gpa };
	(*block_of(table, slot))->n++;
	table->n++;
	return moves || dli_index_add(&table->by_hva, &table->parts, &host);
}

struct dli_slot_table *dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *remove,
					 struct dli_slot *add, uint64_t gpa)
{
	struct dli_slot_table *table = copy_table(dli_slots_table(slots), add);
	bool moves = remove == add, done = true;

	if (!table)
		return NULL;
	if (remove)
		done = take_out(table, remove, moves);
	if (done && add)
		done = put_in(table, add, gpa, moves);
	/* Until it is published, only this table has them. */
	table->last = table->parts.fresh;
	if (done)
		return table;
	dli_slot_table_free(table);
	return NULL;
}

struct dli_slot_table *dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *table)
{
	struct dli_slot_table *old = dli_slots_table(slots);

	/* If it goes back to the one before, old is still the only one with its fresh parts. */
	if (table->parts.version > old->parts.version)
		old->last = table->parts.replaced;
	/* Pairs with dli_slots_table(). */
	atomic_store_explicit(&slots->table, table, memory_order_release);
	dli_rcu_synchronize();
	return old;
}
