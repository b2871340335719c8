/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <dirtylog/dirtylog.h>

#include "faults.h"
#include "model.h"

const char *const actor_names[ACTOR_KINDS] = {
	"vcpu",	  "device", "kernel", "slots",	"harvester", "sender",
	"cancel", "faults", "watch",  "closer", "throttler",
};

const char *const op_names[OP_CODES] = {
	"idle",	 "write",  "write unchecked", "exit",	 "drain", "replug", "mark",  "noise mark",
	"set",	 "remove", "harvest",	      "pass",	 "stop",  "start",  "fault", "watch",
	"close", "want",   "limit",	      "migrate", "look",  "kicks",
};

static void print_op(const struct plan *plan, const struct op *op, FILE *to)
{
	fprintf(to, "      %s", op_names[op->code]);
	if (op->code == OP_WRITE || op->code == OP_UNCHECKED || op->code == OP_MARK)
		fprintf(to, " slot %#x pages %u+%u", plan->places[op->slot].slot, op->page,
			op->count);
	else if (op->code == OP_SET || op->code == OP_REMOVE)
		fprintf(to, " slot %#x", plan->places[op->slot].slot);
	else if (op->code == OP_FAULT)
		fprintf(to, ": %s, after %u calls, %u times", fault_names[op->flags], op->page,
			op->count);
	fputc('\n', to);
}

static void print_consumer(const struct plan *plan, uint32_t i, FILE *to)
{
	const struct wish *wish = &plan->wishes[i];

	fprintf(to, "  consumer %u: %s", i,
		wish->takes	  ? "takes"
		: wish->takes_too ? "reads and takes"
				  : "reads");
	if (wish->flags & DL_CURSOR_ONE_SLOT)
		fprintf(to, " slot %#x", plan->places[wish->place].slot);
	else
		fprintf(to, "%s", wish->flags & DL_CURSOR_WANTED ? " wanted slots" : " all slots");
	if (!wish->takes && (wish->coalesce_pages || wish->max_pages))
		fprintf(to, ", joins over %u pages, at most %u", wish->coalesce_pages,
			wish->max_pages);
	fprintf(to, "%s\n", wish->starts_late ? ", later" : "");
}

void plan_print(const struct plan *plan, FILE *to)
{
	static const char *const orders[] = { "log then store", "map then log", "store then log" };

	fprintf(to,
		"seed %lu: %s%s, rings of %u (full at %u), %s, checked every %u, pml %u%s%s%s%s\n",
		(unsigned long)plan->seed, plan->mode == DL_MODE_RING ? "ring" : "bitmap",
		plan->backup ? " and backup" : "", plan->ring_entries, plan->soft_limit_entries,
		orders[plan->write_order], plan->batch_writes, plan->pml_entries,
		plan->has & MODEL_HAS_MANUAL_PROTECT ? ", manual protect" : "",
		plan->has & MODEL_HAS_INITIALLY_SET ? ", initially set" : "",
		plan->sends_late ? ", late contents" : "", plan->limits ? ", limits" : "");
	for (uint32_t i = 0; i < plan->consumer_count; i++)
		if (!plan->wishes[i].dropped)
			print_consumer(plan, i, to);
	for (uint32_t i = 0; i < plan->place_count; i++)
		fprintf(to, "  slot %#x: block %u, pages %u+%u, at page %u or %u%s\n",
			plan->places[i].slot, plan->places[i].block, plan->places[i].first_page,
			plan->places[i].pages, plan->places[i].gpa_pages[0],
			plan->places[i].gpa_pages[1], plan->places[i].is_stable ? ", stable" : "");
	for (uint32_t i = 0; i < plan->actor_count; i++) {
		const struct actor *actor = &plan->actors[i];

		if (actor->dropped)
			continue;
		fprintf(to, "   %s%u\n", actor_names[actor->kind], actor->number);
		for (uint32_t n = 0; n < actor->ops; n++)
			if (!plan->ops[actor->first_op + n].dropped)
				print_op(plan, &plan->ops[actor->first_op + n], to);
	}
}
