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

FIELD(dl_run, gpa, 0, 8);
FIELD(dl_run, hva, 8, 8);
FIELD(dl_run, offset_bytes, 16, 8);
FIELD(dl_run, bytes, 24, 8);
FIELD(dl_run, slot, 32, 4);
FIELD(dl_run, reserved, 36, 4);
SIZE(dl_run, 40);

FIELD(dl_options, size, 0, 4);
FIELD(dl_options, flags, 4, 4);
FIELD(dl_options, mode, 8, 4);
FIELD(dl_options, backup, 12, 4);
FIELD(dl_options, ring_entries, 16, 4);
FIELD(dl_options, reserved, 20, 4);
FIELD(dl_options, idle_ns, 24, 8);
FIELD(dl_options, os, 32, POINTER_BYTES);
FIELD(dl_options, set_region, 32 + POINTER_BYTES, POINTER_BYTES);
FIELD(dl_options, opaque, 32 + 2 * POINTER_BYTES, POINTER_BYTES);
SIZE(dl_options, 32 + 3 * POINTER_BYTES);

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
SIZE(dl_slot, 40);

FIELD(dl_stats, size, 0, 4);
FIELD(dl_stats, reserved, 4, 4);
FIELD(dl_stats, entries, 8, 8);
FIELD(dl_stats, new_pages, 16, 8);
FIELD(dl_stats, duplicates, 24, 8);
FIELD(dl_stats, stale_entries, 32, 8);
FIELD(dl_stats, resets, 40, 8);
FIELD(dl_stats, short_resets, 48, 8);
FIELD(dl_stats, overflows, 56, 8);
FIELD(dl_stats, full_exits, 64, 8);
FIELD(dl_stats, high_water_entries, 72, 8);
FIELD(dl_stats, ioctl_ns, 80, 8);
FIELD(dl_stats, pending_bytes, 88, 8);
FIELD(dl_stats, unacked_bytes, 96, 8);
SIZE(dl_stats, 104);

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
VALUE(DL_SLOT_CLEAN, 1);
VALUE(DL_SLOT_CALLER_IOCTL, 2);
VALUE(DL_SLOT_NO_LOG, 4);
VALUE(DL_SLOT_DISCARD, 8);
VALUE(DL_START_CLEAN, 1);
VALUE(DL_HARVEST_FINAL, 1);
VALUE(DL_REAP_NOW, 2);

int main(void)
{
	if (dl_library_version() == DL_VERSION)
		return 0;
	fprintf(stderr, "the library has version %#x, the header %#x\n", dl_library_version(),
		(unsigned)DL_VERSION);
	return 1;
}
