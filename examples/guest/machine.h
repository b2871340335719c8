/* SPDX-License-Identifier: MIT */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include "layout.h"

#include <dirtylog/dirtylog.h>

#include <pthread.h>
#include <stdatomic.h>

/*
 * A small virtual machine: memory, memslots, one thread per vCPU, and the guest code of guest.h.
 * There are two kinds: KVM, and the model kernel, on which a vCPU's thread does the guest's work
 * itself.
 *
 *	machine_open(); dl_log_open(machine.vm_fd, ...); machine_plug(log);
 *	machine_boot(), machine_start(); or machine_start(), machine_load();
 *	machine_resume(); ... machine_pause(); machine_save(); ... machine_close();
 */

enum backend { BACKEND_AUTO, BACKEND_KVM, BACKEND_MODEL };

struct machine;

/* Pages that a reader reads between two doorbells: they take about a millisecond. */
enum { MACHINE_READS = 2048 };

/* How long a vCPU's thread was kept out of the guest by pauses, those in progress included. */
struct vcpu_holds {
	uint64_t held_ns;
	uint64_t longest_ns;
	uint64_t count;
};

/* The state of a stopped vCPU, as it is saved. Its size is the same for all kinds of machine. */
struct vcpu_state {
	uint64_t words[64];
};

struct vcpu {
	struct machine *machine;
	uint32_t id;
	int fd;
	struct dl_vcpu *log_vcpu; /* NULL without a log */
	struct kvm_run *run;	  /* KVM only */
	atomic_bool interrupted;  /* model only */
	uint64_t read_index;	  /* model only: what a reader has in registers */
	_Atomic uint64_t reads;	  /* pages read as a reader; counted in batches */
	pthread_t thread;
	bool has_thread;
	/* Under the machine's lock: */
	bool parked;
	bool io_complete;	/* the last exit left no pending I/O */
	uint64_t due_ns;	/* start of its next quantum */
	bool kicked;		/* it is to ask for a pause now */
	uint64_t hold_start_ns; /* 0: it is not paused */
	uint64_t hold_end_ns;
	struct vcpu_holds holds; /* those that are over */
	uint64_t round_records;	 /* machine_check() ends at this record count */
	int failure;
	char why[160];
	/* The vCPU thread's own: */
	bool was_full; /* its ring was, and has been drained, since it last asked for a pause */
};

struct machine_kind {
	const char *name;

	/*
	 * These return 0, or a negative errno value with the reason in the why of the machine or of
	 * the vCPU.
	 */
	int (*open)(struct machine *machine); /* sets vm_fd */
	void (*close)(struct machine *machine);
	int (*set_slot)(struct machine *machine, uint32_t slot); /* without a log */
	int (*add_vcpu)(struct vcpu *vcpu);			 /* sets fd */
	void (*remove_vcpu)(struct vcpu *vcpu);
	int (*boot)(struct machine *machine); /* sets up what the guest needs besides its code */
	int (*boot_vcpu)(struct vcpu *vcpu);
	int (*save)(struct vcpu *vcpu, struct vcpu_state *state);
	int (*load)(struct vcpu *vcpu, const struct vcpu_state *state);

	/*
	 * Returns GUEST_EVENT_*, 0 after a full ring and soon after interrupt() was called, or a
	 * negative errno value.
	 */
	int (*run)(struct vcpu *vcpu);
	void (*interrupt)(struct vcpu *vcpu); /* from any thread; in effect until resume() */
	void (*resume)(struct vcpu *vcpu);
	int (*complete_io)(struct vcpu *vcpu); /* completes the I/O of the last exit */
};

struct machine {
	const struct machine_kind *kind;
	struct layout layout;
	bool guest_user;
	uint8_t *memory; /* layout.memory_bytes */
	void *mapping;
	size_t mapping_bytes;
	int memory_fd; /* the file of the memory, or -1 if the memory is private */
	int kvm_fd;
	int vm_fd;
	struct model *model;	/* model only */
	const struct dl_os *os; /* for dl_log_open(); NULL: the real system */
	struct vcpu vcpus[LAYOUT_MAX_VCPUS];
	uint32_t vcpus_added;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool running;
	bool exiting;
	uint64_t quantum_ns; /* time per quantum of a vCPU; 0: no limit */
	uint32_t readers;    /* so many of the last vCPUs of a new guest only read */
	/* How long the vCPU must stay out of the guest, from now on. Called with the lock held. */
	uint64_t (*pause_due)(void *opaque, struct vcpu *vcpu);
	void *pause_opaque;
	char why[256];
};

