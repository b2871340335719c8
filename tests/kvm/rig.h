/* SPDX-License-Identifier: MIT */
#ifndef KVM_RIG_H
#define KVM_RIG_H

/*
 * The fixture of most tests: a machine, its dirty log, data slots, vCPUs that drain their full
 * rings, and a checker of all the data memory. Errors fail the test through cmocka's assertions, so
 * only the thread of the test may call these functions. Every other rig of a program has two
 * channels that deliver late.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../migrations/checker.h"
#include "machine.h"
#include "spy.h"
#include "worker.h"

enum {
	RIG_SLOTS = 16,
	RIG_WORKERS = 3,
};

struct rig_config {
	enum guest_mode guest;
	uint32_t mode;
	uint32_t backup;
	uint32_t ring_entries;
	unsigned int vcpus;
	struct spy *spy; /* NULL: use the library's own system calls */
	/* Called before the log is opened, to change the VM first. */
	void (*before_open)(struct machine *machine);
};

/* A data slot and its memory. */
struct rig_slot {
	uint32_t slot;
	uint64_t gpa;
	size_t bytes;
	uint8_t *memory;
	struct checker_block *block;
};

struct rig_vcpu {
	struct machine_vcpu *machine;
	struct dl_vcpu *log;
	/* The last word that a round of the endless job increments: it counts the rounds. */
	volatile uint64_t *rounds;
};

struct rig {
	struct rig_config config;
	struct machine machine;
	struct dl_log *log;
	struct dl_config log_config;
	size_t page_bytes;
	struct checker checker;
	unsigned int passes;
	struct rig_slot slots[RIG_SLOTS];
	unsigned int slot_count;
	struct rig_vcpu vcpus[GUEST_MAX_VCPUS];
	unsigned int vcpu_count;
	struct worker workers[RIG_WORKERS]; /* stopped by rig_free() */
};

/* The pages of a slot that a vCPU writes, and the order. */
struct rig_range {
	const struct rig_slot *slot;
	uint64_t first_page;
	uint64_t pages;
	bool shuffled; /* in random order, from a table */
};

/* A rig with log and vCPUs, without slots. Skips the test if the kernel lacks a feature. */
struct rig *rig_new(const struct rig_config *config);

/* Stops the vCPUs and frees the rig. rig_teardown() does so for rigs that the test left. */
void rig_free(struct rig *rig);
void rig_free_all(void);

/* The teardown of every test: frees the rigs that the test left. */
int rig_teardown(void **state);

#define rig_test(function) cmocka_unit_test_teardown(function, rig_teardown)

/*
 * Runs a group of tests, each under the watchdog. Skips all of them if there is no /dev/kvm.
 * KVM_TESTS in the environment is a pattern with * and ? that selects tests by name.
 */
int rig_run(const char *name, const struct CMUnitTest *tests, size_t count);

#define rig_run_tests(name, tests) rig_run(name, tests, sizeof(tests) / sizeof((tests)[0]))

/* Skips the test; prints the reason in the form that tests/run.sh collects. */
void rig_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Allocates patterned memory for a slot and adds it to the checker. The caller sets the slot. */
struct rig_slot *rig_memory(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages);

/* As rig_memory(), and sets the slot. */
struct rig_slot *rig_slot(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages);

/* The argument of dl_slot_set() for a rig's slot. */
struct dl_slot rig_slot_description(const struct rig_slot *slot, uint32_t flags,
				    uint32_t kvm_flags);

/* checker_slot_set() and checker_slot_drop() of a rig's slot. */
int rig_slot_set(struct rig *rig, const struct rig_slot *slot, uint32_t flags, uint32_t kvm_flags);
int rig_slot_remove(struct rig *rig, const struct rig_slot *slot);

/* The checker joins (enum dl_cursor_flag), and leaves. */
void rig_join(struct rig *rig, uint32_t flags);
void rig_leave(struct rig *rig);

/* Creates another vCPU. With add, also adds it to the log. */
struct rig_vcpu *rig_vcpu(struct rig *rig, bool add);

/* Adds a vCPU to the log, for the first time or after dl_vcpu_remove(). */
void rig_vcpu_add(struct rig *rig, struct rig_vcpu *vcpu);

/* Starts a thread on which the vCPU adds 1 to a word of each page of the range, endlessly. */
void rig_count(struct rig *rig, unsigned int vcpu, const struct rig_range *range);

/* Starts rig_count() of the whole slot on all vCPUs; odd ones go in random order. */
void rig_count_all(struct rig *rig, const struct rig_slot *slot);

/* The word of a page that a vCPU writes. */
volatile uint64_t *rig_word(const struct rig *rig, const struct rig_slot *slot, uint64_t page,
			    unsigned int vcpu);

/* Waits until the vCPU has made this many more rounds through its range. */
void rig_wait_rounds(struct rig *rig, unsigned int vcpu, uint64_t rounds);

/* The vCPU writes value to a word of each page of the range, on the calling thread. */
void rig_write(struct rig *rig, unsigned int vcpu, const struct rig_range *range, uint64_t value);

/* As rig_write(), in a given mode instead of the mode of the rig. */
void rig_write_mode(struct rig *rig, unsigned int vcpu, const struct rig_range *range,
		    uint64_t value, enum guest_mode mode);

/* Stops every running vCPU; none may have failed. rig_resume() resumes all vCPUs. */
void rig_stop(struct rig *rig);
void rig_resume(struct rig *rig);

/* A pass that must succeed. Returns the pending bytes. */
uint64_t rig_pass(struct rig *rig, uint32_t flags);

/* Passes while the vCPUs run. Before each, every vCPU writes its whole range once. */
void rig_passes(struct rig *rig, unsigned int passes);

/* A pass that reads nothing, and must succeed. Returns the pending bytes. */
uint64_t rig_harvest(struct rig *rig, uint32_t flags);

/* Stops the vCPUs, makes the last pass and checks that every copy equals its memory. */
void rig_finish(struct rig *rig);

/* Starts a worker of the rig; its opaque pointer is the rig. */
void rig_start_worker(struct rig *rig, unsigned int index, int (*step)(struct worker *worker));

/* A worker step: another consumer joins, harvests, reaps and leaves beside the rig's own. */
int rig_harvest_step(struct worker *worker);

/* Ends all workers. Each must have made a step, and none may have failed. */
void rig_end_workers(struct rig *rig);

/* The log's counters. */
struct dl_stats rig_stats(const struct rig *rig);

#endif
