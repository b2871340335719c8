/* SPDX-License-Identifier: MIT */
#ifndef TUNING_WORLD_H
#define TUNING_WORLD_H

/*
 * The library, real, on a clock that is not: vCPUs that dirty pages at given rates, a kernel whose
 * work costs what it is said to cost, and one thread that harvests. What happens in a second of the
 * world is the same on every machine and in every run.
 *
 * Locks are waited for in virtual time: a reset waits for the reset before it, a drain for the
 * harvest that holds its ring. While they wait and work, the other vCPUs go on.
 *
 * The program is to be linked with --wrap=clock_gettime. One world at a time.
 */

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#define WORLD_SECOND_NS UINT64_C(1000000000)

enum { WORLD_VCPUS = 256 };

/* What things take. */
struct world_costs {
	uint64_t exit_ns;	/* out of KVM_RUN with a full ring, and in again */
	uint64_t idle_reset_ns; /* a reset that takes nothing */
	uint64_t reset_ns;	/* another, with its TLB flush, beside the entries */
	uint64_t entry_ns;	/* of a reset, each entry */
	uint64_t library_ns;	/* reading and publishing an entry */
	uint64_t vcpu_ns;	/* of a harvest, each ring */
	uint64_t flush_ns;	/* each running vCPU, of another's TLB flush */
};

extern const struct world_costs world_costs;

struct world_config {
	struct world_costs costs;
	uint32_t vcpus, ring_entries;
	uint32_t pml_entries; /* 0: entries reach the ring one by one */
};

struct world_vcpu {
	struct kvm_dirty_gfn *cells;
	struct kvm_run *run;
	struct dl_vcpu *handle;
	double pages_per_ns, part_of_a_page;
	uint64_t at_ns;	   /* it has run, or was stopped, until then */
	uint64_t pause_ns; /* it still has to stand still for */
	uint64_t page;	   /* the next that it dirties */
	uint32_t next;	   /* cell that the kernel fills */
	uint32_t first;	   /* cell that the kernel takes back */
	uint32_t buffered; /* by PML */
	/* Taken back by a reset that is still at work. */
	uint32_t held;
	uint64_t held_until_ns;
	uint64_t full_exits, lost_ns, longest_stall_ns, pages;
};

struct world {
	struct world_config config;
	struct dl_os os;
	struct dl_log *log;
	bool ring_is_on;
	struct world_vcpu vcpus[WORLD_VCPUS];
	struct world_vcpu *draining;
	uint64_t began_ns;
	uint64_t now_ns;	   /* of the thread that harvests */
	uint64_t clock_ns;	   /* of the thread that is at work just now */
	uint64_t reset_free_at_ns; /* the reset lock */
	uint64_t rings_free_at_ns; /* the rings' locks, of a harvest */
	uint64_t harvests, resets, harvest_ns;
};

/* Opens and starts a log. Ends the process where that fails. */
struct world *world_new(const struct world_config *config);
void world_free(struct world *world);

/* From now on the vCPU dirties so many pages a second. */
void world_set_rate(struct world *world, uint32_t vcpu, double pages_per_second);

/* The guest runs, and nobody harvests. */
void world_sleep(struct world *world, uint64_t ns);

/* What the thread that harvests can do. */
void world_harvest(struct world *world);
uint64_t world_due(struct world *world);

uint64_t world_full_exits(const struct world *world);

/* How much of the vCPUs' time was lost, up to now: 0 to 1. */
double world_lost_share(const struct world *world);

#endif
