/* SPDX-License-Identifier: MIT */
#include "sides.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const names[OP_KINDS] = {
	"CHECK", "ENABLE", "GUEST", "VCPU",	 "REGION", "WRITE", "CONTINUE", "TAKE",
	"FLAGS", "SKIP",   "RESET", "RESET_RAW", "GET",	   "CLEAR", "IOCTL",	"MMAP",
};

int pair_open(struct pair *pair, const struct model_options *options)
{
	int r;

	pair->done = 0;
	pair->quiet = false;
	r = side_open(&pair->real, NULL);
	return r ? r : side_open(&pair->model, options);
}

void pair_close(struct pair *pair)
{
	side_close(&pair->model);
	side_close(&pair->real);
}

static void print_values(const char *whose, const struct answer *answer)
{
	uint32_t i;

	fprintf(stderr, "  %s: result %d, %u values", whose, answer->result, answer->count);
	for (i = 0; i < answer->count && i < 40; i++)
		fprintf(stderr, " %" PRIx64, answer->values[i]);
	fputc('\n', stderr);
}

void pair_print_op(FILE *to, const struct op *op)
{
	fprintf(to,
		"{ OP_%s, 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64
		", 0x%" PRIx64 " },",
		names[op->kind], op->a, op->b, op->c, op->d, op->e, op->f);
}

static int report(const struct pair *pair, const struct op *op, const struct answer *model,
		  const struct answer *real, const char *what)
{
	if (pair->quiet)
		return PAIR_DIFFERS;
	fprintf(stderr, "operation %u, ", pair->done);
	pair_print_op(stderr, op);
	fprintf(stderr, " %s differs\n", what);
	print_values("model", model);
	print_values("real ", real);
	return PAIR_DIFFERS;
}

/* The guest stores one word at the start of a page. */
static bool memory_equal(const struct pair *pair)
{
	uint64_t offset, bytes = SIDE_SLOTS * SIDE_SLOT_PAGES * pair->real.page_bytes;

	for (offset = 0; offset < bytes; offset += pair->real.page_bytes)
		if (memcmp(pair->model.memory + offset, pair->real.memory + offset,
			   2 * sizeof(uint64_t)))
			return false;
	return true;
}

int pair_do(struct pair *pair, const struct op *op)
{
	static struct answer model;
	struct answer *real = &pair->answer;
	bool runs = op->kind == OP_WRITE || op->kind == OP_CONTINUE;

	pair->done++;
	side_do(&pair->real, op, real);
	if (runs && op->a < SIDE_VCPUS)
		pair->model.vcpus[op->a].looks_with_left = pair->real.vcpus[op->a].looks_with_left;
	side_do(&pair->model, op, &model);
	if (model.result != real->result)
		return report(pair, op, &model, real, "the result");
	if (model.count != real->count ||
	    memcmp(model.values, real->values, real->count * sizeof(real->values[0])))
		return report(pair, op, &model, real,
			      runs ? "the number of lost stores" : "the set of dirty pages");
	if (runs && !memory_equal(pair))
		return report(pair, op, &model, real, "memory");
	return real->result;
}
