/* SPDX-License-Identifier: MIT */
#ifndef DLI_SLOTS_H
#define DLI_SLOTS_H

#include "pages/audit.h"
#include "pages/owed.h"
#include "pages/page_set.h"
#include "pages/slot_index.h"

#include <stdatomic.h>

/*
 * The memslots, and the table that finds them by number, by guest address and by host address.
 * Readers use a table inside an RCU read section; writers hold the log's lock and replace it by one
 * that shares most of its memory (slot_parts.h). The slot object is what identifies a slot, since
 * numbers are reused; it is freed after the last reader of a table that has it.
 */
struct dli_view;
struct dli_alias;

struct dli_slot {
	uint32_t slot;	/* as_id << 16 | id */
	uint32_t flags; /* DL_SLOT_NO_LOG, DL_SLOT_WANTED */
	uint32_t kvm_flags;
	_Atomic uint64_t gpa; /* changes when the slot is moved */
	uint64_t bytes, hva, pages, cookie;
	/*
	 * Pages are marked here; NULL while no cursor covers the slot. Replaced under the log's
	 * lock, and read inside an RCU read section.
	 */
	_Atomic(struct dli_page_set *) target;
	/*
	 * The set of the cursor that has the plan, NULL if none covers the slot. Pages that are
	 * pending there are not new to the migration, whoever else has not seen them. Like target.
	 */
	_Atomic(struct dli_page_set *) planned;
	/* Under the log's lock. */
	struct dli_page_set *fresh; /* the target of a slot with several views; NULL until needed */
	struct dli_view *views;
	struct dli_owed owed;
	uint64_t age;		   /* orders slots by their creation */
	struct dli_alias *aliases; /* by age; aliases.h */
	uint32_t n_aliases;
	bool logged;	  /* KVM has KVM_MEM_LOG_DIRTY_PAGES on it */
	bool in_doubt;	  /* a call that failed, or another program, may have changed that */
	uint64_t read_ns; /* its bitmap was read, or its logging switched on or off */
	/* Under the log's lock: watch.h. */
	uint64_t watched_at;	 /* the VMM's second mapping of the memory; 0: not watched */
	bool watched_huge;	 /* that is hugetlb memory */
	struct dli_view *missed; /* views of cursors that are shown what the audit finds */
	/* NULL: no audit. Replaced under the log's lock, and read inside an RCU read section. */
	_Atomic(struct dli_audit *) audit;
};

enum { DLI_ID_BLOCK = 128 };

struct dli_slot_place {
	struct dli_slot *slot;
	uint64_t gpa; /* in this table; the slot's own may be ahead of it */
};

/* Slots of one address space by id. */
struct dli_id_block {
	struct dli_part part;
	uint32_t n; /* places that are taken */
	struct dli_slot_place places[DLI_ID_BLOCK];
};

struct dli_slot_table {
	uint32_t n;
	uint32_t id_blocks; /* for each address space */
	uint32_t address_spaces;
	struct dli_id_block **by_id; /* [as_id * id_blocks + id / DLI_ID_BLOCK]; NULL: no slots */
	struct dli_index by_gpa, by_hva;
	struct dli_parts parts; /* how it differs from the table that it was prepared from */
	struct dli_part *last;	/* freed with the table: what no other has */
};

struct dli_slots {
	_Atomic(struct dli_slot_table *) table;
	_Atomic bool logging; /* some cursor exists; written under the log's lock */
	_Atomic bool planned; /* a cursor has a plan; likewise */
};

int dli_slot_new(uint32_t page_bytes, uint32_t slot, uint64_t bytes, struct dli_slot **out);
void dli_slot_free(struct dli_slot *slot);

/* Inside a read section, or with the log's lock held. NULL: no cursor covers the slot. */
static inline struct dli_page_set *dli_slot_target(const struct dli_slot *slot)
{
	/* Pairs with set_target() in view.c. */
	return atomic_load_explicit(&slot->target, memory_order_acquire);
}

/*
 * Inside a read section, or with the log's lock held. The set that tells what is new if the target
 * does not; NULL: the target does.
 */
static inline struct dli_page_set *dli_slot_planned(const struct dli_slot *slot,
						    const struct dli_page_set *target)
{
	/* Pairs with dli_view_set_planned(): the set is complete. */
	struct dli_page_set *planned = atomic_load_explicit(&slot->planned, memory_order_acquire);

	return planned == target ? NULL : planned;
}

