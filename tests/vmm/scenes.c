/* SPDX-License-Identifier: MIT */
#include "scenes.h"

#include <errno.h>
#include <sched.h>

/* The script's vCPU stores to the marked pages of a range, and to no other: nobody else does. */
static void mark(struct vmm *vmm, uint32_t as_id, uint64_t at, uint64_t pages)
{
	for (uint64_t page = at + MARKED_PAGE; page < at + pages; page += 8)
		vmm_script_store(vmm, as_id, page);
}

static void mark_all(struct vmm *vmm)
{
	mark(vmm, 0, 0, RAM_PAGES);
	mark(vmm, 0, BAR_AT, DISPLAY_PAGES);
	mark(vmm, 0, OTHER_BAR_AT, DISPLAY_PAGES);
	mark(vmm, 0, BLOB_AT, BLOB_MOST_PAGES);
	mark(vmm, 1, 0, RAM_PAGES);
}

/* A guest toggle: a region is there or not. */
static void toggle(struct vmm *vmm, struct region *region, bool enabled)
{
	vmm_lock(vmm);
	region->enabled = enabled;
	vmm_commit(vmm);
	vmm_unlock(vmm);
}

static void move(struct vmm *vmm, struct region *region, uint64_t gpa_page)
{
	vmm_lock(vmm);
	region->gpa_page = gpa_page;
	vmm_commit(vmm);
	vmm_unlock(vmm);
}

static void resize(struct vmm *vmm, uint64_t pages)
{
	struct ram_block *block = &vmm->blob;

	vmm_lock(vmm);
	if (!vmm_misuses(vmm, MISUSE_SKIP_NEW_PAGES))
		ram_dirty(block, RAM_ALL, block->pages, pages - block->pages);
	block->pages = pages;
	vmm->blob_region->pages = pages;
	vmm_commit(vmm);
	vmm_unlock(vmm);
}

static void begin(struct vmm *vmm)
{
	vmm_migrate_start(vmm);
	vmm_run(vmm, 4);
	vmm_migrate_round(vmm);
}

static void finish(struct vmm *vmm)
{
	vmm_migrate_last(vmm);
	vmm->wrong_pages += vmm_differing_pages(vmm);
	vmm_migrate_end(vmm);
	vmm_resume(vmm);
}

static void a_display_outlives_migrations(struct vmm *vmm)
{
	vmm_run(vmm, 6);
	for (int migration = 0; migration < 2; migration++) {
		begin(vmm);
		for (int round = 0; round < 3; round++) {
			mark(vmm, 0, BAR_AT, DISPLAY_PAGES);
			vmm_run(vmm, 4);
			vmm_migrate_round(vmm);
		}
		mark_all(vmm);
		vmm_run(vmm, 1);
		finish(vmm);
		mark(vmm, 0, BAR_AT, DISPLAY_PAGES);
		vmm_run(vmm, 4);
	}
}

static void firmware_comes_and_goes(struct vmm *vmm)
{
	begin(vmm);
	for (int round = 0; round < 4; round++) {
		mark(vmm, 0, FIRMWARE_AT, FIRMWARE_PAGES);
		toggle(vmm, vmm->firmware_region, false);
		mark(vmm, 0, FIRMWARE_AT, FIRMWARE_PAGES);
		vmm_run(vmm, 2);
		if (round % 2)
			vmm_migrate_round(vmm);
		mark(vmm, 0, 0, RAM_PAGES);
		toggle(vmm, vmm->firmware_region, true);
		vmm_run(vmm, 2);
	}
	finish(vmm);
}

static void smram_opens_and_closes(struct vmm *vmm)
{
	begin(vmm);
	for (int round = 0; round < 4; round++) {
		mark(vmm, 0, SMRAM_AT - 64, 64);
		toggle(vmm, vmm->smram_hole, false);
		mark(vmm, 0, SMRAM_AT, SMRAM_PAGES);
		vmm_run(vmm, 2);
		if (round % 2)
			vmm_migrate_round(vmm);
		mark(vmm, 0, SMRAM_AT, SMRAM_PAGES);
		toggle(vmm, vmm->smram_hole, true);
		vmm_run(vmm, 2);
	}
	finish(vmm);
}

static void a_bar_moves(struct vmm *vmm)
{
	begin(vmm);
	for (int round = 0; round < 4; round++) {
		mark(vmm, 0, BAR_AT, DISPLAY_PAGES);
		move(vmm, vmm->bar, OTHER_BAR_AT);
		vmm_run(vmm, 2);
		mark(vmm, 0, OTHER_BAR_AT, DISPLAY_PAGES);
		toggle(vmm, vmm->bar, false);
		vmm_run(vmm, 2);
		if (round % 2)
			vmm_migrate_round(vmm);
		move(vmm, vmm->bar, BAR_AT);
		toggle(vmm, vmm->bar, true);
		vmm_run(vmm, 2);
	}
	finish(vmm);
}

