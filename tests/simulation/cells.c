/* SPDX-License-Identifier: MIT */
/*
 * The one loss that the library does not repair, detected exactly. A vCPU that overflows laps the
 * ring during one RESET and fills a cell at the moment at which RESET takes that cell back. RESET
 * may then protect the page of the new entry instead of the old one's, or clear the new entry. A
 * cell cleared this way also hides the overflow, which shows in all cells being dirty. After a
 * first known overflow the library treats lapping during a RESET as another (ring.c,
 * dli_ring_verify()); before that it does not, since a healthy ring can fill that far.
 *
 * So if a take and a push of the same cell overlap while no overflow is known, the pages of that
 * cell's two entries are excused. From then on, and until an overflow is known, so are those of
 * entries of that ring that overwrite others, and of the others: the library may have read the one,
 * and RESET take the other. Before, every overwriting shows. A repair that begins later ends all of
 * this, unless the slot is gone by then. Nothing else is excused.
 */
#include <string.h>

#include "names.h"
#include "world.h"

/* The name that __func__ has in the model, which names.h may change. */
#define STRING_OF(name)	  #name
#define FUNCTION_OF(name) STRING_OF(name)

static struct kvm_dirty_gfn taken[SIM_TASKS];
static struct kvm_dirty_gfn covered[SIM_TASKS]; /* contents before a push */
static bool is_torn[SIM_TASKS];			/* the current push */
static bool overwrites[SIM_TASKS];		/* likewise */
static const void *torn_rings[PLAN_VCPUS];
static uint32_t torn_ring_count;

void cells_begin(void)
{
	memset(taken, 0, sizeof(taken));
	memset(covered, 0, sizeof(covered));
	memset(is_torn, 0, sizeof(is_torn));
	memset(overwrites, 0, sizeof(overwrites));
	torn_ring_count = 0;
}

static bool is_in_torn_ring(const struct kvm_dirty_gfn *cell)
{
	const void *ring = sim_file_around(cell);

	for (uint32_t i = 0; i < torn_ring_count; i++)
		if (torn_rings[i] == ring)
			return true;
	return false;
}

static void note_torn_ring(const struct kvm_dirty_gfn *cell)
{
	if (is_in_torn_ring(cell))
		return;
	if (torn_ring_count == PLAN_VCPUS)
		sim_fail(SIM_RESULT, "more rings than vCPUs are torn");
	torn_rings[torn_ring_count++] = sim_file_around(cell);
}

static bool is_over(const struct excuse *excuse)
{
	return insight_repairs(world.log) >= excuse->repairs;
}

bool cells_excuse(const struct place *place, uint32_t page)
{
	for (uint32_t i = 0; i < world.excuse_count; i++) {
		const struct excuse *excuse = &world.excuses[i];

		if (place->slot == excuse->slot && place->first_page + excuse->page == page &&
		    !is_over(excuse))
			return true;
	}
	return false;
}

/* No repair marks the pages of a slot that is gone. */
void cells_slot_goes(uint32_t slot)
{
	for (uint32_t i = 0; i < world.excuse_count; i++)
		if (world.excuses[i].slot == slot && !is_over(&world.excuses[i]))
			world.excuses[i].repairs = UINT64_MAX;
}

static void excuse(const struct kvm_dirty_gfn *entry)
{
	/* One that is left out would make a loss of the kernel's look like the library's. */
	if (world.excuse_count == EXCUSES)
		sim_fail(SIM_RESULT, "more than %d entries are excused", EXCUSES);
	world.excuses[world.excuse_count++] = (struct excuse){
		.slot = entry->slot,
		.page = entry->offset,
		.repairs = insight_saving_repair(world.log),
	};
}

/* Called when either side reaches a cell: are both there now? */
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
	sim_trace("a cell is taken and filled at the same time: excused");
	/* The two differ if the push had stored half of its entry when the take began. */
	excuse(&taken[taker->id]);
	excuse(&covered[pusher->id]);
	note_torn_ring(cell);
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
		/* Otherwise what is excused would be wrong. */
		if (task->pushing && task->pushing != cell)
			sim_fail(SIM_RESULT, "the end of a push was not noticed");
		task->pushing = cell;
		covered[task->id] = *cell;
		look_for_torn(cell);
	} else if (is(function, "take_entry") && !task->taking && value & KVM_DIRTY_GFN_F_RESET) {
		task->taking = cell;
		taken[task->id] = *cell;
		look_for_torn(cell);
	}
}

/* A push into a cell that is not free overwrites the slot first. */
void sim_cell_storing(const void *address, const char *function)
{
	const struct kvm_dirty_gfn *cell = sim.current ? sim.current->pushing : NULL;

	if (cell && address == &cell->slot && is(function, "fill_cell") &&
	    cell->flags == KVM_DIRTY_GFN_F_DIRTY && !insight_overflow_known(world.log) &&
	    is_in_torn_ring(cell)) {
		excuse(cell);
		overwrites[sim.current->id] = true;
	}
}

void sim_cell_stored(const void *address, const char *function)
{
	struct sim_task *task = sim.current;
	const struct kvm_dirty_gfn *cell = address;

	if (!task)
		return;
	if (is(function, FUNCTION_OF(mk_ring_push))) {
		look_for_torn(cell);
		/* The entry is complete now. */
		if (is_torn[task->id] || overwrites[task->id])
			excuse(cell);
		is_torn[task->id] = overwrites[task->id] = false;
		task->pushing = NULL;
	} else if (is(function, "take_entry")) {
		task->taking = NULL;
	}
}
