/* SPDX-License-Identifier: MIT */
#include "life_acts.h"

#include <errno.h>
#include <unistd.h>

enum {
	MOST_PASSES = 6,
	LARGEST_RING = 8192,
};

static void begin_logging(struct life *life)
{
	uint32_t flags = 0;

	if (one_in(life, 4)) {
		stop_vcpus(life);
		checker_equalize(&life->rig->checker);
		flags = DL_CURSOR_CLEAN;
	}
	rig_join(life->rig, flags);
	life->logging = true;
	for (unsigned int i = 0; i < AREAS; i++)
		life->areas[i].slot->block->ignored = !life->areas[i].present;
	if (life->has_harvester)
		rig_start_worker(life->rig, 0, rig_harvest_step);
}

/* Also stops in the middle of a pass. */
static void stop_logging(struct life *life)
{
	if (life->logging && one_in(life, 2))
		begin_pass(life);
	rig_leave(life->rig);
	life->logging = false;
	rig_end_workers(life->rig);
}

/*
 * One vCPU writes the number of the generation to every page of an area: once per migration, and
 * not again at its end, because a write right before the final pass would hide a lost page.
 */
static void write_generation(struct life *life, unsigned int area)
{
	unsigned int vcpu;

	if (!life->areas[area].present)
		return;
	vcpu = draw_vcpu_in_log(life);
	stop_vcpu(life, vcpu);
	write_area(life, vcpu, area, life->generation, draw_guest(life));
	if (one_in(life, 2))
		give_work(life, vcpu);
}

/* Writes the areas that are due at this pass. Pass 0 is before logging starts. */
static void write_generations(struct life *life, const uint64_t *due_passes, uint64_t pass)
{
	for (unsigned int i = 0; i < AREAS; i++)
		if (due_passes[i] == pass)
			write_generation(life, i);
}

static void finish(struct life *life)
{
	stop_vcpus(life);
	rig_end_workers(life->rig);
	rig_finish(life->rig);
	for (unsigned int i = 0; i < AREAS; i++)
		if (!life->areas[i].slot->block->ignored)
			life->tally->pages_compared += area_pages[i];
	life->tally->completed++;
}

static void add_stats(struct life *life)
{
	life->tally->overflows += rig_stats(life->rig).overflows;
}

/* Returns false with rings: a VM with rings cannot get a second log. */
static bool reopen_log(struct life *life)
{
	struct rig *rig = life->rig;
	const struct dl_options options = { .size = sizeof(options), .mode = rig->config.mode };
	int r = dl_log_open(rig->machine.vm_fd, &options, &rig->log, NULL, 0);

	if (rig->log_config.mode == DL_MODE_RING) {
		assert_int_equal(r, -EBUSY);
		return false;
	}
	assert_int_equal(r, 0);
	rig->checker.log = rig->log;
	for (unsigned int i = 0; i < AREAS; i++)
		if (life->areas[i].present)
			assert_int_equal(rig_slot_set(rig, life->areas[i].slot, DL_SLOT_EXISTS, 0),
					 0);
	for (unsigned int i = 0; i < rig->vcpu_count; i++)
		rig_vcpu_add(rig, &rig->vcpus[i]);
	life->tally->reopened++;
	return true;
}

/* Closes the log while the guest runs. Returns true if a new log was opened. */
static bool close_log(struct life *life)
{
	struct rig *rig = life->rig;
	bool leave_first = one_in(life, 2);

	if (one_in(life, 2))
		begin_pass(life);
	rig_end_workers(rig);
	add_stats(life);
	if (leave_first)
		rig_leave(rig);
	dl_log_close(rig->log);
	rig_leave(rig);
	rig->log = rig->checker.log = NULL;
	life->logging = false;
	wait_for_guests(life);
	for (unsigned int i = 0; i < rig->vcpu_count; i++) {
		stop_vcpu(life, i);
		dl_vcpu_remove(rig->vcpus[i].log);
		rig->vcpus[i].log = NULL;
	}
	life->tally->closed++;
	return reopen_log(life);
}

