/* SPDX-License-Identifier: MIT */
#ifndef UNIT_GUEST_H
#define UNIT_GUEST_H

/*
 * A guest of the model kernel with its dirty log, for most tests of the public calls: memory, slots
 * over it, and vCPUs that drain their full rings. A failure in here fails the test; functions that
 * threads may call are marked [T] and abort instead.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

#include "model.h"

enum {
	GUEST_VCPUS = 8,
	GUEST_BLOCKS = 16,
	/* Far more exits than any recovery takes. */
	GUEST_MAX_EXITS = 4000,
};

/* A block of memory. It outlives the slots over it. */
struct guest_block {
	uint8_t *memory;
	uint64_t pages;
};

struct guest_vcpu {
	int fd;
	struct dl_vcpu *handle; /* NULL: not added */
	atomic_ulong full_exits;
};

struct guest;

/*
 * Sees the library's ioctls before the model does. Returns true if it has handled the ioctl and set
 * *result.
 */
typedef bool guest_intercept(struct guest *guest, int fd, unsigned long request, void *arg,
			     int *result);

struct guest_config {
	struct model_options model;
	struct dl_options options; /* size and os are filled in */
	guest_intercept *intercept;
};

struct guest {
	struct guest_config config;
	struct model *model;
	struct dl_os os; /* the model's, with the interceptor in front */
	int vm_fd;
	uint32_t page_bytes;
	struct dl_log *log;
	struct dl_cursor *cursor; /* guest_join()'s, or NULL */
	char why[400];
	struct guest_block blocks[GUEST_BLOCKS];
	unsigned int block_count;
	struct guest_vcpu vcpus[GUEST_VCPUS];
	unsigned int vcpu_count;
	atomic_ulong value; /* of the last store; each store writes a new one */
	atomic_uint resets, gets, clears, regions, enables;
	atomic_uint calls_of_vm_fd; /* not through its duplicate */
	atomic_uint timer_sets;
	atomic_int duplicates; /* open ones */
	atomic_int mappings;   /* the library's */
};

/* guest_new() creates a model and a VM, guest_open() a log too. NULL config: all defaults. */
void guest_new(struct guest *guest, const struct guest_config *config);
int guest_open_log(struct guest *guest);
void guest_open(struct guest *guest, const struct guest_config *config);
void guest_close(struct guest *guest);

/* New memory, filled with numbers. */
struct guest_block *guest_memory(struct guest *guest, uint64_t pages);

/* A slot over the block from its first_page on, at the guest's page gpa_page. */
struct dl_slot guest_slot(const struct guest *guest, uint32_t number, uint64_t gpa_page,
			  const struct guest_block *block, uint64_t first_page, uint64_t pages);

/* Sets a slot over the whole of a new block. */
struct guest_block *guest_add_slot(struct guest *guest, uint32_t number, uint64_t gpa_page,
				   uint64_t pages);

/* A new vCPU; with add, it is added to the log. */
struct guest_vcpu *guest_vcpu(struct guest *guest, bool add);
void guest_vcpu_add(struct guest *guest, struct guest_vcpu *vcpu);

/* [T] The guest stores a new value somewhere in a page. Drains full rings. 0 or -EFAULT. */
int guest_write(struct guest *guest, struct guest_vcpu *vcpu, uint32_t as_id, uint64_t gpa_page);

/* [T] Writes without a vCPU: by the kernel, and by a device of the VMM. */
void guest_kernel_write(struct guest *guest, uint64_t gpa_page);
void guest_device_write(struct guest *guest, struct guest_block *block, uint64_t page,
			uint64_t gpa_page);

/* Every vCPU leaves the guest for good. */
void guest_stop(struct guest *guest);

/* A new cursor with enum dl_cursor_flag, over one slot for DL_CURSOR_ONE_SLOT. */
int guest_new_cursor(struct guest *guest, uint32_t flags, uint32_t slot, struct dl_cursor **cursor);

/* guest->cursor comes, and goes: most tests have one consumer. */
int guest_try_join(struct guest *guest, uint32_t flags);
void guest_join(struct guest *guest, uint32_t flags);
void guest_leave(struct guest *guest);

/* A pass that reads nothing: collects what is dirty. Returns dl_harvest()'s result. */
int guest_harvest(struct guest *guest, uint32_t flags);

/* Counters of guest->cursor, in bytes; 0 without a cursor. */
uint64_t guest_pending(const struct guest *guest);
uint64_t guest_unacked(const struct guest *guest);

/* The counters of any cursor. */
struct dl_cursor_stats guest_cursor_stats(const struct dl_cursor *cursor);

/*
 * A whole pass of a cursor, which acknowledges each page. Returns the number of pages, or -1 if
 * there are more than max_pages.
 */
int guest_pass_of(struct guest *guest, struct dl_cursor *cursor, uint32_t flags,
		  uint64_t *gpa_pages, int max_pages);
int guest_pass(struct guest *guest, uint32_t flags, uint64_t *gpa_pages, int max_pages);

/* As guest_pass_of(), for the rest of an open pass, which it ends. */
int guest_finish_pass(struct guest *guest, struct dl_cursor *cursor, uint64_t *gpa_pages,
		      int max_pages);

/* KVM_SET_USER_MEMORY_REGION of the slot fails with -ENOMEM times times, after skip successes. */
void guest_fail_region(struct guest *guest, uint32_t slot, uint32_t skip, uint32_t times);

struct dl_stats guest_stats(const struct guest *guest);

#endif
