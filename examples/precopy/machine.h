/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_MACHINE_H
#define PRECOPY_MACHINE_H

#include "layout.h"
#include "options.h"

#include <dirtylog/dirtylog.h>

#include <pthread.h>
#include <stdatomic.h>

/*
 * A small virtual machine: memory, slots, vCPUs with a thread each, and the guest of guest.h.
 * Two kinds: KVM, and the model kernel, on which a vCPU's thread does the guest's work itself.
 *
 *	machine_open(); dl_log_open(machine.vm_fd, ...); machine_plug(log);
 *	machine_boot(), machine_start(); or machine_start(), machine_load();
 *	machine_resume(); ... machine_pause(); machine_save(); ... machine_close();
 */

struct machine;

/* A stopped vCPU, as one side saves it and the other loads it. The same for all kinds of machine. */
struct vcpu_state {
	uint64_t words[64];
};

struct vcpu {
	struct machine *machine;
	uint32_t id;
	int fd;
	struct dl_vcpu *log_vcpu; /* NULL where no log is open */
	struct kvm_run *run;	  /* KVM alone */
	atomic_bool interrupted;  /* the model alone */
	pthread_t thread;
	bool has_thread;
	/* Under the machine's lock: */
	bool parked;
	bool settled;		/* nothing is left of the last run to be finished */
	uint64_t due_ns;	/* when it may write the next quantum */
	uint64_t round_records; /* machine_check() is over at so many */
	int failure;
	char why[160];
};

struct machine_kind {
	const char *name;

	/* All return 0 or a negative errno value, and fill the machine's or the vCPU's why then. */
	int (*open)(struct machine *machine); /* sets vm_fd */
	void (*close)(struct machine *machine);
	int (*set_slot)(struct machine *machine, uint32_t slot); /* where there is no log */
	int (*add_vcpu)(struct vcpu *vcpu);			 /* sets fd */
	void (*remove_vcpu)(struct vcpu *vcpu);
	int (*boot)(struct machine *machine); /* what the guest needs beside its own code */
	int (*boot_vcpu)(struct vcpu *vcpu);
	int (*save)(struct vcpu *vcpu, struct vcpu_state *state);
	int (*load)(struct vcpu *vcpu, const struct vcpu_state *state);

	/* Returns GUEST_SAYS_*, or 0 soon after interrupt() was called, or a failure. */
	int (*run)(struct vcpu *vcpu);
	void (*interrupt)(struct vcpu *vcpu); /* from other threads; holds until resume() */
	void (*resume)(struct vcpu *vcpu);
	int (*settle)(struct vcpu *vcpu); /* completes what the last exit left pending */
};

struct machine {
	const struct machine_kind *kind;
	struct layout layout;
	bool guest_user;
	uint8_t *memory; /* layout.memory_bytes */
	void *mapping;
	size_t mapping_bytes;
	int kvm_fd;
	int vm_fd;
	struct model *model;	/* the model alone */
	const struct dl_os *os; /* for dl_log_open(); NULL: the real system */
	struct vcpu vcpus[LAYOUT_MAX_VCPUS];
	uint32_t vcpus_added;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool running;
	bool ends;
	uint64_t quantum_ns; /* a vCPU may write its quantum in so much time; 0: at once */
	char why[256];
};

extern const struct machine_kind machine_kvm, machine_model;

/*
 * Which kind is to be had. why receives a sentence where auto takes the model; NULL and a reason
 * where KVM was asked for and is not there.
 */
const struct machine_kind *machine_choose(enum backend backend, char *why, size_t why_bytes);

/* The machine is closed again by machine_close() only where this returned 0. */
int machine_open(struct machine *machine, const struct machine_kind *kind,
		 const struct layout *layout, bool guest_user);

/* Creates memslots and vCPUs, in the log where there is one. */
int machine_plug(struct machine *machine, struct dl_log *log);

/* Puts the guest into memory, and the vCPUs at its beginning. */
int machine_boot(struct machine *machine, uint32_t pattern, uint64_t dirty_bytes_per_s);

/* Starts the vCPU threads; they wait for machine_resume(). */
int machine_start(struct machine *machine);
void machine_resume(struct machine *machine);

/*
 * Stops the vCPUs; their pending I/O is completed when this returns 0. -ETIMEDOUT: one of them does
 * not stop.
 */
int machine_pause(struct machine *machine);

/* While paused. One state each vCPU. */
int machine_save(struct machine *machine, struct vcpu_state *states);
int machine_load(struct machine *machine, const struct vcpu_state *states);

/* 0, or the failure of a vCPU, the damage that the guest found included; why then says which. */
int machine_failure(struct machine *machine, char *why, size_t why_bytes);

struct machine_check {
	bool healthy;
	bool complete; /* every page was looked at; else the time was used up */
	uint64_t checked_pages;
	uint64_t records;
	uint64_t ns;
	char why[160];
};

/*
 * Lets the paused guest run on until each vCPU has checked and rewritten its whole share, and
 * pauses it again. Logging must be off: the guest's orders change.
 */
void machine_check(struct machine *machine, uint64_t limit_ns, struct machine_check *check);

uint64_t machine_records(struct machine *machine);

void machine_close(struct machine *machine);

static inline struct guest_control *machine_control(struct machine *machine, uint32_t vcpu)
{
	return (struct guest_control *)(machine->memory +
					layout_control_offset(&machine->layout, vcpu));
}

int vcpu_fail(struct vcpu *vcpu, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int machine_fail(struct machine *machine, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
