/* SPDX-License-Identifier: MIT */
#ifndef KVM_MACHINE_H
#define KVM_MACHINE_H

/*
 * A tiny VM on /dev/kvm: the guest's own slot, vCPUs, and threads that run them. It knows nothing
 * of the dirty log, but calls back when a vCPU's ring is full.
 */

#include "guest.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
	MACHINE_GUEST_SLOT = 500, /* not one that tests use for data */
	MACHINE_WATCHDOG_SECONDS = 300,
};

/* How a run of a vCPU ended. A negative errno value is the fourth way. */
enum machine_end {
	MACHINE_STOPPED = 0, /* machine_stop() asked for it */
	MACHINE_DONE = 1,    /* the job ended */
	MACHINE_FULL = 2,    /* a full ring, and nobody to empty it */
	MACHINE_RUNNING = 3, /* not ended yet */
};

struct machine;

struct machine_vcpu {
	struct machine *machine;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	/* Called on this vCPU's thread when its ring is full; a negative value ends the run. */
	int (*on_full)(void *opaque);
	void *opaque;
	pthread_t thread;
	bool threaded;
	atomic_bool stop;
	atomic_ullong full_exits;
	atomic_ullong lost_accesses; /* to addresses without a slot, or stores to a read-only one */
	atomic_int end;		     /* of the last run; see enum machine_end */
	unsigned int exit_reason;    /* of the last exit, for messages */
};

struct machine {
	int kvm_fd;
	int vm_fd;
	size_t page_bytes;
	size_t run_bytes;
	void *guest_memory;
	unsigned int vcpu_count;
	struct machine_vcpu vcpus[GUEST_MAX_VCPUS];
};

/* 0, or the negative errno value that opening /dev/kvm gives. */
int machine_available(void);

/* Creates the VM, no slot, no vCPU. All of these return 0 or a negative errno value. */
int machine_open(struct machine *machine);

/* Gives it the guest's own slot. */
int machine_load_guest(struct machine *machine);

/* Creates the next vCPU. */
int machine_add_vcpu(struct machine *machine, struct machine_vcpu **vcpu);

/* Stops every vCPU and frees everything. */
void machine_close(struct machine *machine);

/* KVM_SET_USER_MEMORY_REGION, as it is. bytes 0 deletes. */
int machine_set_region(struct machine *machine, uint32_t slot, uint32_t kvm_flags, uint64_t gpa,
		       uint64_t bytes, const void *memory);

/* KVM_CHECK_EXTENSION on the VM. */
int machine_capability(const struct machine *machine, int capability);

/* The vCPU's table of GUEST_TABLE_ENTRIES addresses. */
uint64_t *machine_table(struct machine_vcpu *vcpu);

/* Runs a job on the calling thread to its end. Returns enum machine_end or an error. */
int machine_run(struct machine_vcpu *vcpu, const struct guest_job *job);

/* Runs what the vCPU has to run on, without a new job. */
int machine_continue(struct machine_vcpu *vcpu);

/* Starts a job, or with NULL what the vCPU was doing, on a thread of its own. */
int machine_go(struct machine_vcpu *vcpu, const struct guest_job *job);

/* Waits for the thread's job to end; returns how it ended. */
int machine_wait(struct machine_vcpu *vcpu);

/* Stops the thread, the vCPU ready to go on. Returns how it ended: an endless job with 0. */
int machine_stop(struct machine_vcpu *vcpu);

/*
 * Ends the process with a message when a test takes longer (so many times longer as
 * DIRTYLOG_PATIENCE in the environment says); 0 disarms.
 */
void machine_watchdog(const char *what, unsigned int seconds);

/* A signal that does nothing but interrupt system calls: for signal storms. */
int machine_kick_signal(void);

#endif
