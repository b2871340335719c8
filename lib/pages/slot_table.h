/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOTS_H
#define DLI_SLOTS_H

#include "pages/page_set.h"

#include <stdatomic.h>

/*
 * The memslots, and the table that finds them by number and by address. The table is replaced as a
 * whole: readers use it inside an RCU read section, writers hold the log's lock. The slot object is
 * what identifies a slot, since numbers are reused; it lives until the last reference is dropped.
 */
struct dli_slot {
	uint32_t slot;	/* as_id << 16 | id */
	uint32_t flags; /* DL_SLOT_NO_LOG */
	uint32_t kvm_flags;
	_Atomic uint64_t gpa; /* changes when the slot is moved */
	uint64_t bytes, hva, pages;
	struct dli_page_set *set;
	atomic_uint references;
	/* Under the log's lock. */
	bool logged;	/* KVM has KVM_MEM_LOG_DIRTY_PAGES on it */
	bool deleted;	/* from KVM; and from the table, as soon as it can be replaced */
	bool discarded; /* deleted, memory perhaps unmapped. Also under the iterator's lock. */
	struct dli_slot *next_retired;
};

/* A slot's range of guest addresses. Ranges are sorted by address space and address. */
struct dli_slot_range {
	uint32_t as_id;
	uint64_t gpa;
	struct dli_slot *slot;
};

struct dli_slot_table {
	uint32_t n;
	uint32_t ids; /* entries of by_id for each address space */
	uint32_t address_spaces;
	struct dli_slot **by_id; /* [as_id * ids + id] */
	struct dli_slot_range *ranges;
};

struct dli_slots {
	_Atomic(struct dli_slot_table *) table;
	_Atomic bool logging;	  /* dirty pages are recorded; written under the log's lock */
	struct dli_slot *retired; /* deleted, with pages to hand out. Under the log's lock. */
};

int dli_slot_new(const struct dl_os *os, uint32_t page_bytes, uint32_t slot, uint64_t bytes,
		 struct dli_slot **out);
void dli_slot_get(struct dli_slot *slot);
void dli_slot_put(struct dli_slot *slot);

int dli_slots_init(struct dli_slots *slots);
void dli_slots_fini(struct dli_slots *slots);

/* Inside a read section, or with the log's lock held. */
static inline struct dli_slot_table *dli_slots_table(const struct dli_slots *slots)
{
	/* Pairs with dli_slots_publish(): the table and its slots are complete. */
	return atomic_load_explicit(&slots->table, memory_order_acquire);
}

/* Pairs with dli_slots_set_logging(): a reader that sees logging on sees what the start did. */
static inline bool dli_slots_are_logging(const struct dli_slots *slots)
{
	return atomic_load_explicit(&slots->logging, memory_order_acquire);
}

/* Pairs with dli_slots_are_logging(). */
static inline void dli_slots_set_logging(struct dli_slots *slots, bool on)
{
	atomic_store_explicit(&slots->logging, on, memory_order_release);
}

/* Goes through the slots of a table by address space and address. */
struct dli_slot_walk {
	const struct dli_slot_table *table;
	uint32_t next;
};

static inline struct dli_slot_walk dli_slot_walk(const struct dli_slot_table *table)
{
	return (struct dli_slot_walk){ .table = table };
}

/* NULL: there are no more. */
static inline struct dli_slot *dli_slot_next(struct dli_slot_walk *walk)
{
	if (walk->next == walk->table->n)
		return NULL;
	return walk->table->ranges[walk->next++].slot;
}

static inline struct dli_slot *dli_slot_find(const struct dli_slot_table *table, uint32_t slot)
{
	uint32_t as_id = slot >> 16, id = slot & 0xffff;

	if (as_id >= table->address_spaces || id >= table->ids)
		return NULL;
	return table->by_id[as_id * table->ids + id];
}

/* Index of the first range of the address space that ends after gpa; table->n if there is none. */
uint32_t dli_slot_range_at(const struct dli_slot_table *table, uint32_t as_id, uint64_t gpa);

/* True if the range overlaps a slot other than except. */
bool dli_slot_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
		       uint32_t as_id, uint64_t gpa, uint64_t bytes);

/*
 * Copies the table without the slot remove and with the slot add at gpa; both may be NULL. The copy
 * has no effect until dli_slots_publish(). NULL: no memory.
 */
struct dli_slot_table *dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *remove,
					 struct dli_slot *add, uint64_t gpa);
void dli_slot_table_free(struct dli_slot_table *table);

/* Replaces the table by a prepared one. Returns the old one, after its last reader. */
struct dli_slot_table *dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *table);

/*
 * Drops the retired slots with no pending or unacknowledged pages, or all of them. Under the log's
 * lock.
 */
void dli_slots_sweep(struct dli_slots *slots, bool all);

#endif