/* Inside a read section, or with the log's lock held. NULL: marks are not audited. */
static inline struct dli_audit *dli_slot_audit(const struct dli_slot *slot)
{
	/* Pairs with set_audit() in watch.c. */
	return atomic_load_explicit(&slot->audit, memory_order_acquire);
}

/*
 * True if dirty pages of the slot may count as new: while there is a plan, only those of the slots
 * that its cursor covers do. Orders nothing: when a plan begins or ends, a few are miscounted.
 */
static inline bool dli_slots_count_new(const struct dli_slots *slots, const struct dli_slot *slot)
{
	return !atomic_load_explicit(&slots->planned, memory_order_relaxed) ||
	       atomic_load_explicit(&slot->planned, memory_order_relaxed);
}

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

static inline struct dli_slot *dli_slot_find(const struct dli_slot_table *table, uint32_t slot)
{
	uint32_t as_id = slot >> 16, id = slot & 0xffff;

	const struct dli_id_block *block;

	if (as_id >= table->address_spaces || id / DLI_ID_BLOCK >= table->id_blocks)
		return NULL;
	block = table->by_id[as_id * table->id_blocks + id / DLI_ID_BLOCK];
	return block ? block->places[id % DLI_ID_BLOCK].slot : NULL;
}

/* Goes through the slots of a table by address space and address. */
struct dli_slot_walk {
	struct dli_index_position at;
};

static inline struct dli_slot_walk dli_slot_walk(const struct dli_slot_table *table)
{
	return (struct dli_slot_walk){ .at = { .index = &table->by_gpa } };
}

/* Begins with the first slot of the address space that ends after gpa, then as dli_slot_walk(). */
static inline struct dli_slot_walk dli_slot_walk_from(const struct dli_slot_table *table,
						      uint32_t as_id, uint64_t gpa)
{
	return (struct dli_slot_walk){ dli_index_after(&table->by_gpa, as_id, gpa) };
}

/* The slot's range of guest addresses, where key.as_id is the address space. NULL: no more. */
static inline const struct dli_index_entry *dli_slot_next_range(struct dli_slot_walk *walk)
{
	return dli_index_next(&walk->at);
}

/* NULL: there are no more. */
static inline struct dli_slot *dli_slot_next(struct dli_slot_walk *walk)
{
	const struct dli_index_entry *range = dli_slot_next_range(walk);

	return range ? range->slot : NULL;
}

/* Goes through the slots that map any of [hva, hva + bytes), by host address. Not for 0 bytes. */
struct dli_slot_hva_walk {
	struct dli_index_search search;
};

static inline struct dli_slot_hva_walk dli_slot_hva_walk(const struct dli_slot_table *table,
							 uint64_t hva, uint64_t bytes)
{
	return (struct dli_slot_hva_walk){ dli_index_search(&table->by_hva, hva, hva + bytes) };
}

/* NULL: there are no more. */
static inline struct dli_slot *dli_slot_hva_next(struct dli_slot_hva_walk *walk)
{
	const struct dli_index_entry *range = dli_index_found(&walk->search);

	return range ? range->slot : NULL;
}

/* True if the range of guest addresses overlaps a slot other than except. */
bool dli_slot_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
		       uint32_t as_id, uint64_t gpa, uint64_t bytes);

/* True if a slot other than except, of any address space, maps any of these host addresses. */
bool dli_slot_hva_overlaps(const struct dli_slot_table *table, const struct dli_slot *except,
			   uint64_t hva, uint64_t bytes);

/*
 * Makes a table without the slot remove and with the slot add at gpa; both may be NULL. It has no
 * effect until dli_slots_publish(). A slot's number, bytes and hva do not change while it is in a
 * table. NULL: no memory.
 */
struct dli_slot_table *dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *remove,
					 struct dli_slot *add, uint64_t gpa);

/* Frees a table that is prepared or replaced; never the slots. */
void dli_slot_table_free(struct dli_slot_table *table);

/*
 * Replaces the table by one that was prepared from it, or by the one before, which undoes a change.
 * Returns the old one, after its last reader.
 */
struct dli_slot_table *dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *table);

#endif
