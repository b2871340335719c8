/* SPDX-License-Identifier: MIT */
#include "life_acts.h"

#include <string.h>

enum {
	MOST_VCPUS = 5,
	DEVICE_OFFSET = 2048, /* in a page, past the words of the vCPUs */
};

const uint64_t area_pages[AREAS] = { 700, 300, 100, 65 };

uint64_t draw(struct life *life, uint64_t below)
{
	return random_below(&life->random, below);
}

bool one_in(struct life *life, uint64_t n)
{
	return !draw(life, n);
}

enum guest_mode draw_guest(struct life *life)
{
	return life->guests[draw(life, 2)];
}

uint64_t area_gpa(unsigned int area, uint64_t position)
{
	return (1 + 2 * area + position) * 4ull * GUEST_DATA_GPA;
}

static void forget_work(struct life *life, unsigned int area)
{
	for (unsigned int i = 0; i < GUEST_MAX_VCPUS; i++)
		if (life->work[i].area == area)
			life->work[i].running = false;
}

void set_area(struct life *life, unsigned int index, uint64_t position)
{
	struct area *area = &life->areas[index];

	area->slot->gpa = area_gpa(index, position);
	assert_int_equal(rig_slot_set(life->rig, area->slot, 0, 0), 0);
	area->present = true;
	area->slot->block->ignored = false;
	forget_work(life, index);
	life->tally->slot_changes++;
}

static uint64_t write_memory(struct life *life, struct rig_slot *slot)
{
	uint64_t offset = draw(life, slot->bytes / life->rig->page_bytes) * life->rig->page_bytes;
	uint64_t value = random_next(&life->random);

	memcpy(slot->memory + offset + DEVICE_OFFSET, &value, sizeof(value));
	return offset;
}

/*
 * The pages of a removed slot are dropped, and its memory may be written freely: a new slot over it
 * starts wholly dirty.
 */
static void remove_area(struct life *life, unsigned int index)
{
	struct area *area = &life->areas[index];

	assert_int_equal(rig_slot_remove(life->rig, area->slot), 0);
	area->present = false;
	area->slot->block->ignored = true;
	forget_work(life, index);
	life->tally->slot_changes++;
	write_memory(life, area->slot);
}

static unsigned int areas_present(const struct life *life)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < AREAS; i++)
		count += life->areas[i].present;
	return count;
}

static unsigned int draw_area_present(struct life *life)
{
	unsigned int area;

	do
		area = (unsigned int)draw(life, AREAS);
	while (!life->areas[area].present);
	return area;
}

static unsigned int largest_present(const struct life *life)
{
	unsigned int area = 0;

	while (!life->areas[area].present)
		area++;
	return area;
}

void change_slot(struct life *life)
{
	unsigned int area = (unsigned int)draw(life, AREAS);

	if (!life->areas[area].present || one_in(life, 2))
		set_area(life, area, draw(life, 2));
	else if (areas_present(life) > 1)
		remove_area(life, area);
}

void stop_vcpu(struct life *life, unsigned int vcpu)
{
	struct machine_vcpu *machine = life->rig->vcpus[vcpu].machine;

	if (machine->threaded)
		assert_int_equal(machine_stop(machine), MACHINE_STOPPED);
	life->work[vcpu].running = false;
}

void stop_vcpus(struct life *life)
{
	for (unsigned int i = 0; i < life->rig->vcpu_count; i++)
		stop_vcpu(life, i);
}

void give_work(struct life *life, unsigned int vcpu)
{
	struct work *work = &life->work[vcpu];
	struct rig_range range;

	stop_vcpu(life, vcpu);
	work->area = draw_area_present(life);
	range.slot = life->areas[work->area].slot;
	range.first_page = draw(life, area_pages[work->area] / 2);
	range.pages = 1 + draw(life, area_pages[work->area] - range.first_page);
	range.shuffled = one_in(life, 2);
	life->rig->config.guest = draw_guest(life);
	rig_count(life->rig, vcpu, &range);
	work->running = true;
}

void give_all_work(struct life *life)
{
	for (unsigned int i = 0; i < life->rig->vcpu_count; i++)
		if (life->rig->vcpus[i].log && !one_in(life, 4))
			give_work(life, i);
}

static void change_job(struct life *life)
{
	unsigned int vcpu = (unsigned int)draw(life, life->rig->vcpu_count);

	if (life->rig->vcpus[vcpu].log)
		give_work(life, vcpu);
}

static unsigned int vcpus_in_log(const struct life *life)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < life->rig->vcpu_count; i++)
		count += life->rig->vcpus[i].log != NULL;
	return count;
}

