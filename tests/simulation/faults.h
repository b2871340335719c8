/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_FAULTS_H
#define SIMULATION_FAULTS_H

/* Checks the system calls of the library on their way to the model, and makes some fail. */

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <dirtylog/os.h>

enum fault_kind {
	FAULT_RESET_ERROR,
	FAULT_RESET_SHORT,	/* ends early */
	FAULT_RESET_LOST_BATCH, /* ends early, and does not protect its last batch */
	FAULT_RESET_LATE_FLUSH, /* a long time between unlock and TLB flush */
	FAULT_GET,
	FAULT_CLEAR,
	FAULT_REGION,
	FAULT_ENABLE_CAP,
	FAULT_MMAP,
	FAULT_VCPU_FD, /* closed: EBADF */
	FAULT_ALLOCATION,
	FAULT_DUP,
	FAULT_KINDS,
};

enum { FAULTS_AT_ONCE = 8, FAULTS_REGIONS = 64 };

struct fault {
	uint8_t kind;
	uint8_t skip, times;
	bool after; /* fails after the work is done */
	int error;
	uint32_t number;
};

struct faults {
	struct fault armed[FAULTS_AT_ONCE];
	uint32_t n;
	uint64_t errors_met[3]; /* bit set of the errno values that a caller may see in this run */
	uint64_t met;
	bool reset_faulty; /* a reset of this run misbehaved */
	/* As KVM has them. A size of 0: it was deleted. */
	struct kvm_userspace_memory_region regions[FAULTS_REGIONS];
	uint32_t n_regions;
};

extern const char *const fault_names[FAULT_KINDS];

void faults_os(struct dl_os *os);
/* Whether this call is to fail; if so, *fault says how. */
bool faults_meet(uint8_t kind, struct fault *fault);
void faults_arm(const struct fault *fault);
void faults_clear(void);
void faults_note_error(int error);
bool faults_may_give(int error);

#endif
