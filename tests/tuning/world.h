/* SPDX-License-Identifier: MIT */
#ifndef TUNING_WORLD_H
#define TUNING_WORLD_H

/*
 * The real library in virtual time: vCPUs that dirty pages at given rates, a kernel whose work
 * takes the configured time, and one reaping thread. A second of the world has the same events
 * on every machine and in every run.
 *
 * It is not the model kernel (tests/model), which runs in real time on real threads and stores to
 * memory. It is not the kernel of tests/bench either, whose reset must cost next to nothing and
 * therefore leaves most cells alone: here a reset takes back every cell, and the time at which it
 * does so decides how long each vCPU stands still.
 *
 * Waiting for a lock takes virtual time: a reset waits for the reset before it, a drain for the
 * harvest that holds its ring. Meanwhile the other vCPUs run.
 *
 * There may be several worlds, each with a clock of its own.
 */

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#define WORLD_SECOND_NS UINT64_C(1000000000)

enum { WORLD_VCPUS = 256 };

/* Duration of each step. */
struct world_costs {
	uint64_t exit_ns;	/* leaving KVM_RUN with a full ring and entering again */
	uint64_t idle_reset_ns; /* a reset that takes no entries */
	uint64_t reset_ns;	/* any other reset with its TLB flush, without the entries */
	uint64_t entry_ns;	/* each entry of a reset */
	uint64_t library_ns;	/* reading and publishing an entry */
	uint64_t vcpu_ns;	/* each ring of a harvest */
	uint64_t flush_ns;	/* each running vCPU, interrupted by a TLB flush */
};

extern const struct world_costs world_costs;

struct world_config {
	struct world_costs costs;
	uint32_t vcpus, ring_entries;
	uint32_t pml_entries; /* 0: entries reach the ring one by one */
	uint64_t idle_ns;     /* of dl_options */
};

struct world_vcpu {
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	struct dl_vcpu *handle;
	double pages_per_ns, part_of_a_page;
	uint64_t at_ns;	   /* its own time: it has run or stood still until then */
	uint64_t pause_ns; /* time that it still has to stand still */
	uint64_t page;	   /* next page that it dirties */
	uint32_t next;	   /* next cell that the kernel fills */
	uint32_t first;	   /* next cell that the kernel takes back */
	uint32_t buffered; /* in the PML buffer */
	/* Cells that a reset is taking back, and when it ends. */
	uint32_t held;
	uint64_t held_until_ns;
	uint64_t full_exits, lost_ns, longest_stall_ns, pages;
};

struct world {
	struct world_config config;
	struct dl_os os;
	struct dl_log *log;
	struct dl_cursor *cursor;
	bool ring_is_on;
	struct world_vcpu vcpus[WORLD_VCPUS];
	struct world_vcpu *draining;
	uint64_t began_ns;
	uint64_t now_ns;	   /* of the reaping thread */
	uint64_t clock_ns;	   /* of the thread that is working now */
	uint64_t reset_free_at_ns; /* when the reset lock is free */
	uint64_t rings_free_at_ns; /* when the harvest drops the ring locks */
	/* harvests: of harvests and reaps, those that emptied a ring. */
	uint64_t harvests, looks, resets, harvest_ns;
};

/* Opens a log with a clean cursor. Exits the process on failure. */
struct world *world_new(const struct world_config *config);
void world_free(struct world *world);

/* Sets the rate at which the vCPU dirties pages from now on. */
void world_set_rate(struct world *world, uint32_t vcpu, double pages_per_second);

/* The cursor goes, and another comes. */
void world_renew_cursor(struct world *world);

/* Lets the guest run without harvests. */
void world_sleep(struct world *world, uint64_t ns);

/* Calls of the reaping thread: a harvest without its pass, or a reap. Returns its again_ns. */
void world_harvest(struct world *world);
uint64_t world_reap(struct world *world, uint32_t flags);

uint64_t world_full_exits(const struct world *world);

/* The share of the vCPUs' time that was lost up to now, from 0 to 1. */
double world_lost_share(const struct world *world);

#endif
