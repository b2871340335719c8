/* SPDX-License-Identifier: MIT */
#ifndef MODEL_SIDES_H
#define MODEL_SIDES_H

/*
 * Runs one script of raw operations on two kernels, the model and the real one. Each operation has
 * an answer on each side, and the answers must be equal. Guest physical pages are counted from
 * GUEST_DATA_GPA.
 */

#include <stdio.h>

#include "model.h"

#include "../kvm/machine.h"

enum {
	SIDE_VCPUS = 2,
	SIDE_SLOT_PAGES = 512, /* of memory for each slot */
	SIDE_SLOTS = 3,
	SIDE_MAX_VALUES = 2048,
	SIDE_BITMAP_WORDS = SIDE_SLOT_PAGES / 64,
};

enum op_kind {
	OP_CHECK,     /* a: capability, b: on the system fd */
	OP_ENABLE,    /* a: capability, b: args[0], c: flags */
	OP_GUEST,     /* the guest's own slot, not logged */
	OP_VCPU,      /* the next vCPU, its ring mapped whole */
	OP_REGION,    /* a: slot, b: flags, c: gpa page, d: pages, e: hva page */
	OP_WRITE,     /* a: vCPU, b: gpa page, c: count, d: stride pages, e: value, f: guest_mode */
	OP_CONTINUE,  /* a: vCPU that had a full ring */
	OP_TAKE,      /* read and release entries. a: vCPU, b: at most, c: 1 in ring order */
	OP_FLAGS,     /* a: vCPU, b: cell, from the head, c: flags to store there */
	OP_SKIP,      /* a: vCPU, b: cells to move the head by */
	OP_RESET,     /* result relative to the released entries: 0 means all */
	OP_RESET_RAW, /* result as returned */
	OP_GET,	      /* a: slot, b: 0 good, 1 bad address */
	OP_CLEAR,     /* a: slot, b: first page, c: pages, d: each word, e: odd ones differ in */
	OP_IOCTL,     /* a: 0 system, 1 VM, 2 vCPU, b: request */
	OP_MMAP,      /* a: vCPU, b: offset pages, c: pages, d: prot, e: flags */
	OP_KINDS,
};

struct op {
	enum op_kind kind;
	uint64_t a, b, c, d, e, f;
};

/*
 * The values are the words of a bitmap; or ring entries, either sorted without duplicates or in
 * ring order; or the number of guest stores that found no writable memory.
 */
struct answer {
	int result;
	uint32_t count;
	uint64_t values[SIDE_MAX_VALUES];
};

struct side_vcpu {
	int fd;
	struct kvm_dirty_gfn *cells;
	uint32_t head;
	uint64_t gpa, left, stride_bytes, value; /* the job of the model */
	enum guest_mode mode;
	/*
	 * A guest that is emulated in batches checks its ring when a batch begins. The real one did
	 * so with this many stores left; the model must check at the same point.
	 */
	uint64_t looks_with_left;
	uint64_t lost_accesses; /* in this operation */
	bool unfinished;	/* stopped by a full ring, with a job to continue */
	struct machine_vcpu *real;
};

struct side {
	struct model *model; /* NULL: the real kernel */
	struct machine machine;
	int vm;
	bool has_guest;
	bool emulates_kernel_mode; /* whether the model imitates this; see below */
	uint64_t page_bytes;
	char *memory, *guest_memory;
	uint32_t ring_bytes;
	uint32_t released; /* released and not yet reset */
	uint32_t vcpu_count;
	struct side_vcpu vcpus[SIDE_VCPUS];
};

/* Sets options so that the model resembles this kernel. Returns 0 or a negative errno value. */
int host_options(struct model_options *options);

/*
 * Whether this host emulates kernel-mode guests, in batches of up to 1024 instructions. Then each
 * of their stores makes an entry, and a full ring is noticed only when a batch begins.
 */
bool host_emulates_kernel_mode(void);

/* NULL options open the real kernel. */
int side_open(struct side *side, const struct model_options *options);
void side_close(struct side *side);
void side_do(struct side *side, const struct op *op, struct answer *answer);

/* Both sides, in lockstep. */
struct pair {
	struct side model, real;
	unsigned int done;    /* operations done, for messages */
	bool quiet;	      /* no messages */
	struct answer answer; /* the last one, common to both */
};

int pair_open(struct pair *pair, const struct model_options *options);
void pair_close(struct pair *pair);

/*
 * Returns the common result. If the answers or the memories differ, prints that to stderr and
 * returns PAIR_DIFFERS.
 */
enum { PAIR_DIFFERS = -100000 };
int pair_do(struct pair *pair, const struct op *op);

/* Prints an operation as C. */
void pair_print_op(FILE *to, const struct op *op);

#endif
