/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

/*
 * For fuzz_calls.c: a VM of the model kernel with its log, and the state of a caller, which has
 * slots, memory and a copy of the memory.
 */

#include "fuzz.h"
#include "model.h"

#include <dirtylog/dirtylog.h>

enum {
	ARENA_BYTES = 2 << 20, /* memory of valid slots */
	ARENA_PAGES = ARENA_BYTES / 4096,
	MAX_SLOTS = 16,
	VCPUS = 2,
	ADDRESS_SPACES = 2,
	SLOT_IDS = 12,
	/* Larger sets are slow to write, bit by bit. */
	MAX_SLOT_PAGES = 1 << 16,
	MAX_HANDED = 64,
	TAIL_BYTES = 64,    /* after the structs that are passed in */
	FIRST_COOKIE = 100, /* of the first vCPU */
};

struct range {
	uint32_t slot;
	bool gone; /* the slot was moved or removed since */
	uint64_t ticket;
	uint64_t offset_bytes, bytes, hva;
};

/* A slot that is watched. */
struct watch {
	uint32_t slot;
	bool audit;
	uint64_t start, bytes;
};

/* One vCPU's. */
struct limit {
	uint64_t own; /* 0: none */
	uint64_t pause_end_ns;
	bool kick_allowed;
};

struct plan {
	struct dl_plan *handle; /* NULL: none */
	bool works;		/* its cursor is there */
	bool limits;		/* vCPUs */
	uint64_t lapses_ns;
	uint64_t downtime_ns, longest_pause_ns;
	uint32_t least_run_ppm;
};

struct world {
	struct input in;
	struct model *model;
	struct model_options kernel;
	uint32_t page_bytes;
	int vm_fd;
	struct dl_log *log;
	struct dl_config config;

	int vcpu_fds[VCPUS];
	struct dl_vcpu *vcpus[VCPUS];

	struct dl_slot slots[MAX_SLOTS]; /* those of the log; flags: NO_LOG only */
	unsigned int slot_count;

	uint8_t *arena, *alias; /* where the VMM maps the arena again; nothing is mapped there */
	uint64_t value;		/* of the last store; never repeats */
	uint64_t copy[ARENA_PAGES];
	bool excused[ARENA_PAGES]; /* not logged, or discarded by the caller */

	struct dl_cursor *cursor; /* of all slots; NULL: nothing is logged */
	bool in_pass, coalesces;
	struct range handed[MAX_HANDED], acked[MAX_HANDED];
	unsigned int handed_count, acked_count;

	struct watch watches[MAX_SLOTS];
	unsigned int watch_count;

	struct limit limits[VCPUS];
	struct plan plan;
};

extern struct world world;

/* calls_options.c: tries to open the log with any options, then opens it with plain ones. */
void world_open(struct world *w);

/* calls_world.c */
struct dl_slot *world_slot(struct world *w, uint32_t slot); /* NULL: none */
int world_region(struct world *w, const struct dl_slot *slot, uint64_t bytes, uint32_t flags);
bool world_in_arena(const struct world *w, uint64_t hva);
uint64_t *world_memory(const struct world *w, uint64_t hva);
uint64_t world_arena_page(const struct world *w, uint64_t hva);
void world_excuse(struct world *w, const struct dl_slot *slot, bool excused);
void world_equalize(struct world *w, const struct dl_slot *slot);
void world_copy_run(struct world *w, const struct dl_extent *run);
void world_store(struct world *w, const struct dl_slot *slot, uint64_t page, int vcpu);
void world_stop_vcpus(struct world *w);
void world_forget_pass(struct world *w);
void world_check_equal(struct world *w);
void world_close(struct world *w);

/* The state that a failed call must not change. */
struct snapshot {
	struct dl_stats stats;
	char text[512];
	uint64_t pending;      /* a hash of the pending runs */
	uint64_t regions;      /* KVM_SET_USER_MEMORY_REGION calls */
	uint64_t kernel_slots; /* a hash of the kernel's slots */
};

void world_snapshot(struct world *w, struct snapshot *snapshot);
void world_expect_same(struct world *w, const struct snapshot *before);

/* calls_bitmap.c; slot may be NULL */
void slots_mark_bitmap(struct world *w, const struct dl_slot *slot);

/* calls_slots.c */
/* A device writes the pages of the range. True if all of the range is in slots. */
bool slots_device_writes(struct world *w, uint32_t as_id, uint64_t gpa, uint64_t bytes);
void slots_set(struct world *w);
void slots_remove(struct world *w);
void slots_mark(struct world *w);

/* calls_watch.c */
void watches(struct world *w);
void watches_forget(struct world *w, uint32_t slot);
bool world_records(const struct world *w); /* marks are */

/* calls_limit.c */
void limits(struct world *w);
void limits_closed(struct world *w);
void plan_free(struct world *w);

/* calls_cursor.c */
void cursor_new(struct world *w);
void cursor_free(struct world *w);
void cursor_harvest(struct world *w);
void cursor_read(struct world *w);
void cursor_ack(struct world *w);
void cursor_end(struct world *w);
void cursor_take(struct world *w);

#endif
