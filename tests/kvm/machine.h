/* SPDX-License-Identifier: MIT */
#ifndef KVM_MACHINE_H
#define KVM_MACHINE_H

/*
 * A minimal VM on /dev/kvm: the guest's own slot, vCPUs, and the threads that run them. It does not
 * use the dirty log; a callback handles exits for a full ring.
 */

#include "guest.h"

#include <pthread.h>
#include <stdatomic.h>

enum {
	MACHINE_GUEST_SLOT = 500, /* must not be used for data */
	MACHINE_WATCHDOG_SECONDS = 300,
};

/* How a run of a vCPU ended. A negative errno value means that it failed. */
enum machine_end {
	MACHINE_STOPPED = 0, /* by machine_stop() */
	MACHINE_DONE = 1,    /* the job ended */
	MACHINE_FULL = 2,    /* the ring is full and there is no on_full callback */
	MACHINE_RUNNING = 3, /* still running */
};

struct machine;

struct machine_vcpu {
	struct machine *machine;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	/* Called on the vCPU's thread when its ring is full. A nonzero value ends the run. */
	int (*on_full)(void *opaque);
	void *opaque;
	pthread_t thread;
	bool threaded;
	atomic_bool stop;
	atomic_ullong full_exits;
	atomic_ullong lost_accesses; /* MMIO: no slot at that address, or a read-only one */
	atomic_int end;		     /* result of the last run; see enum machine_end */
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

/* Tries to open /dev/kvm. Returns 0 or -errno. */
int machine_available(void);

/* Creates a VM without slots and vCPUs. Returns 0 or -errno, as do the functions below. */
int machine_open(struct machine *machine);

/* Adds the guest's own slot. */
int machine_load_guest(struct machine *machine);

/* Creates the next vCPU. */
int machine_add_vcpu(struct machine *machine, struct machine_vcpu **vcpu);

/* Stops every vCPU and frees everything. */
void machine_close(struct machine *machine);

/* The bare KVM_SET_USER_MEMORY_REGION. 0 bytes delete the slot. */
int machine_set_region(struct machine *machine, uint32_t slot, uint32_t kvm_flags, uint64_t gpa,
		       uint64_t bytes, const void *memory);

/* KVM_CHECK_EXTENSION on the VM. */
int machine_capability(const struct machine *machine, int capability);

/* The vCPU's table of GUEST_TABLE_ENTRIES addresses. */
uint64_t *machine_table(struct machine_vcpu *vcpu);

/* Runs a job to its end on the calling thread. Returns enum machine_end or -errno. */
int machine_run(struct machine_vcpu *vcpu, const struct guest_job *job);

/* As machine_run(), but resumes the current job. */
int machine_continue(struct machine_vcpu *vcpu);

/* Runs a job on a thread of its own. NULL resumes the current job. */
int machine_go(struct machine_vcpu *vcpu, const struct guest_job *job);

/* Waits for the thread to end. Returns enum machine_end or -errno. */
int machine_wait(struct machine_vcpu *vcpu);

/*
 * Stops the thread; machine_go() or machine_continue() can resume the job. Returns enum machine_end
 * or -errno: MACHINE_STOPPED for an endless job.
 */
int machine_stop(struct machine_vcpu *vcpu);

/*
 * Ends the process with a message if the test is still running after this many seconds, multiplied
 * by DIRTYLOG_PATIENCE from the environment. 0 disarms.
 */
void machine_watchdog(const char *what, unsigned int seconds);

/*
 * Makes the thread of a run in machine_continue() return MACHINE_STOPPED, or that of the next one,
 * until the vCPU is unkicked: before its thread asks why it was kicked.
 */
void machine_kick(struct machine_vcpu *vcpu);
void machine_unkick(struct machine_vcpu *vcpu);

/* A signal whose handler does nothing: it only interrupts system calls. */
int machine_kick_signal(void);

#endif
