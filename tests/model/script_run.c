/* SPDX-License-Identifier: MIT */
/* Runs scripts on both sides, and shrinks a script that shows a difference. */
#include "script.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
	SHRINK_RUNS = 3000, /* of about 10 ms each */
};

static void count_answer(struct script_tally *tally, const struct op *op,
			 const struct answer *answer)
{
	tally->ops++;
	if (answer->result < 0)
		tally->refused_ops++;
	if (op->kind == OP_TAKE)
		tally->entries += answer->count;
	if (op->kind != OP_WRITE && op->kind != OP_CONTINUE)
		return;
	if (answer->result == KVM_EXIT_DIRTY_RING_FULL)
		tally->full_exits++;
	if (op->kind == OP_WRITE && answer->result >= 0)
		tally->stores += op->c;
	if (answer->count)
		tally->lost_stores += answer->values[0];
}

uint32_t script_run(const struct script *script, const struct script_host *host,
		    struct script_tally *tally, enum script_verbosity verbosity)
{
	static struct pair pair;
	uint32_t i;

	if (pair_open(&pair, &host->options)) {
		fprintf(stderr, "cannot create the model or a VM\n");
		abort();
	}
	pair.quiet = verbosity == SCRIPT_QUIET;
	pair.model.emulates_kernel_mode = host->emulates_kernel_mode;
	for (i = 0; i < script->count; i++) {
		if (verbosity == SCRIPT_TRACE)
			pair_print_op(stdout, &script->ops[i]);
		if (pair_do(&pair, &script->ops[i]) == PAIR_DIFFERS)
			break;
		if (verbosity == SCRIPT_TRACE)
			printf(" /* %d, %u values */\n", pair.answer.result, pair.answer.count);
		if (tally)
			count_answer(tally, &script->ops[i], &pair.answer);
	}
	if (tally)
		tally->scripts++;
	pair_close(&pair);
	return i;
}

void script_print(const struct script *script)
{
	uint32_t i;

	for (i = 0; i < script->count; i++) {
		pair_print_op(stdout, &script->ops[i]);
		putchar('\n');
	}
}

struct shrinking {
	struct script *script;
	const struct script_host *host;
	uint32_t runs;
};

/* Keeps the smaller script if it shows a difference too, up to that operation. */
static bool keep(struct shrinking *shrinking, struct script *smaller)
{
	uint32_t same;

	if (shrinking->runs++ >= SHRINK_RUNS)
		return false;
	same = script_run(smaller, shrinking->host, NULL, SCRIPT_QUIET);
	if (same == smaller->count)
		return false;
	smaller->count = same + 1;
	*shrinking->script = *smaller;
	return true;
}

static bool without(struct shrinking *shrinking, uint32_t first, uint32_t count)
{
	struct script smaller = { .count = 0 };
	uint32_t i;

	for (i = 0; i < shrinking->script->count; i++)
		if (i < first || i >= first + count)
			smaller.ops[smaller.count++] = shrinking->script->ops[i];
	return keep(shrinking, &smaller);
}

static bool fewer_stores(struct shrinking *shrinking, uint32_t at)
{
	struct script smaller = *shrinking->script;
	uint64_t *count = &smaller.ops[at].c;

	if (smaller.ops[at].kind != OP_WRITE || *count < 2)
		return false;
	*count /= 2;
	return keep(shrinking, &smaller);
}

/* Long stretches first, from the end: the last operations are the least likely to matter. */
static bool fewer_ops(struct shrinking *shrinking)
{
	uint32_t length, at;
	bool any = false;

	for (length = shrinking->script->count / 2; length; length /= 2)
		for (at = shrinking->script->count; at >= length; at--)
			if (at <= shrinking->script->count &&
			    without(shrinking, at - length, length))
				any = true;
	return any;
}

void script_shrink(struct script *script, const struct script_host *host)
{
	struct shrinking shrinking = { .script = script, .host = host };
	struct script same = *script;
	uint32_t at;
	bool any = keep(&shrinking, &same);

	while (any) {
		any = fewer_ops(&shrinking);
		for (at = 0; at < script->count; at++)
			while (at < script->count && fewer_stores(&shrinking, at))
				any = true;
	}
}