static void the_second_space_writes(struct vmm *vmm)
{
	begin(vmm);
	for (int round = 0; round < 4; round++) {
		mark(vmm, 1, 0, RAM_PAGES);
		vmm_run(vmm, 2);
		vmm_migrate_round(vmm);
		mark(vmm, 1, SMRAM_AT, SMRAM_PAGES);
		toggle(vmm, vmm->smram_hole, round % 2);
		toggle(vmm, vmm->firmware_region, round % 2);
		vmm_run(vmm, 2);
	}
	mark(vmm, 1, 0, RAM_PAGES);
	finish(vmm);
}

static void a_block_grows(struct vmm *vmm)
{
	begin(vmm);
	for (uint64_t pages = 40; pages <= BLOB_MOST_PAGES; pages += 40) {
		mark(vmm, 0, BLOB_AT, BLOB_MOST_PAGES);
		if (pages % 80 == 0)
			vmm_pause(vmm);
		resize(vmm, pages);
		if (pages % 80 == 0)
			vmm_resume(vmm);
		vmm_run(vmm, 2);
		vmm_migrate_round(vmm);
	}
	mark(vmm, 0, 0, FIRMWARE_AT);
	finish(vmm);
}

/* All is mapped as at the beginning, except the BAR, and the firmware is loaded anew. */
static void reset(struct vmm *vmm)
{
	vmm_pause(vmm);
	vmm_lock(vmm);
	vmm->firmware_region->enabled = vmm->smram_hole->enabled = true;
	vmm->bar->enabled = false;
	vmm_commit(vmm);
	for (uint64_t page = 0; page < FIRMWARE_PAGES; page++)
		vmm_device_store(vmm, &vmm->firmware, page);
	vmm_unlock(vmm);
	vmm_resume(vmm);
}

static void the_guest_is_reset(struct vmm *vmm)
{
	begin(vmm);
	for (int round = 0; round < 3; round++) {
		toggle(vmm, vmm->firmware_region, false);
		toggle(vmm, vmm->smram_hole, false);
		vmm_run(vmm, 2);
		mark_all(vmm);
		reset(vmm);
		vmm_run(vmm, 2);
		if (round % 2)
			vmm_migrate_round(vmm);
		toggle(vmm, vmm->bar, true);
	}
	finish(vmm);
}

static void a_cancelled_migration_starts_again(struct vmm *vmm)
{
	for (int rounds = 0; rounds < 3; rounds++) {
		vmm_migrate_start(vmm);
		for (int round = 0; round < rounds; round++) {
			mark_all(vmm);
			vmm_run(vmm, 2);
			vmm_migrate_round(vmm);
		}
		mark_all(vmm);
		toggle(vmm, vmm->firmware_region, rounds % 2);
		vmm_migrate_end(vmm);
		mark_all(vmm);
		vmm_run(vmm, 2);
	}
	begin(vmm);
	mark_all(vmm);
	finish(vmm);
}

static void memory_is_mapped_nowhere_at_the_end(struct vmm *vmm)
{
	begin(vmm);
	mark_all(vmm);
	toggle(vmm, vmm->bar, false);
	toggle(vmm, vmm->firmware_region, false);
	vmm_run(vmm, 2);
	finish(vmm);
	toggle(vmm, vmm->bar, true);
	toggle(vmm, vmm->firmware_region, true);
	vmm_run(vmm, 2);
}

enum { CHANGING_AT = 4 * RAM_CHUNK_PAGES };

/* The guest writes a page between its clearing and its reading: once in a pass. */
static void write_page(struct vmm *vmm, struct ram_block *block, uint64_t page)
{
	if (block == &vmm->ram && page >= CHANGING_AT && page % 8 == MARKED_PAGE &&
	    !atomic_load(&vmm->paused))
		vmm_script_store(vmm, 0, page);
}

static void pages_change_while_they_are_sent(struct vmm *vmm)
{
	vmm->between = write_page;
	begin(vmm);
	for (int round = 0; round < 3; round++) {
		/* One page a chunk is dirty: each is cleared by itself. */
		vmm_script_store(vmm, 0, CHANGING_AT + MARKED_PAGE);
		vmm_script_store(vmm, 0, CHANGING_AT + RAM_CHUNK_PAGES + MARKED_PAGE);
		vmm_migrate_round(vmm);
	}
	mark(vmm, 0, 0, FIRMWARE_AT);
	finish(vmm);
	vmm->between = NULL;
}

static void a_meter_runs_beside(struct vmm *vmm)
{
	for (int window = 0; window < 4; window++) {
		vmm_run(vmm, 1);
		if (window == 1)
			begin(vmm);
		vmm_meter_start(vmm);
		mark_all(vmm);
		toggle(vmm, vmm->firmware_region, window % 2);
		move(vmm, vmm->bar, window % 2 ? BAR_AT : OTHER_BAR_AT);
		vmm_run(vmm, 2);
		if (window == 2)
			vmm_migrate_round(vmm);
		vmm_meter_stop(vmm);
	}
	vmm_run(vmm, 1);
	finish(vmm);
}

