/* SPDX-License-Identifier: MIT */
#include "world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct world world;
static struct sim_site *site_of(enum model_point point)
{
	switch (point) {
	case MODEL_BEFORE_CALL:
	case MODEL_AFTER_CALL:
		return NULL; /* faults.c has points there */
	case MODEL_RESET_INVALIDATED:
		return SIM_SITE("RESET took an entry");
	case MODEL_RESET_PROTECTED:
		return SIM_SITE("RESET protected a batch");
	case MODEL_RESET_UNLOCKED:
		return SIM_SITE("RESET before the TLB flush");
	case MODEL_BITMAP_PROTECTED:
		return SIM_SITE("GET or CLEAR before the TLB flush");
	case MODEL_GUEST_MAPPED:
		return SIM_SITE("the guest's page is writable");
	case MODEL_GUEST_LOGGED:
		return SIM_SITE("the guest's write is logged");
	case MODEL_GUEST_STORED:
		return SIM_SITE("the guest's write is made");
	}
	return NULL;
}

static void on_event(void *opaque, const struct model_event *event)
{
	struct sim_site *site = site_of(event->point);
	struct fault fault;

	if (!site)
		return;
	if (event->point == MODEL_RESET_UNLOCKED && faults_meet(FAULT_RESET_LATE_FLUSH, &fault)) {
		sim.current->stalled_until = sim.now + 100 + fault.number % 2000;
		sim_yield(site);
	}
	sim_point(site);
}

void world_begin(const struct plan *plan)
{
	struct model_options options = {
		.has = plan->has,
		.page_bytes = PAGE_BYTES,
		.reserved_entries = plan->ring_entries - plan->soft_limit_entries,
		.pml_entries = plan->pml_entries,
		.ring_first_index = plan->ring_first_index,
		.slot_ids = 16,
		.write_order = plan->write_order,
		.batch_writes = plan->batch_writes,
		.delete_unmaps_all = plan->delete_unmaps_all,
		.looks_at_ring_on_entry = plan->looks_at_ring_on_entry,
		.protects_ranges = plan->protects_ranges,
		.hook = on_event,
	};

	memset(&world, 0, sizeof(world));
	world.plan = plan;
	world.chance = plan->seed;
	receivers_begin();
	for (uint32_t i = 0; i < CONSUMERS; i++)
		world.consumers[i] = (struct consumer){ .number = i, .wish = &plan->wishes[i] };
	cells_begin();
	world.model = model_new(&options);
	world.vm_fd = world.model ? model_vm_create(world.model) : -1;
	if (world.vm_fd < 0)
		abort();
	faults_os(&world.os);
}

static void open_log(void)
{
	const struct plan *plan = world.plan;
	const struct dl_options options = {
		.size = sizeof(options),
		.mode = plan->mode,
		.ring_entries = plan->mode == DL_MODE_RING ? plan->ring_entries : 0,
		.os = &world.os,
	};
	struct dl_log *log;
	int r;

	if (!sim_below(&world.chance, 16))
		faults_arm(&(struct fault){ .kind = FAULT_DUP, .times = 1, .error = EMFILE });
	r = dl_log_open(world.vm_fd, &options, &log, world.why, sizeof(world.why));

	/* The descriptor could not be duplicated: nothing has happened yet. */
	if (r && world.duplicate_failed)
		r = dl_log_open(world.vm_fd, &options, &log, world.why, sizeof(world.why));
	if (r)
		sim_fail(SIM_RESULT, "dl_log_open() = %d: %s", r, world.why);
	world.log = log;
}

static int set_stable(uint32_t place)
{
	const struct setting setting = {
		.flags = world.plan->places[place].is_wanted ? DL_SLOT_WANTED : 0,
	};

	return layout_set(place, &setting);
}

/* Runs as a task of its own, before all others. */
void world_setup(void)
{
	const struct plan *plan = world.plan;

	open_log();
	for (uint32_t i = 0; i < plan->place_count; i++)
		if (plan->places[i].is_stable)
			EXPECT("dl_slot_set", set_stable(i));
	for (uint32_t i = 0; i < plan->vcpus; i++)
		vcpu_plug(&world.vcpus[i]);
	for (uint32_t i = 0; i < plan->consumer_count; i++)
		if (!plan->wishes[i].starts_late)
			(void)consumer_start(&world.consumers[i], plan->starts_clean);
}

void world_close_log(void)
{
	world.closing = true;
	dl_log_close(world.log);
	/* The handles outlive it, until their last user is gone. */
	for (uint32_t i = 0; i < CONSUMERS; i++)
		consumer_forget(&world.consumers[i]);
	world.closed = true;
	world.log = NULL;
}

void world_end(void)
{
	if (world.duplicates)
		sim_fail(SIM_MEMORY, "the duplicate of the VM's fd is not closed");
	model_free(world.model);
	world.model = NULL;
	if (sim_memory_written_after_free())
		sim_fail(SIM_MEMORY, "freed memory was written to");
	if (sim_memory_left())
		sim_fail(SIM_MEMORY, "%lu allocations are not freed",
			 (unsigned long)sim_memory_left());
}

bool log_enter(void)
{
	if (world.closing)
		return false;
	world.log_users++;
	return true;
}

void log_leave(void)
{
	world.log_users--;
}

int expect_result(const char *call, int r, const int *allowed)
{
	sim_trace("%s = %d", call, r);
	if (sim.current->signals_blocked)
		sim_fail(SIM_MISUSE, "%s returned with signals blocked", call);
	if (sim.current->rcu_depth)
		sim_fail(SIM_MISUSE, "%s returned inside a read section", call);
	if (r >= 0 || faults_may_give(-r))
		return r;
	for (; *allowed; allowed++)
		if (r == *allowed)
			return r;
	sim_fail(SIM_RESULT, "%s = %d (%s), which is not expected here", call, r, strerror(-r));
}

/* Varies within the page, so that a partial copy is noticed. */
uint32_t place_in_page(uint64_t generation)
{
	return (uint32_t)(generation * 8 * 13 % PAGE_BYTES);
}

uint64_t new_generation(uint32_t block, uint32_t page)
{
	struct page_note *note = &world.notes[block][page];

	note->generation = ++world.generation;
	note->written_at = sim.now;
	note->by = sim.current->name;
	return note->generation;
}
