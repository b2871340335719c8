/* SPDX-License-Identifier: MIT */
/*
 * Sizes, offsets and values of the public header, which callers compile in. They are frozen. A line
 * that fails here shows an ABI break: fix the header, not this file. Add a line for each new field
 * or value.
 */
#include <dirtylog/dirtylog.h>

#include <assert.h>
#include <stdio.h>

#define FIELD(type, field, offset, bytes)                                   \
	static_assert(offsetof(struct type, field) == (offset) &&           \
			      sizeof(((struct type *)0)->field) == (bytes), \
		      #type "." #field)
#define SIZE(type, bytes)   static_assert(sizeof(struct type) == (bytes), #type)
#define VALUE(constant, is) static_assert((constant) == (is), #constant)
#define POINTER_BYTES	    sizeof(void *)

FIELD(dl_extent, gpa, 0, 8);
FIELD(dl_extent, hva, 8, 8);
FIELD(dl_extent, offset_bytes, 16, 8);
FIELD(dl_extent, bytes, 24, 8);
FIELD(dl_extent, cookie, 32, 8);
FIELD(dl_extent, ticket, 40, 8);
FIELD(dl_extent, slot, 48, 4);
FIELD(dl_extent, flags, 52, 4);
FIELD(dl_extent, reserved, 56, 8);
SIZE(dl_extent, 64);

FIELD(dl_options, size, 0, 4);
FIELD(dl_options, flags, 4, 4);
FIELD(dl_options, mode, 8, 4);
FIELD(dl_options, backup, 12, 4);
FIELD(dl_options, ring_entries, 16, 4);
FIELD(dl_options, reserved, 20, 4);
FIELD(dl_options, idle_ns, 24, 8);
FIELD(dl_options, os, 32, POINTER_BYTES);
SIZE(dl_options, 32 + POINTER_BYTES);

FIELD(dl_config, size, 0, 4);
FIELD(dl_config, has, 4, 4);
FIELD(dl_config, mode, 8, 4);
FIELD(dl_config, backup, 12, 4);
FIELD(dl_config, ring_entries, 16, 4);
FIELD(dl_config, ring_max_entries, 20, 4);
FIELD(dl_config, page_bytes, 24, 4);
FIELD(dl_config, reserved, 28, 4);
SIZE(dl_config, 32);

FIELD(dl_slot, size, 0, 4);
FIELD(dl_slot, flags, 4, 4);
FIELD(dl_slot, slot, 8, 4);
FIELD(dl_slot, kvm_flags, 12, 4);
FIELD(dl_slot, gpa, 16, 8);
FIELD(dl_slot, bytes, 24, 8);
FIELD(dl_slot, hva, 32, 8);
FIELD(dl_slot, cookie, 40, 8);
SIZE(dl_slot, 48);

FIELD(dl_cursor_options, size, 0, 4);
FIELD(dl_cursor_options, flags, 4, 4);
FIELD(dl_cursor_options, vcpus, 8, 4);
FIELD(dl_cursor_options, slot, 12, 4);
FIELD(dl_cursor_options, coalesce_bytes, 16, 8);
FIELD(dl_cursor_options, max_extent_bytes, 24, 8);
SIZE(dl_cursor_options, 32);

FIELD(dl_cursor_stats, size, 0, 4);
FIELD(dl_cursor_stats, reserved, 4, 4);
FIELD(dl_cursor_stats, pending_bytes, 8, 8);
FIELD(dl_cursor_stats, unacked_bytes, 16, 8);
FIELD(dl_cursor_stats, read_bytes, 24, 8);
FIELD(dl_cursor_stats, acked_bytes, 32, 8);
FIELD(dl_cursor_stats, passes, 40, 8);
SIZE(dl_cursor_stats, 48);

FIELD(dl_stats, size, 0, 4);
FIELD(dl_stats, limited_vcpus, 4, 4);
FIELD(dl_stats, entries, 8, 8);
FIELD(dl_stats, new_pages, 16, 8);
FIELD(dl_stats, duplicates, 24, 8);
FIELD(dl_stats, stale_entries, 32, 8);
FIELD(dl_stats, resets, 40, 8);
FIELD(dl_stats, short_resets, 48, 8);
FIELD(dl_stats, overflows, 56, 8);
FIELD(dl_stats, repairs, 64, 8);
FIELD(dl_stats, full_exits, 72, 8);
FIELD(dl_stats, high_water_entries, 80, 8);
FIELD(dl_stats, ioctl_ns, 88, 8);
FIELD(dl_stats, dirty_bytes_per_s, 96, 8);
FIELD(dl_stats, paused_ns, 104, 8);
FIELD(dl_stats, watched_bytes, 112, 8);
FIELD(dl_stats, missed_bytes, 120, 8);
FIELD(dl_stats, late_marks, 128, 8);
FIELD(dl_stats, repair_bytes, 136, 8);
FIELD(dl_stats, failed_marks, 144, 8);
FIELD(dl_stats, written_bytes_per_s, 152, 8);
SIZE(dl_stats, 160);

FIELD(dl_goal, size, 0, 4);
FIELD(dl_goal, flags, 4, 4);
FIELD(dl_goal, downtime_ns, 8, 8);
FIELD(dl_goal, fixed_ns, 16, 8);
FIELD(dl_goal, total_ns, 24, 8);
FIELD(dl_goal, longest_pause_ns, 32, 8);
FIELD(dl_goal, least_run_ppm, 40, 4);
FIELD(dl_goal, reserved, 44, 4);
SIZE(dl_goal, 48);

FIELD(dl_advice, size, 0, 4);
FIELD(dl_advice, verdict, 4, 4);
FIELD(dl_advice, pending_bytes, 8, 8);
FIELD(dl_advice, dirty_bytes_per_s, 16, 8);
FIELD(dl_advice, written_bytes_per_s, 24, 8);
FIELD(dl_advice, wire_bytes_per_s, 32, 8);
FIELD(dl_advice, downtime_ns, 40, 8);
FIELD(dl_advice, remaining_ns, 48, 8);
FIELD(dl_advice, again_ns, 56, 8);
FIELD(dl_advice, least_pending_bytes, 64, 8);
FIELD(dl_advice, run_ppm, 72, 4);
FIELD(dl_advice, limited_vcpus, 76, 4);
FIELD(dl_advice, bound_by, 80, 4);
FIELD(dl_advice, reserved, 84, 4);
SIZE(dl_advice, 88);

FIELD(dl_bitmap, size, 0, 4);
FIELD(dl_bitmap, flags, 4, 4);
FIELD(dl_bitmap, as_id, 8, 4);
FIELD(dl_bitmap, reserved, 12, 4);
FIELD(dl_bitmap, gpa, 16, 8);
FIELD(dl_bitmap, bytes, 24, 8);
FIELD(dl_bitmap, page_bytes, 32, 8);
SIZE(dl_bitmap, 40);

FIELD(dl_bitmap, size, 0, 4);
FIELD(dl_bitmap, flags, 4, 4);
FIELD(dl_bitmap, as_id, 8, 4);
FIELD(dl_bitmap, reserved, 12, 4);
FIELD(dl_bitmap, gpa, 16, 8);
FIELD(dl_bitmap, bytes, 24, 8);
FIELD(dl_bitmap, page_bytes, 32, 8);
SIZE(dl_bitmap, 40);

VALUE(DL_MODE_AUTO, 0);
VALUE(DL_MODE_RING, 1);
VALUE(DL_MODE_BITMAP, 2);
VALUE(DL_BACKUP_AUTO, 0);
VALUE(DL_BACKUP_OFF, 1);
VALUE(DL_BACKUP_REQUIRED, 2);
VALUE(DL_HAS_RING_TSO, 1);
VALUE(DL_HAS_RING_ACQ_REL, 2);
VALUE(DL_HAS_BACKUP, 4);
VALUE(DL_HAS_MANUAL_PROTECT, 8);
VALUE(DL_HAS_INITIALLY_SET, 16);
VALUE(DL_HAS_WATCH, 32);
VALUE(DL_SLOT_PAUSED, 1);
VALUE(DL_SLOT_CLEAN, 2);
VALUE(DL_SLOT_EXISTS, 4);
VALUE(DL_SLOT_NO_LOG, 8);
VALUE(DL_SLOT_WANTED, 16);
VALUE(DL_REMOVE_PAUSED, 1);
VALUE(DL_HARVEST_PAUSED, 1);
VALUE(DL_HARVEST_ALL, 2);
VALUE(DL_REAP_NOW, 2);
VALUE(DL_CURSOR_CLEAN, 2);
VALUE(DL_CURSOR_WANTED, 4);
VALUE(DL_CURSOR_ONE_SLOT, 8);
VALUE(DL_CURSOR_MISSED, 16);
VALUE(DL_CURSOR_SKIP_REWRITTEN, 32);
VALUE(DL_END_COMMIT, 2);
VALUE(DL_TAKE_PAUSED, 1);
VALUE(DL_TAKE_HARVEST, 2);
VALUE(DL_TAKE_NO_CLEAR, 4);
VALUE(DL_TAKE_LE, 8);
VALUE(DL_VERDICT_CONTINUE, 0);
VALUE(DL_VERDICT_SWITCHOVER, 1);
VALUE(DL_VERDICT_THROTTLED, 2);
VALUE(DL_VERDICT_LATE, 3);
VALUE(DL_VERDICT_DIVERGING, 4);
VALUE(DL_BOUND_NONE, 0);
VALUE(DL_BOUND_STALL, 1);
VALUE(DL_BOUND_DEADLINE, 2);
VALUE(DL_BOUND_FLOOR, 3);
VALUE(DL_BOUND_PAUSE, 4);
VALUE(DL_BOUND_IGNORED, 5);
VALUE(DL_GOAL_ADVISE, 2);
VALUE(DL_EXTENT_PADDED, 1);
VALUE(DL_BITMAP_TAKE, 2);
VALUE(DL_BITMAP_LE, 4);
VALUE(DL_WATCH_AUDIT, 2);

int main(void)
{
	if (dl_library_version() == DL_VERSION)
		return 0;
	fprintf(stderr, "the library has version %#x, the header %#x\n", dl_library_version(),
		(unsigned)DL_VERSION);
	return 1;
}
