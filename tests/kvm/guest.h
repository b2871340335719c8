/* SPDX-License-Identifier: MIT */
#ifndef KVM_GUEST_H
#define KVM_GUEST_H

/*
 * The guest: a few instructions that write memory, and what a vCPU needs to run them. One
 * interface, one file an architecture (guest_x86.c, guest_arm64.c).
 *
 * Code, page tables and address tables lie in a memslot of their own, at guest physical address 0,
 * which is not logged: data slots hold nothing but what a program writes, and what the page walker
 * does to a page table never shows up as a dirty page.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

enum {
	GUEST_SLOT_BYTES = 2 << 20, /* the guest's own slot: guest physical 0 to here */
	GUEST_TABLE_ENTRIES = 8192, /* of each vCPU's table of addresses */
	GUEST_MAX_VCPUS = 8,
	GUEST_DATA_GPA = 16 << 20, /* the first address that data slots may use */
};

enum guest_mode {
	GUEST_USER,   /* x86: CPL 3 behind page tables; arm64: EL0 */
	GUEST_KERNEL, /* x86: CPL 0, which some hosts emulate in batches; arm64: EL1 */
};

enum guest_program {
	GUEST_WRITE,	   /* store value at count addresses from gpa on, stride_bytes apart */
	GUEST_WRITE_TABLE, /* store value at the count addresses that the table names */
	GUEST_COUNT,	   /* for ever: add 1 to the words that GUEST_WRITE would write */
	GUEST_COUNT_TABLE, /* for ever: add 1 to the words that the table names */
	GUEST_PROGRAMS,
};

/* What a vCPU is to do. Stores are of 8 bytes. */
struct guest_job {
	enum guest_program program;
	enum guest_mode mode;
	uint64_t gpa;	       /* first address, or with a table: where the table is */
	uint64_t count;	       /* addresses of a round */
	uint64_t stride_bytes; /* without a table */
	uint64_t value;	       /* for the programs that store one */
};

/* Writes code and page tables into the guest's own slot, mapped at memory. */
void guest_load(void *memory);

/* Where a vCPU's table of addresses lies in the guest's own slot. */
static inline uint64_t guest_table_gpa(unsigned int vcpu_index)
{
	return GUEST_SLOT_BYTES / 2 + (uint64_t)vcpu_index * GUEST_TABLE_ENTRIES * sizeof(uint64_t);
}

/* Once a VM, before its vCPUs. Returns 0 or a negative errno value, like all of these. */
int guest_setup_vm(int vm_fd);

/* Once a vCPU, before its first run. */
int guest_setup_vcpu(int kvm_fd, int vm_fd, int vcpu_fd);

/* Points the vCPU at a job. No I/O may be pending. */
int guest_start(int vcpu_fd, const struct guest_job *job);

/* How many stores are left of a GUEST_WRITE job that has not come to its end. */
int guest_stores_left(int vcpu_fd, uint64_t *left);

/* Whether this exit is the end of a job. */
bool guest_is_done(const struct kvm_run *run);

/*
 * Puts the vCPU into the second address space (x86: system management mode), where it sees the
 * slots whose as_id is 1. -EOPNOTSUPP where there is none.
 */
int guest_enter_second_space(int vcpu_fd);

#endif
