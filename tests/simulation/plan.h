/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_PLAN_H
#define SIMULATION_PLAN_H

/*
 * The plan of a run, drawn from one seed: the kernel, the guest, the actors and their operations.
 * Parts can be dropped while the rest stays the same, which is how a failure is reduced.
 */

#include <stdbool.h>
#include <stdint.h>

#include "scheduler.h"

enum {
	PLAN_ACTORS = 20,
	PLAN_OPS = 400,
	PLAN_SLOTS = 8,
	PLAN_BLOCKS = 5,
	PLAN_BLOCK_PAGES = 200,
	PLAN_VCPUS = 4,
	PLAN_CONSUMERS = 4,
};

enum actor_kind {
	ACTOR_VCPU,
	ACTOR_DEVICE,
	ACTOR_KERNEL_WRITER,
	ACTOR_SLOTTER,
	ACTOR_HARVESTER,
	ACTOR_SENDER,
	ACTOR_CANCELLER,
	ACTOR_FAULTS,
	ACTOR_WATCHER,
	ACTOR_CLOSER,
	ACTOR_THROTTLER,
	ACTOR_KINDS,
};

enum op_code {
	OP_IDLE, /* a few points */
	/* vCPU operations. */
	OP_WRITE,     /* count pages of slot, from page on */
	OP_UNCHECKED, /* likewise, but by the kernel on its behalf, even if the ring is full */
	OP_EXIT,
	OP_DRAIN,  /* outside the guest, once or twice */
	OP_REPLUG, /* remove, and add again */
	/* Device operations. */
	OP_MARK, /* write and mark, by slot or by address */
	OP_NOISE_MARK,
	/* Memory layout operations. */
	OP_SET,
	OP_REMOVE,
	/* Harvester and sender operations. */
	OP_HARVEST,
	OP_PASS,
	/* Session operations. */
	OP_STOP,
	OP_START,
	OP_FAULT,
	OP_WATCH,
	OP_CLOSE,
	OP_WANT, /* of the memory layout */
	/* Throttler operations. */
	OP_LIMIT,   /* of the vCPU count */
	OP_MIGRATE, /* makes the plan of the consumer slot, or frees the plan */
	OP_LOOK,    /* at the plan */
	OP_KICKS,
	OP_CODES,
};

struct op {
	uint8_t code;
	bool dropped;
	uint8_t slot;
	uint8_t count;
	uint16_t page;
	uint16_t flags;
	uint32_t number;
};

struct actor {
	uint8_t kind;
	uint8_t number; /* among its kind */
	bool dropped;
	uint16_t first_op, ops;
};

/* A place for a slot: its id, its memory and its possible addresses. */
struct place {
	uint32_t slot; /* as_id << 16 | id */
	uint8_t block;
	uint16_t first_page, pages;
	uint32_t gpa_pages[2];
	bool is_stable; /* set from the beginning, and never moved or removed */
	bool is_wanted; /* at first */
	uint8_t owner;	/* the slotter that sets and removes it */
};

/* A consumer: whether it reads or takes, and its options. */
struct wish {
	bool dropped;
	bool takes;
	bool takes_too;	  /* between the reads of a pass */
	bool starts_late; /* a canceller starts it */
	uint8_t place;	  /* of DL_CURSOR_ONE_SLOT */
	uint32_t flags;	  /* enum dl_cursor_flag */
	uint32_t coalesce_pages, max_pages;
};

struct plan {
	uint64_t seed;
	struct sim_policy policy;

	/* The kernel. */
	uint32_t has, mode, write_order, ring_entries, soft_limit_entries, batch_writes;
	uint32_t pml_entries, ring_first_index;
	bool backup, delete_unmaps_all, looks_at_ring_on_entry, protects_ranges;
	/* The caller. */
	bool starts_clean;
	bool closes_early;
	bool overflows;	    /* rings may overflow */
	bool is_focused;    /* on overflows: few other actors */
	bool slow_calls;    /* other tasks run for long while one is in the kernel */
	bool sends_late;    /* contents are read at one moment and delivered at another */
	bool keeps_words;   /* of removed slots, until their memory has a slot again */
	bool faults_in_end; /* there are still faults in the last pass */
	bool limits;	    /* vCPUs have limits, and ask for their pauses */

	uint32_t vcpus, consumer_count;
	struct wish wishes[PLAN_CONSUMERS];
	uint32_t place_count, block_count;
	struct place places[PLAN_SLOTS];
	uint16_t block_pages[PLAN_BLOCKS];

	uint32_t actor_count, op_count;
	struct actor actors[PLAN_ACTORS];
	struct op ops[PLAN_OPS];
};

void plan_make(struct plan *plan, uint64_t seed);
void plan_print(const struct plan *plan, FILE *to);

extern const char *const actor_names[ACTOR_KINDS];
extern const char *const op_names[OP_CODES];

#endif