/* Returns false if the VM has no log afterwards. */
static bool migrate(struct life *life)
{
	const uint64_t passes = 1 + draw(life, MOST_PASSES);
	uint64_t due_passes[AREAS];

	life->tally->migrations++;
	life->generation++;
	for (unsigned int i = 0; i < 2; i++)
		life->guests[i] = one_in(life, 2) ? GUEST_USER : GUEST_KERNEL;
	for (unsigned int i = 0; i < AREAS; i++)
		due_passes[i] = draw(life, passes + 1);
	write_generations(life, due_passes, 0);
	if (!life->logging)
		begin_logging(life);
	give_all_work(life);
	for (uint64_t pass = 1; pass <= passes; pass++) {
		for (uint64_t acts = draw(life, 4); acts; acts--)
			act(life);
		write_generations(life, due_passes, pass);
		wait_for_guests(life);
		if (one_in(life, 24))
			return close_log(life);
		if (one_in(life, 16)) {
			stop_logging(life);
			life->tally->stopped++;
			return true;
		}
		/* Sometimes skip the last pass, which leaves more work to the final one. */
		if (pass < passes || one_in(life, 2))
			rig_pass(life->rig, 0);
	}
	finish(life);
	/* As after a failure of the destination: the guest and the log keep running. */
	if (one_in(life, 4) && !life->has_harvester)
		return true;
	stop_logging(life);
	return true;
}

static bool accepts_ring(uint32_t entries)
{
	const struct dl_options options = { .size = sizeof(options),
					    .mode = DL_MODE_RING,
					    .ring_entries = entries };
	struct machine machine;
	struct dl_log *log;
	bool accepts = false;

	assert_int_equal(machine_open(&machine), 0);
	if (!dl_log_open(machine.vm_fd, &options, &log, NULL, 0)) {
		accepts = true;
		dl_log_close(log);
	}
	machine_close(&machine);
	return accepts;
}

/* Entries of the smallest ring that this host accepts; 0 if it accepts none. */
static uint32_t smallest_ring(void)
{
	static uint32_t entries;
	static bool known;

	if (known)
		return entries;
	known = true;
	entries = (uint32_t)((size_t)getpagesize() / sizeof(struct kvm_dirty_gfn));
	while (entries <= LARGEST_RING && !accepts_ring(entries))
		entries *= 2;
	if (entries > LARGEST_RING)
		entries = 0;
	return entries;
}

static void create_vm(struct life *life)
{
	const uint32_t smallest = smallest_ring();
	const bool ring = smallest && !one_in(life, 4);
	const struct rig_config config = {
		.mode = ring ? DL_MODE_RING : DL_MODE_BITMAP,
		.ring_entries = ring ? smallest << draw(life, 3) : 0,
		.vcpus = 1 + (unsigned int)draw(life, 2),
	};

	life->has_harvester = one_in(life, 3);
	life->rig = rig_new(&config);
	for (unsigned int i = 0; i < AREAS; i++) {
		life->areas[i].slot = rig_memory(life->rig, i, area_gpa(i, 0), area_pages[i]);
		set_area(life, i, 0);
	}
}

void life_run(uint64_t seed, uint64_t most_migrations, struct life_tally *tally)
{
	struct life life = { .tally = tally };
	uint64_t migrations;

	life.random.state = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15) | 1;
	for (int i = 0; i < 8; i++)
		random_next(&life.random);
	create_vm(&life);
	migrations = 1 + draw(&life, 6);
	if (migrations > most_migrations)
		migrations = most_migrations;
	for (; migrations; migrations--) {
		if (!migrate(&life))
			break;
		wait_for_guests(&life);
		if (one_in(&life, 3) && !life.logging)
			change_slot(&life);
	}
	if (life.rig->log)
		add_stats(&life);
	for (unsigned int i = 0; i < life.rig->vcpu_count; i++)
		tally->full_exits += atomic_load(&life.rig->vcpus[i].machine->full_exits);
	tally->passes += life.rig->passes;
	tally->pages_sent += life.rig->checker.pages_sent;
	rig_free(life.rig);
	tally->lives++;
}
