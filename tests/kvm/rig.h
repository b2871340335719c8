/* SPDX-License-Identifier: MIT */
#ifndef KVM_RIG_H
#define KVM_RIG_H

/*
 * What most tests begin with: a machine, its dirty log, data slots, vCPUs that drain their full
 * rings, and a migration over all of it. Failures in here fail the test (cmocka's assertions), so
 * these functions are for the test's own thread.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirtylog/dirtylog.h>

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
	struct spy *spy; /* NULL: the library's own system calls */
	/* What someone else did to the VM before its log is opened. */
	void (*before_open)(struct machine *machine);
	int (*set_region)(void *opaque, uint32_t slot, uint32_t kvm_flags);
	void *opaque;
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
	/* The last word of a round of this vCPU's endless job: it counts the rounds. */
	volatile uint64_t *rounds;
};

struct rig {
	struct rig_config config;
	struct machine machine;
	struct dl_log *log;
	struct dl_config is;
	size_t page_bytes;
	struct checker checker;
	unsigned int passes;
	struct rig_slot slots[RIG_SLOTS];
	unsigned int slot_count;
	struct rig_vcpu vcpus[GUEST_MAX_VCPUS];
	unsigned int vcpu_count;
	struct worker workers[RIG_WORKERS]; /* end with the rig */
};

/* Which pages of a slot a vCPU is to write, and how. */
struct rig_range {
	const struct rig_slot *slot;
	uint64_t first_page;
	uint64_t pages;
	bool shuffled; /* in random order, by a table */
};

/* A rig with log and vCPUs, no slots. Skips the test where the kernel has not what it asks for. */
struct rig *rig_new(const struct rig_config *config);

/* Stops the vCPUs and frees all. rig_teardown() does it for rigs that are left. */
void rig_free(struct rig *rig);
void rig_free_all(void);

/* Frees the rigs that a test has left: the teardown of every test. */
int rig_teardown(void **state);

#define rig_test(function) cmocka_unit_test_teardown(function, rig_teardown)

/*
 * Runs a group of tests, each under the watchdog; all are skipped where there is no /dev/kvm. With
 * KVM_TESTS in the environment only those that match it, with * and ?.
 */
int rig_run(const char *name, const struct CMUnitTest *tests, size_t count);

#define rig_run_tests(name, tests) rig_run(name, tests, sizeof(tests) / sizeof((tests)[0]))

/* Prints the reason in the form that tests/run.sh collects, and skips the test. */
void rig_skip(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Memory filled with a pattern, known to the migration, for a slot that the caller sets. */
struct rig_slot *rig_memory(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages);

/* The same, and sets the slot. */
struct rig_slot *rig_slot(struct rig *rig, uint32_t slot, uint64_t gpa, uint64_t pages);

/* dl_slot_set() and dl_slot_remove() of a rig's slot. */
int rig_slot_set(struct rig *rig, const struct rig_slot *slot, uint32_t flags, uint32_t kvm_flags);
int rig_slot_remove(struct rig *rig, const struct rig_slot *slot, uint32_t flags);

/* Another vCPU, created now; with add, known to the log. */
struct rig_vcpu *rig_vcpu(struct rig *rig, bool add);

/* Tells the log of a vCPU that it does not know, or not any more. */
void rig_vcpu_add(struct rig *rig, struct rig_vcpu *vcpu);

/* The vCPU adds 1 to a word of each page of the range for ever, on its own thread. */
void rig_count(struct rig *rig, unsigned int vcpu, const struct rig_range *range);

/* Every vCPU counts in all of the slot, even ones sequentially, odd ones in random order. */
void rig_count_all(struct rig *rig, const struct rig_slot *slot);

/* The word of a page that a vCPU writes. */
volatile uint64_t *rig_word(const struct rig *rig, const struct rig_slot *slot, uint64_t page,
			    unsigned int vcpu);

/* Waits until the vCPU has gone so many times more through its range. */
void rig_wait_rounds(struct rig *rig, unsigned int vcpu, uint64_t rounds);

/* Writes value to a word of each page of the range on the calling thread, to the end. */
void rig_write(struct rig *rig, unsigned int vcpu, const struct rig_range *range, uint64_t value);

/* The same in a mode other than the rig's. */
void rig_write_mode(struct rig *rig, unsigned int vcpu, const struct rig_range *range,
		    uint64_t value, enum guest_mode mode);

/* Stops every vCPU that runs; none may have failed. rig_resume() lets all go on. */
void rig_stop(struct rig *rig);
void rig_resume(struct rig *rig);

/* A pass, which has to succeed. Returns what was pending. */
uint64_t rig_pass(struct rig *rig, uint32_t flags);

/* Passes while the vCPUs run, each after every vCPU has written its whole range once. */
void rig_passes(struct rig *rig, unsigned int passes);

/* Stops the vCPUs, makes the final pass and asks whether the copies equal the memory. */
void rig_finish(struct rig *rig);

/* Starts one of the rig's workers, with its index and, for opaque, the rig. */
void rig_work(struct rig *rig, unsigned int index, int (*step)(struct worker *worker));

/* A step that harvests: what runs beside all that a test does. */
int rig_harvest_step(struct worker *worker);

/* Ends all workers; each must have worked, and none failed. */
void rig_end_work(struct rig *rig);

/* The log's counters. */
struct dl_stats rig_stats(const struct rig *rig);

#endif
