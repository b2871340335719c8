/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

/*
 * A VM of the model kernel with its log, and beside it what a caller knows: its slots, its memory
 * and a copy of it. For fuzz_calls.c.
 */

#include "fuzz.h"

#include <dirtylog/dirtylog.h>

#include "model.h"

enum {
	ARENA_BYTES = 2 << 20, /* memory behind good slots */
	ARENA_PAGES = ARENA_BYTES / 4096,
	MAX_SLOTS = 16,
	VCPUS = 2,
	ADDRESS_SPACES = 2,
	SLOT_IDS = 12,
	/* More would only be slow: a set of so many pages is written bit by bit. */
	MAX_SLOT_PAGES = 1 << 16,
	MAX_HANDED = 64,
	TAIL_BYTES = 64, /* behind the structs that are handed in */
};

struct range {
	uint32_t slot, reserved;
	uint64_t offset_bytes, bytes, hva;
};

struct world {
	struct input in;
	struct model *model;
	struct model_options kernel;
	uint32_t page_bytes;
	int vm_fd;
	struct dl_log *log;
	struct dl_config config;
	bool by_callback; /* set_region */

	int vcpu_fds[VCPUS];
	struct dl_vcpu *vcpus[VCPUS];

	struct dl_slot slots[MAX_SLOTS]; /* as the log has them; flags: NO_LOG alone */
	unsigned int slot_count;
	const struct dl_slot *being_set; /* by the call under way */
	bool on, closed;

	uint8_t *arena;
	uint64_t value; /* of the last store: each is new */
	uint64_t copy[ARENA_PAGES];
	bool excused[ARENA_PAGES]; /* written where nobody looks, or given up by the caller */

	struct dl_iter *iter;
	bool iter_over; /* its session has ended */
	struct range handed[MAX_HANDED], acked[MAX_HANDED];
	unsigned int handed_count, acked_count;
};

extern struct world world;

/* calls_options.c: opens the log, after attempts with any options. */
void world_open(struct world *w);

/* calls_world.c */
struct dl_slot *world_slot(struct world *w, uint32_t slot); /* NULL: none */
int world_region(struct world *w, const struct dl_slot *slot, uint64_t bytes, uint32_t flags);
bool world_in_arena(const struct world *w, uint64_t hva);
uint64_t *world_memory(const struct world *w, uint64_t hva);
uint64_t world_arena_page(const struct world *w, uint64_t hva);
void world_excuse(struct world *w, const struct dl_slot *slot, bool excused);
void world_equalize(struct world *w, const struct dl_slot *slot);
void world_copy_run(struct world *w, const struct dl_run *run);
void world_store(struct world *w, const struct dl_slot *slot, uint64_t page, int vcpu);
void world_read_all(struct world *w);
void world_check_equal(struct world *w);
void world_close(struct world *w);

/* What a call that fails must leave as it is. */
struct snapshot {
	struct dl_stats stats;
	char text[512];
	uint64_t pending;   /* a number made of all that is pending */
	uint64_t regions;   /* ioctls */
	uint64_t addresses; /* of the kernel's slots */
};

void world_snapshot(struct world *w, struct snapshot *snapshot);
void world_expect_same(struct world *w, const struct snapshot *before);

/* calls_slots.c */
void slots_set(struct world *w);
void slots_remove(struct world *w);
void slots_mark(struct world *w);

#endif
