/* SPDX-License-Identifier: MIT */
/* From struct dlm_options to the model's own. */
#include <stdarg.h>
#include <stdio.h>

#include "api.h"

#define ENTRY_BYTES sizeof(struct kvm_dirty_gfn)
#define ALL_FLAGS                                                                  \
	(DLM_VM_VIRTUAL_CLOCK | DLM_VM_LOOKS_ON_ENTRY | DLM_VM_SIGNALS_CUT_RESET | \
	 DLM_VM_DELETE_UNMAPS_ALL | DLM_VM_HUGE_PAGES | DLM_VM_GUEST_MEMFD)

enum { MAX_SPACES = 16, MAX_SLOT_IDS = 32767, MAX_ENTRIES = 1 << 20 };

struct reason {
	char *text;
	size_t bytes;
};

static __attribute__((format(printf, 3, 4))) int refuse(const struct reason *why, int error,
							const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (why->text && why->bytes)
		vsnprintf(why->text, why->bytes, format, arguments);
	va_end(arguments);
	return error;
}

static bool is_power_of_two(uint32_t value)
{
	return value && !(value & (value - 1));
}

static int check_capabilities(const struct dlm_options *o, const struct reason *why)
{
	const uint32_t each = DLM_HAS_RING_TSO | DLM_HAS_RING_ACQ_REL | DLM_HAS_BACKUP |
			      DLM_HAS_MANUAL_PROTECT | DLM_HAS_INITIALLY_SET | DLM_HAS_WATCH;

	if (o->has & ~(each | DLM_HAS_NOTHING))
		return refuse(why, -EINVAL, "has: unknown capabilities %#x", o->has);
	if ((o->has & DLM_HAS_NOTHING) && (o->has & each))
		return refuse(why, -EINVAL, "has: DLM_HAS_NOTHING excludes the others");
	if ((o->has & DLM_HAS_BACKUP) && !(o->has & DLM_HAS_RING_ACQ_REL))
		return refuse(why, -EINVAL, "has: no kernel has BACKUP without RING_ACQ_REL");
	if ((o->has & DLM_HAS_INITIALLY_SET) && !(o->has & DLM_HAS_MANUAL_PROTECT))
		return refuse(why, -EINVAL,
			      "has: no kernel has INITIALLY_SET without MANUAL_PROTECT");
	if (o->arch == DLM_ARCH_ARM64 && (o->has & DLM_HAS_RING_TSO))
		return refuse(why, -EINVAL, "has: RING_TSO is of x86");
	return 0;
}

static int check_ring(const struct dlm_options *o, const struct reason *why)
{
	uint32_t most = o->ring_max_entries ? o->ring_max_entries : 65536;

	if (o->ring_min_entries && !is_power_of_two(o->ring_min_entries))
		return refuse(why, -EINVAL, "ring_min_entries: %u is no power of two",
			      o->ring_min_entries);
	if (!is_power_of_two(most) || most > MAX_ENTRIES)
		return refuse(why, -EINVAL, "ring_max_entries: %u is no power of two up to %d",
			      most, MAX_ENTRIES);
	if (o->ring_min_entries > most)
		return refuse(why, -EINVAL, "ring_min_entries: %u is more than the maximum, %u",
			      o->ring_min_entries, most);
	if (o->pml_entries > MAX_PML_ENTRIES)
		return refuse(why, -EINVAL, "pml_entries: %u; %d at most", o->pml_entries,
			      MAX_PML_ENTRIES);
	if (o->reserved_entries >= most)
		return refuse(why, -EINVAL, "reserved_entries: %u leave nothing of a ring of %u",
			      o->reserved_entries, most);
	return 0;
}

static int check_limits(const struct dlm_options *o, const struct reason *why)
{
	if (o->page_bytes &&
	    (!is_power_of_two(o->page_bytes) || o->page_bytes < 4096 || o->page_bytes > 65536))
		return refuse(why, -EINVAL, "page_bytes: %u is no power of two from 4096 to 65536",
			      o->page_bytes);
	if (o->slot_ids > MAX_SLOT_IDS)
		return refuse(why, -EINVAL, "slot_ids: %u; %d at most", o->slot_ids, MAX_SLOT_IDS);
	if (o->address_spaces > MAX_SPACES)
		return refuse(why, -EINVAL, "address_spaces: %u; %d at most", o->address_spaces,
			      MAX_SPACES);
	return 0;
}