extern const struct machine_kind machine_kvm, machine_model;

/*
 * Chooses the kind of machine. If auto falls back to the model, why says why KVM is unavailable.
 * Returns NULL, with the reason in why, if KVM was requested and is unavailable.
 */
const struct machine_kind *machine_choose(enum backend backend, char *why, size_t why_bytes);

/* Call machine_close() only if this returned 0. */
int machine_open(struct machine *machine, const struct machine_kind *kind,
		 const struct layout *layout, bool guest_user);

/*
 * Makes the memory a file that other processes can map and none can truncate. The memory is empty,
 * and there are no memslots yet. Returns 0, or a negative errno value with the reason in why.
 */
int machine_share_memory(struct machine *machine);

/* Creates memslots and vCPUs and registers them with the log, unless it is NULL. */
int machine_plug(struct machine *machine, struct dl_log *log);

/* Loads the guest code into memory and sets the vCPUs to its entry point. */
int machine_boot(struct machine *machine, uint32_t pattern, uint64_t dirty_bytes_per_s);

/* Starts the vCPU threads; they wait for machine_resume(). */
int machine_start(struct machine *machine);
void machine_resume(struct machine *machine);

/*
 * Stops the vCPUs and completes their pending I/O. Returns 0, or -ETIMEDOUT if a vCPU does not
 * stop.
 */
int machine_pause(struct machine *machine);

/*
 * From now on each vCPU's thread asks pause_due, before it enters the guest and after each kick,
 * how long to stay out. Stopping the machine cuts a pause short. NULL: no pauses any more, and none
 * goes on.
 */
void machine_set_pauses(struct machine *machine, uint64_t (*pause_due)(void *, struct vcpu *),
			void *opaque);

/* Has the vCPU leave the guest and ask. From any thread; does not wait for the vCPU. */
void machine_kick(struct machine *machine, uint32_t vcpu);

void machine_holds(struct machine *machine, uint32_t vcpu, struct vcpu_holds *holds);

/* The machine must be paused. states has one element per vCPU. */
int machine_save(struct machine *machine, struct vcpu_state *states);
int machine_load(struct machine *machine, const struct vcpu_state *states);

/* Returns 0, or a vCPU's failure with the reason in why. Damage that the guest found is one. */
int machine_failure(struct machine *machine, char *why, size_t why_bytes);

struct machine_check {
	bool healthy; /* every page was checked before the time limit, and none was damaged */
	int failure;  /* or a negative errno value; -ETIMEDOUT: some were not checked */
	uint64_t checked_pages;
	uint64_t records;
	uint64_t ns;
	char why[160];
};

/*
 * Resumes the paused guest until each vCPU has checked and rewritten its whole share, then pauses
 * it again. The time limit is for each GiB that they go over, and for what is less than one.
 * Logging must be off, because this changes the control pages.
 */
void machine_check(struct machine *machine, uint64_t limit_ns, struct machine_check *check);

uint64_t machine_records(struct machine *machine);

/* Pages read by the readers, and the CPU time that took. */
struct machine_reads {
	uint64_t pages, cpu_ns;
};

struct machine_reads machine_reads(struct machine *machine);

void machine_close(struct machine *machine);

static inline struct guest_control *machine_control(struct machine *machine, uint32_t vcpu)
{
	return (struct guest_control *)(machine->memory +
					layout_control_offset(&machine->layout, vcpu));
}

/* Also of a guest that has arrived: its own memory says so. */
static inline bool machine_is_reader(struct machine *machine, uint32_t vcpu)
{
	return __atomic_load_n(&machine_control(machine, vcpu)->pattern, __ATOMIC_RELAXED) ==
	       GUEST_PATTERN_READ;
}

int vcpu_fail(struct vcpu *vcpu, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
int machine_fail(struct machine *machine, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
