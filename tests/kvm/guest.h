/* SPDX-License-Identifier: MIT */
#ifndef KVM_GUEST_H
#define KVM_GUEST_H

/*
 * The guest: a few instructions that write memory, and the vCPU state that they need. One
 * interface, with one implementation per architecture (guest_x86.c, guest_arm64.c).
 *
 * Code, page tables and address tables have a memslot of their own at guest physical address 0,
 * which is not logged. The data slots therefore hold only what a program writes, and the accesses
 * of the page walker to the page tables never show up as dirty pages.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

enum {
	GUEST_SLOT_BYTES = 2 << 20, /* the guest's own slot: guest physical 0 to here */
	GUEST_TABLE_ENTRIES = 8192, /* size of the address table of each vCPU */
	GUEST_MAX_VCPUS = 8,
	GUEST_DATA_GPA = 16 << 20, /* first address for data slots */
};

enum guest_mode {
	GUEST_USER,   /* x86: CPL 3, paging enabled; arm64: EL0 */
	GUEST_KERNEL, /* x86: CPL 0, emulated in batches on some hosts; arm64: EL1 */
};

enum guest_program {
	GUEST_WRITE,	    /* store value at count addresses from gpa on, stride_bytes apart */
	GUEST_WRITE_TABLE,  /* store value at the count addresses of the table */
	GUEST_COUNT,	    /* endless: add 1 to the words that GUEST_WRITE would write */
	GUEST_COUNT_TABLE,  /* endless: add 1 to the words at the addresses of the table */
	GUEST_NUMBER_TABLE, /* endless: store value, value + 1, ... at those addresses in turn */
	GUEST_PROGRAMS,
};

/* A job for a vCPU. Stores are 8 bytes wide. */
struct guest_job {
	enum guest_program program;
	enum guest_mode mode;
	uint64_t gpa;	       /* first address, or the address of the table */
	uint64_t count;	       /* addresses per round */
	uint64_t stride_bytes; /* for the programs without a table */
	uint64_t value;	       /* for GUEST_WRITE and GUEST_NUMBER programs */
};

/* Writes code and page tables to memory, the mapping of the guest's own slot. */
void guest_load(void *memory);

/* Guest physical address of a vCPU's address table, in the guest's own slot. */
static inline uint64_t guest_table_gpa(unsigned int vcpu_index)
{
	return GUEST_SLOT_BYTES / 2 + (uint64_t)vcpu_index * GUEST_TABLE_ENTRIES * sizeof(uint64_t);
}

/* Once per VM, before its vCPUs exist. Returns 0 or -errno, as do the functions below. */
int guest_setup_vm(int vm_fd);

/* Once per vCPU, before its first run. */
int guest_setup_vcpu(int kvm_fd, int vm_fd, int vcpu_fd);

/* Sets the registers for a job. No I/O may be pending. */
int guest_start(int vcpu_fd, const struct guest_job *job);

/* The number of stores that an unfinished GUEST_WRITE job still has to make. */
int guest_stores_left(int vcpu_fd, uint64_t *left);

/* True if this exit marks the end of a job. */
bool guest_is_done(const struct kvm_run *run);

/*
 * Moves the vCPU to the second address space (x86: system management mode), where it sees the slots
 * with as_id 1. Returns -EOPNOTSUPP if there is none.
 */
int guest_enter_second_space(int vcpu_fd);

#endif