static int check(const struct dlm_options *o, const struct reason *why)
{
	int result;

	if (o->flags & ~(uint32_t)ALL_FLAGS)
		return refuse(why, -EINVAL, "flags: unknown ones, %#x", o->flags);
	if (o->arch > DLM_ARCH_ARM64)
		return refuse(why, -EINVAL, "arch: %u is unknown", o->arch);
	if (o->write_order > DLM_ORDER_STORE_THEN_LOG)
		return refuse(why, -EINVAL, "write_order: %u is unknown", o->write_order);
	if ((o->flags & DLM_VM_HUGE_PAGES) && o->arch != DLM_ARCH_ARM64)
		return refuse(why, -EINVAL, "flags: DLM_VM_HUGE_PAGES is of DLM_ARCH_ARM64");
	result = check_capabilities(o, why);
	if (!result)
		result = check_ring(o, why);
	return result ? result : check_limits(o, why);
}

static uint32_t write_order(const struct dlm_options *o)
{
	switch (o->write_order) {
	case DLM_ORDER_LOG_THEN_STORE:
		return MODEL_LOG_THEN_STORE;
	case DLM_ORDER_MAP_THEN_LOG:
		return MODEL_MAP_THEN_LOG;
	case DLM_ORDER_STORE_THEN_LOG:
		return MODEL_STORE_THEN_LOG;
	default:
		return o->arch == DLM_ARCH_ARM64 ? MODEL_MAP_THEN_LOG : MODEL_LOG_THEN_STORE;
	}
}

/* The model's own default is an x86's. */
static uint32_t capabilities(const struct dlm_options *o)
{
	if (o->has || o->arch == DLM_ARCH_X86)
		return o->has;
	return MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP | MODEL_HAS_MANUAL_PROTECT |
	       MODEL_HAS_INITIALLY_SET | MODEL_HAS_WATCH;
}

static void translate(const struct dlm_options *o, struct model_options *options)
{
	bool is_arm64 = o->arch == DLM_ARCH_ARM64;

	*options = (struct model_options){
		.has = capabilities(o),
		.page_bytes = o->page_bytes,
		.arch = is_arm64 ? DL_OS_ARCH_RING_NEEDS_BACKUP : DL_OS_ARCH_RING_ALONE_SAFE,
		.ring_min_bytes = o->ring_min_entries * (uint32_t)ENTRY_BYTES,
		.ring_max_bytes = o->ring_max_entries * (uint32_t)ENTRY_BYTES,
		.reserved_entries = o->reserved_entries,
		.pml_entries = o->pml_entries,
		.ring_first_index = o->ring_first_index,
		.slot_ids = o->slot_ids,
		.address_spaces = o->address_spaces,
		.write_order = write_order(o),
		.batch_writes = o->batch_writes,
		.looks_at_ring_on_entry = o->flags & DLM_VM_LOOKS_ON_ENTRY,
		.has_signal_short_reset = o->flags & DLM_VM_SIGNALS_CUT_RESET,
		.ring_alone_loses_huge_pages = o->flags & DLM_VM_HUGE_PAGES,
		.delete_unmaps_all = o->flags & DLM_VM_DELETE_UNMAPS_ALL,
		.protects_ranges = is_arm64,
		.virtual_clock = o->flags & DLM_VM_VIRTUAL_CLOCK,
		.has_guest_memfd = o->flags & DLM_VM_GUEST_MEMFD,
		.real_timers = true,
		.thread_clocks = true,
	};
}

int dlmi_options(const struct dlm_options *given, struct model_options *options, char *text,
		 size_t text_bytes)
{
	const struct reason why = { text, text_bytes };
	struct dlm_options known = { 0 };
	int result;

	if (given && given->size < DLM_FIELD_END(struct dlm_options, batch_writes))
		return refuse(&why, -EINVAL, "options.size: %u is too small", given->size);
	if (given && !dlmi_tail_is_zero(given, sizeof(known), given->size))
		return refuse(&why, -E2BIG, "options: fields that this release does not know");
	if (given)
		memcpy(&known, given, sizeof(known));
	result = check(&known, &why);
	if (!result)
		translate(&known, options);
	return result;
}