/* Creates a vCPU, removes one from the log, or adds a removed one again. */
static void plug_vcpu(struct life *life)
{
	struct rig *rig = life->rig;
	unsigned int vcpu = (unsigned int)draw(life, rig->vcpu_count + 1);

	if (vcpu == rig->vcpu_count && vcpu < MOST_VCPUS) {
		rig_vcpu(rig, true);
		life->tally->vcpus_added++;
	} else if (vcpu == rig->vcpu_count) {
		return;
	} else if (!rig->vcpus[vcpu].log) {
		rig_vcpu_add(rig, &rig->vcpus[vcpu]);
		life->tally->vcpus_added++;
	} else if (vcpus_in_log(life) > 1) {
		stop_vcpu(life, vcpu);
		dl_vcpu_remove(rig->vcpus[vcpu].log);
		rig->vcpus[vcpu].log = NULL;
		life->tally->vcpus_parked++;
		return;
	}
	if (rig->vcpus[vcpu].log)
		give_work(life, vcpu);
}

/* The write comes first, then the mark. */
static void device_writes(struct life *life)
{
	struct rig_slot *slot = life->areas[draw_area_present(life)].slot;
	uint64_t offset = write_memory(life, slot);

	assert_int_equal(dl_mark_gpa(life->rig->log, 0, slot->gpa + offset, 1), 0);
}

void wait_for_guests(struct life *life)
{
	for (unsigned int i = 0; i < life->rig->vcpu_count; i++)
		if (life->work[i].running)
			rig_wait_rounds(life->rig, i, 1);
}

void begin_pass(struct life *life)
{
	struct dl_extent runs[CHECKER_MAX_RUNS];
	struct dl_cursor *cursor;
	int n = 1;

	cursor = life->rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	for (uint64_t reads = draw(life, 4); reads && n > 0; reads--) {
		uint32_t most = 1 + (uint32_t)draw(life, CHECKER_MAX_RUNS), acked;

		n = dl_cursor_read(cursor, runs, most);
		assert_true(n >= 0);
		acked = (uint32_t)draw(life, (uint64_t)n + 1);
		for (uint32_t i = 0; i < acked; i++)
			checker_copy_run(&life->rig->checker, &runs[i]);
		if (acked)
			assert_int_equal(dl_cursor_ack(cursor, runs, acked), 0);
	}
}

/* Slots may change in the middle of a pass, which is then read on, or abandoned. */
static void pass_with_changes(struct life *life)
{
	begin_pass(life);
	for (uint64_t changes = draw(life, 3); changes; changes--)
		change_slot(life);
	if (one_in(life, 2))
		assert_int_equal(checker_finish_pass(&life->rig->checker, 1), 0);
	else
		checker_end(&life->rig->checker, 0);
}

/* As a VMM that has bitmaps of its own. */
static void take_an_area(struct life *life)
{
	uint32_t slot = life->areas[draw_area_present(life)].slot->slot;
	uint32_t flags = one_in(life, 2) ? DL_TAKE_HARVEST : DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR;
	uint64_t pages = 0;

	assert_int_equal(checker_take(&life->rig->checker, slot, flags, &pages), 0);
	checker_flush(&life->rig->checker);
}

unsigned int draw_vcpu_in_log(struct life *life)
{
	unsigned int vcpu;

	do
		vcpu = (unsigned int)draw(life, life->rig->vcpu_count);
	while (!life->rig->vcpus[vcpu].log);
	return vcpu;
}

void write_area(struct life *life, unsigned int vcpu, unsigned int area, uint64_t value,
		enum guest_mode mode)
{
	struct rig_slot *slot = life->areas[area].slot;
	const struct rig_range range = { .slot = slot, .pages = area_pages[area] };

	rig_write_mode(life->rig, vcpu, &range, value, mode);
	for (uint64_t page = 0; page < area_pages[area]; page++)
		assert_int_equal(*rig_word(life->rig, slot, page, vcpu), value);
	life->tally->pages_written += area_pages[area];
}

/*
 * On hosts whose rings overflow, pending entries are overwritten, and their pages stay writable
 * until a repair protects them. From then on all vCPUs run in user mode, which is logged correctly,
 * so that no later overflow marks those pages by chance.
 */
static void overrun_ring(struct life *life)
{
	unsigned int vcpu = draw_vcpu_in_log(life), waiting = draw_area_present(life);

	stop_vcpus(life);
	write_area(life, vcpu, waiting, life->generation, GUEST_USER);
	write_area(life, vcpu, largest_present(life), life->generation, GUEST_KERNEL);
	rig_pass(life->rig, 0);
	rig_pass(life->rig, 0);
	write_area(life, vcpu, waiting, life->generation + 1, GUEST_USER);
	life->guests[0] = life->guests[1] = GUEST_USER;
	give_all_work(life);
}

void act(struct life *life)
{
	switch (draw(life, 10)) {
	case 0:
	case 1:
		change_slot(life);
		break;
	case 2:
		plug_vcpu(life);
		break;
	case 3:
	case 4:
		change_job(life);
		break;
	case 5:
		pass_with_changes(life);
		break;
	case 6:
		(void)rig_harvest(life->rig, 0);
		break;
	case 7:
		overrun_ring(life);
		break;
	case 8:
		take_an_area(life);
		break;
	default:
		device_writes(life);
	}
}
