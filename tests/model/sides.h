/* SPDX-License-Identifier: MIT */
#ifndef MODEL_SIDES_H
#define MODEL_SIDES_H

/*
 * One script of raw operations, two kernels: the model and the real one. Each gives an answer to
 * each operation; the answers must be the same. Guest physical pages are counted from
 * GUEST_DATA_GPA.
 */

#include <stdio.h>

#include "model.h"

#include "../kvm/machine.h"

enum {
	SIDE_VCPUS = 2,
	SIDE_SLOT_PAGES = 512, /* of memory for each of ... */
	SIDE_SLOTS = 3,
	SIDE_MAX_VALUES = 2048,
	SIDE_BITMAP_WORDS = SIDE_SLOT_PAGES / 64,
};

enum op_kind {
	OP_CHECK,    /* a: capability, b: on the system fd */
	OP_ENABLE,   /* a: capability, b: args[0], c: flags */
	OP_GUEST,    /* the guest's own slot, not logged */
	OP_VCPU,     /* the next vCPU, its ring mapped whole */
	OP_REGION,   /* a: slot, b: flags, c: gpa page, d: pages, e: hva page */
	OP_WRITE,    /* a: vCPU, b: gpa page, c: count, d: stride pages, e: value, f: guest_mode */
	OP_CONTINUE, /* a: vCPU that had a full ring */
	OP_TAKE,  /* a: vCPU, b: at most so many, c: 1 as they are: read entries, give them back */
	OP_FLAGS, /* a: vCPU, b: cell from the head on, c: flags to store there */
	OP_SKIP,  /* a: vCPU, b: cells to move the head by */
	OP_RESET, /* the answer is relative to what was taken: 0 means all of it */
	OP_RESET_RAW, /* the answer as it is */
	OP_GET,	      /* a: slot, b: 0 good, 1 bad address */
	OP_CLEAR,     /* a: slot, b: first page, c: pages, d: word for all words */
	OP_IOCTL,     /* a: 0 system, 1 VM, 2 vCPU, b: request */
	OP_MMAP,      /* a: vCPU, b: offset pages, c: pages, d: prot, e: flags */
	OP_KINDS,
};

struct op {
	enum op_kind kind;
	uint64_t a, b, c, d, e, f;
};

/*
 * The values are a bitmap's words; or entries, without duplicates and sorted, or as they are; or
 * how many of a guest's stores found no memory that can be written.
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
	uint64_t gpa, left, stride_bytes, value; /* the model's job */
	enum guest_mode mode;
	/*
	 * A guest that is emulated in batches looks at its ring when one begins: the real one when
	 * so many stores were left, and there the model has to as well.
	 */
	uint64_t looks_with_left;
	uint64_t lost_accesses; /* of this operation */
	bool unfinished;	/* its ring was full: it has a job to go on with */
	struct machine_vcpu *real;
};

struct side {
	struct model *model; /* NULL: the real one */
	struct machine machine;
	int vm;
	bool has_guest;
	bool emulates_kernel_mode; /* what the model's machine is to be like: see below */
	uint64_t page_bytes;
	char *memory, *guest_memory;
	uint32_t ring_bytes;
	uint32_t released; /* given back and not yet reset */
	uint32_t vcpu_count;
	struct side_vcpu vcpus[SIDE_VCPUS];
};

/* What the model must be told to be like this machine's kernel. Returns a negative errno value. */
int host_options(struct model_options *options);

/*
 * Whether this host emulates guests in kernel mode, in batches of up to 1024 instructions: then
 * every store of theirs makes an entry, and a full ring is noticed only when a batch begins.
 */
bool host_emulates_kernel_mode(void);

/* options NULL: the real kernel. */
int side_open(struct side *side, const struct model_options *options);
void side_close(struct side *side);
void side_do(struct side *side, const struct op *op, struct answer *answer);

/* Both sides, in step. */
struct pair {
	struct side model, real;
	unsigned int done;    /* operations, for messages */
	bool quiet;	      /* no messages */
	struct answer answer; /* the last one, of both */
};

int pair_open(struct pair *pair, const struct model_options *options);
void pair_close(struct pair *pair);

/*
 * Returns the common result. Where the answers differ, or memory does, says so on stderr and
 * returns PAIR_DIFFERS.
 */
enum { PAIR_DIFFERS = -100000 };
int pair_do(struct pair *pair, const struct op *op);

/* As C. */
void pair_print_op(FILE *to, const struct op *op);

#endif