/*
 * Waits until vCPUs have found their rings full and gone on. What an overflow left out is written
 * without a trace until the next harvest, so that a ring may not fill again: then that they go on.
 */
static void wait_for_drains(struct vmm *vmm)
{
	unsigned long exits = atomic_load(&vmm->full_exits) + 3;
	unsigned long steps = vmm_fewest_steps(vmm) + 1000;

	while (atomic_load(&vmm->full_exits) < exits && vmm_fewest_steps(vmm) < steps)
		sched_yield();
}

static void drains_need_no_big_lock(struct vmm *vmm)
{
	unsigned long exits = atomic_load(&vmm->full_exits);

	begin(vmm);
	for (int round = 0; round < 3; round++) {
		atomic_store(&vmm->no_device, true);
		vmm_run(vmm, 1);
		vmm_lock(vmm);
		wait_for_drains(vmm);
		atomic_store(&vmm->no_device, false);
		vmm_unlock(vmm);
		vmm_migrate_round(vmm);
	}
	finish(vmm);
	hv_check(atomic_load(&vmm->full_exits) > exits ? 0 : -EPROTO, "no ring was ever full");
}

#define AT_THE_END (MISUSE_FORGET_CLEAR | MISUSE_LAST_TAKE | MISUSE_NO_LAST_TAKE | MISUSE_NO_MARK)
#define WORDS	   (MISUSE_DROP_WORDS | MISUSE_KEEP_WORDS)

const struct scene scenes[] = {
	{
		.name = "a_display_outlives_migrations",
		.run = a_display_outlives_migrations,
		.breaks_under = AT_THE_END | MISUSE_NO_FAN_OUT | MISUSE_SHADOW_FIRST,
	},
	{
		.name = "firmware_comes_and_goes",
		.run = firmware_comes_and_goes,
		.breaks_under = AT_THE_END | WORDS,
	},
	{
		/* The words may be lost: an older slot keeps the memory, with its pages pending. */
		.name = "smram_opens_and_closes",
		.run = smram_opens_and_closes,
		.breaks_under = AT_THE_END,
	},
	{
		.name = "a_bar_moves",
		.run = a_bar_moves,
		.breaks_under = AT_THE_END | WORDS,
	},
	{
		.name = "the_second_space_writes",
		.run = the_second_space_writes,
		.breaks_under = AT_THE_END | MISUSE_FORGET_ALIAS,
		.needs_second_space = true,
	},
	{
		.name = "a_block_grows",
		.run = a_block_grows,
		.breaks_under = AT_THE_END | WORDS | MISUSE_SKIP_NEW_PAGES,
		.changes_paused = true,
	},
	{
		.name = "the_guest_is_reset",
		.run = the_guest_is_reset,
		.breaks_under = AT_THE_END | WORDS,
		.changes_paused = true,
	},
	{
		.name = "a_cancelled_migration_starts_again",
		.run = a_cancelled_migration_starts_again,
		.breaks_under = AT_THE_END,
	},
	{
		.name = "memory_is_mapped_nowhere_at_the_end",
		.run = memory_is_mapped_nowhere_at_the_end,
		.breaks_under = AT_THE_END | WORDS,
		.changes_paused = true,
	},
	{
		.name = "pages_change_while_they_are_sent",
		.run = pages_change_while_they_are_sent,
		.breaks_under = AT_THE_END | MISUSE_READ_FIRST,
	},
	{
		.name = "a_meter_runs_beside",
		.run = a_meter_runs_beside,
		.breaks_under = AT_THE_END | WORDS | MISUSE_UNCOUNTED,
	},
	{
		.name = "drains_need_no_big_lock",
		.run = drains_need_no_big_lock,
		.needs_threads = true,
	},
};
const unsigned int n_scenes = sizeof(scenes) / sizeof(scenes[0]);

struct verdict scene_verdict(const struct scene *scene, const struct vmm_config *config)
{
	static struct vmm vmm;
	struct verdict verdict;

	vmm_open(&vmm, config);
	scene->run(&vmm);
	vmm_stop_threads(&vmm);
	verdict = (struct verdict){
		.wrong_pages = vmm.wrong_pages,
		.stale_words = vmm.display.stale_words + vmm.code.stale_words,
		.missed_pages = vmm.meter.missed_pages,
		.endless = vmm.endless,
		.counted_too_few = vmm.meter.counted_pages < vmm.meter.truth_pages,
		.pages_sent = vmm.pages_sent,
		.refreshes = vmm.display.refreshes,
	};
	vmm_close(&vmm);
	return verdict;
}
