/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOTS_H
#define DLI_SLOTS_H

#include "pages/page_set.h"

#include <stdatomic.h>

/*
 * The memslots, and the table that finds them by id and by address. The table is replaced as a
 * whole: readers use it inside an RCU read section, writers hold the log's lock. A slot object
 * lives as long as anyone holds a reference, and is what says "still the same slot": an id is used
 * again.
 */
struct dli_slot {
	uint32_t slot;	/* as_id << 16 | id */
	uint32_t flags; /* DL_SLOT_NO_LOG */
	uint32_t kvm_flags;
	_Atomic uint64_t gpa; /* changes when it is moved */
	uint64_t bytes, hva, pages;
	struct dli_page_set *set;
	atomic_uint references;
	/* Under the log's lock. */
	bool logged; /* KVM has KVM_MEM_LOG_DIRTY_PAGES on it */
	bool deleted; /* KVM does not know it any more, and the table as soon as it can be replaced */
	bool discarded; /* gone, and its memory may be too. Also under the iterator's lock. */
	struct dli_slot *next_retired;
};

/* A range in the guest's address space, in the order of address space and address. */
struct dli_slot_range {
	uint32_t as_id;
	uint64_t gpa;
	struct dli_slot *slot;
};

struct dli_slot_table {
	uint32_t n;
	uint32_t ids; /* entries of by_id an address space */
	uint32_t address_spaces;
	struct dli_slot **by_id; /* [as_id * ids + id] */
	struct dli_slot_range *ranges;
};

struct dli_slots {
	_Atomic(struct dli_slot_table *) table;
	_Atomic bool logging;	  /* dirty pages are recorded; written under the log's lock */
	struct dli_slot *retired; /* gone, and to be handed out once more. Under the log's lock. */
};

int dli_slot_new(const struct dl_os *os, uint32_t page_bytes, uint32_t slot, uint64_t bytes,
		 struct dli_slot **out);
void dli_slot_get(struct dli_slot *slot);
void dli_slot_put(struct dli_slot *slot);

int dli_slots_init(struct dli_slots *slots);
void dli_slots_fini(struct dli_slots *slots);

/* For readers inside a read section, and for whoever holds the log's lock. */
static inline struct dli_slot_table *dli_slots_table(const struct dli_slots *slots)
{
	/* Pairs with dli_slots_publish(): the table and its slots are whole. */
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

static inline struct dli_slot *dli_slot_find(const struct dli_slot_table *table, uint32_t slot)
{
	uint32_t as_id = slot >> 16, id = slot & 0xffff;

	if (as_id >= table->address_spaces || id >= table->ids)
		return NULL;
	return table->by_id[as_id * table->ids + id];
}

/* The first range of the address space that ends behind gpa; table->n where there is none. */
uint32_t dli_slot_range_at(const struct dli_slot_table *table, uint32_t as_id, uint64_t gpa);

/* Whether a range overlaps a slot other than except. */
bool dli_slot_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
		       uint32_t as_id, uint64_t gpa, uint64_t bytes);

/*
 * A copy of the table without the slot remove (may be NULL) and with add (may be NULL) at gpa.
 * Nothing is changed until dli_slots_publish(). NULL: no memory.
 */
struct dli_slot_table *dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *remove,
					 struct dli_slot *add, uint64_t gpa);
void dli_slot_table_free(struct dli_slot_table *table);

/* Makes a prepared table the one, and returns the old one when no reader has it any more. */
struct dli_slot_table *dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *table);

/* Lets go of the retired slots that owe nobody anything, or of all. Under the log's lock. */
void dli_slots_sweep(struct dli_slots *slots, bool all);

#endif
