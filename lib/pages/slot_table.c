/* SPDX-License-Identifier: MIT */
/* The slot table under RCU. */

#include "pages/slot_table.h"

#include "pages/rcu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ID_STEP = 64 };

#ifdef DLI_TSAN
atomic_uint dli_rcu_edge;
#endif

int dli_slot_new(const struct dl_os *os, uint32_t page_bytes, uint32_t id, uint64_t bytes,
		 struct dli_slot **out)
{
	struct dli_slot *slot = dli_allocate(1, sizeof(*slot));
	int r;

	if (!slot)
		return -ENOMEM;
	slot->slot = id;
	slot->bytes = bytes;
	slot->pages = bytes / page_bytes;
	atomic_init(&slot->references, 1);
	r = dli_page_set_new(os, slot->pages, &slot->set);
	if (r) {
		free(slot);
		return r;
	}
	*out = slot;
	return 0;
}

void dli_slot_get(struct dli_slot *slot)
{
	atomic_fetch_add_explicit(&slot->references, 1, memory_order_relaxed);
}

void dli_slot_put(struct dli_slot *slot)
{
	/* Pairs with itself, as in dli_log_put(). */
	if (atomic_fetch_sub_explicit(&slot->references, 1, memory_order_acq_rel) != 1)
		return;
	dli_page_set_free(slot->set);
	free(slot);
}

/* The caller fills by_id and ranges. */
static struct dli_slot_table *table_new(uint32_t ranges, uint32_t address_spaces, uint32_t ids)
{
	struct dli_slot_table *table = dli_allocate(1, sizeof(*table));

	if (!table)
		return NULL;
	table->ids = ids;
	table->address_spaces = address_spaces;
	/* One more than needed, so that an empty table is no special case. */
	table->by_id = dli_allocate_dirty((size_t)address_spaces * ids + 1, sizeof(*table->by_id));
	table->ranges = dli_allocate_dirty((size_t)ranges + 1, sizeof(*table->ranges));
	if (!table->by_id || !table->ranges) {
		dli_slot_table_free(table);
		return NULL;
	}
	return table;
}

void dli_slot_table_free(struct dli_slot_table *table)
{
	if (!table)
		return;
	free(table->by_id);
	free(table->ranges);
	free(table);
}

int dli_slots_init(struct dli_slots *slots)
{
	struct dli_slot_table *table = table_new(0, 0, 0);

	if (!table)
		return -ENOMEM;
	atomic_init(&slots->table, table);
	return 0;
}

void dli_slots_fini(struct dli_slots *slots)
{
	struct dli_slot_table *table = dli_slots_table(slots);
	struct dli_slot *slot;

	if (!table)
		return;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		dli_slot_put(slot);
	dli_slot_table_free(table);
}

static bool range_before(const struct dli_slot_range *a, uint32_t as_id, uint64_t end)
{
	return a->as_id < as_id || (a->as_id == as_id && a->gpa + a->slot->bytes <= end);
}

uint32_t dli_slot_range_at(const struct dli_slot_table *table, uint32_t as_id, uint64_t gpa)
{
	uint32_t low = 0, high = table->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (range_before(&table->ranges[middle], as_id, gpa))
			low = middle + 1;
		else
			high = middle;
	}
	return low < table->n && table->ranges[low].as_id == as_id ? low : table->n;
}

bool dli_slot_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
		       uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	uint32_t i = dli_slot_range_at(table, as_id, gpa);

	for (; i < table->n && table->ranges[i].as_id == as_id; i++) {
		if (table->ranges[i].gpa >= gpa + bytes)
			return false;
		if (table->ranges[i].slot != except)
			return true;
	}
	return false;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static struct dli_slot **entry_of(const struct dli_slot_table *table, const struct dli_slot *slot)
{
	return &table->by_id[(slot->slot >> 16) * table->ids + (slot->slot & 0xffff)];
}

/* Row by row, as the new table may have room for more ids. */
static void copy_ids(struct dli_slot_table *table, const struct dli_slot_table *old)
{
	for (uint32_t as_id = 0; as_id < table->address_spaces; as_id++) {
		uint32_t n = as_id < old->address_spaces ? old->ids : 0;
		struct dli_slot **row = table->by_id + (size_t)as_id * table->ids;

		memcpy(row, old->by_id + (size_t)as_id * old->ids, n * sizeof(*row));
		memset(row + n, 0, (table->ids - n) * sizeof(*row));
	}
}

/* The first range whose address is not below gpa. */
static uint32_t find_position(const struct dli_slot_table *table, uint32_t as_id, uint64_t gpa)
{
	uint32_t low = 0, high = table->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct dli_slot_range *range = &table->ranges[middle];

		if (range->as_id < as_id || (range->as_id == as_id && range->gpa < gpa))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void take_out(struct dli_slot_table *table, const struct dli_slot *slot)
{
	uint32_t i = 0;

	while (table->ranges[i].slot != slot)
		i++;
	memmove(&table->ranges[i], &table->ranges[i + 1],
		(--table->n - i) * sizeof(table->ranges[0]));
	*entry_of(table, slot) = NULL;
}

static void put_in(struct dli_slot_table *table, struct dli_slot *slot, uint64_t gpa)
{
	uint32_t as_id = slot->slot >> 16, i = find_position(table, as_id, gpa);

	memmove(&table->ranges[i + 1], &table->ranges[i],
		(table->n++ - i) * sizeof(table->ranges[0]));
	table->ranges[i] = (struct dli_slot_range){ as_id, gpa, slot };
	*entry_of(table, slot) = slot;
}

struct dli_slot_table *dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *remove,
					 struct dli_slot *add, uint64_t gpa)
{
	const struct dli_slot_table *old = dli_slots_table(slots);
	uint32_t address_spaces = old->address_spaces, ids = old->ids;
	struct dli_slot_table *table;

	if (add) {
		address_spaces = larger(address_spaces, (add->slot >> 16) + 1);
		/* Some at a time, so that most copies are of whole blocks of memory. */
		ids = larger(ids, ((add->slot & 0xffff) / ID_STEP + 1) * ID_STEP);
	}
	table = table_new(old->n + 1, address_spaces, ids);
	if (!table)
		return NULL;
	copy_ids(table, old);
	memcpy(table->ranges, old->ranges, old->n * sizeof(old->ranges[0]));
	table->n = old->n;
	if (remove)
		take_out(table, remove);
	if (add)
		put_in(table, add, gpa);
	return table;
}

struct dli_slot_table *dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *table)
{
	struct dli_slot_table *old = dli_slots_table(slots);

	/* Pairs with dli_slots_table(). */
	atomic_store_explicit(&slots->table, table, memory_order_release);
	dli_rcu_synchronize();
	return old;
}

void dli_slots_sweep(struct dli_slots *slots, bool all)
{
	struct dli_slot **at = &slots->retired;

	while (*at) {
		struct dli_slot *slot = *at;

		if (!all && (dli_page_set_pending_pages(slot->set) ||
			     dli_page_set_in_flight_pages(slot->set))) {
			at = &slot->next_retired;
			continue;
		}
		*at = slot->next_retired;
		dli_slot_put(slot);
	}
}
