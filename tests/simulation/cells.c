/* SPDX-License-Identifier: MIT */
/*
 * The one loss that the library does not undo, and its proof. A vCPU that overflows goes a whole round
 * during one RESET, and fills a cell in the very moment in which RESET takes that cell back. RESET may
 * then protect the page of the new entry in place of the old one's, or wipe the new entry; and a cell
 * that is wiped so hides that all others are dirty, by which an overflow is told. Once one overflow is
 * known the library counts coming round during a RESET as one too (ring.c, dli_ring_verify()); before
 * the first it does not, since a healthy ring can fill that far.
 *
 * So: where a take and a push of the same cell overlap while no overflow is known, the pages of that
 * cell's two entries are excused, and those of the entries that are overwritten until one is known.
 * Nothing else is.
 */
#include <string.h>

#include "world.h"

static struct kvm_dirty_gfn taken[SIM_TASKS];
static struct kvm_dirty_gfn covered[SIM_TASKS]; /* what stood where a push is under way */
static bool is_torn[SIM_TASKS];			/* the push under way */

void cells_begin(void)
{
	memset(taken, 0, sizeof(taken));
	memset(covered, 0, sizeof(covered));
	memset(is_torn, 0, sizeof(is_torn));
}

static void excuse(const struct kvm_dirty_gfn *entry, bool only_if_torn)
{
	if (world.excuse_count < EXCUSES)
		world.excuses[world.excuse_count++] = (struct excuse){
			.slot = entry->slot, .page = entry->offset, .only_if_torn = only_if_torn
		};
}

/* Both sides are at this cell now. */
static void look_for_torn(const struct kvm_dirty_gfn *cell)
{
	const struct sim_task *taker = NULL, *pusher = NULL;

	for (uint32_t i = 0; i < sim.task_count; i++) {
		if (sim.tasks[i].taking == cell)
			taker = &sim.tasks[i];
		if (sim.tasks[i].pushing == cell)
			pusher = &sim.tasks[i];
	}
	if (!taker || !pusher || is_torn[pusher->id] || insight_overflow_known(world.log))
		return;
	world.counts.torn++;
	sim_trace("a cell is taken and filled at once: excused");
	/* Not the same where the push had stored the half of its entry when the take began. */
	excuse(&taken[taker->id], false);
	excuse(&covered[pusher->id], false);
	is_torn[pusher->id] = true;
}

static bool is(const char *function, const char *name)
{
	return function[0] == name[0] && !strcmp(function, name);
}

void sim_cell_loaded(const void *address, uint64_t value, const char *function)
{
	struct sim_task *task = sim.current;
	const struct kvm_dirty_gfn *cell = address;

	if (!task)
		return;
	if (is(function, "fill_cell")) {
		task->pushing = cell;
		covered[task->id] = *cell;
		look_for_torn(cell);
	} else if (is(function, "take_entry") && !task->taking && value & KVM_DIRTY_GFN_F_RESET) {
		task->taking = cell;
		taken[task->id] = *cell;
		look_for_torn(cell);
	}
}

/* Of a push into a cell that is not free the slot is stored first, over what stands there. */
void sim_cell_storing(const void *address, const char *function)
{
	const struct kvm_dirty_gfn *cell = sim.current ? sim.current->pushing : NULL;

	if (cell && address == &cell->slot && is(function, "fill_cell") &&
	    cell->flags == KVM_DIRTY_GFN_F_DIRTY && !insight_overflow_known(world.log))
		excuse(cell, true);
}

void sim_cell_stored(const void *address, const char *function)
{
	struct sim_task *task = sim.current;
	const struct kvm_dirty_gfn *cell = address;

	if (!task)
		return;
	if (is(function, "mk_ring_push")) {
		look_for_torn(cell);
		/* Now it is complete. */
		if (is_torn[task->id])
			excuse(cell, false);
		is_torn[task->id] = false;
		task->pushing = NULL;
	} else if (is(function, "take_entry")) {
		task->taking = NULL;
	}
}
