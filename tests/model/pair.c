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
	r = side_open(&pair->real, NULL);
	return r ? r : side_open(&pair->model, options);
}

void pair_close(struct pair *pair)
{
	side_close(&pair->model);
	side_close(&pair->real);
}

static void tell_values(const char *whose, const struct answer *answer)
{
	uint32_t i;

	fprintf(stderr, "  %s: result %d, %u values", whose, answer->result, answer->count);
	for (i = 0; i < answer->count && i < 40; i++)
		fprintf(stderr, " %" PRIx64, answer->values[i]);
	fputc('\n', stderr);
}

static int tell(const struct pair *pair, const struct op *op, const struct answer *model,
		const struct answer *real, const char *what)
{
	fprintf(stderr,
		"operation %u, %s %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64
		": %s differs\n",
		pair->done, names[op->kind], op->a, op->b, op->c, op->d, op->e, what);
	tell_values("model", model);
	tell_values("real ", real);
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
	static struct answer model, real;

	pair->done++;
	side_do(&pair->real, op, &real);
	side_do(&pair->model, op, &model);
	if (model.result != real.result)
		return tell(pair, op, &model, &real, "the result");
	if (model.count != real.count ||
	    memcmp(model.values, real.values, real.count * sizeof(real.values[0])))
		return tell(pair, op, &model, &real, "what was dirty");
	if ((op->kind == OP_WRITE || op->kind == OP_CONTINUE) && !memory_equal(pair))
		return tell(pair, op, &model, &real, "memory");
	return real.result;
}
