/* SPDX-License-Identifier: MIT */
/* The last failure, in words. */

#include "error.h"

#include "kvm/error_text.h"
#include "vcpu_check.h"

#include <stdbool.h>
#include <stdio.h>

static const char *const words[DLI_FAILURES] = {
	[DLI_BAD_FLAGS] = "unknown flags, or flags that exclude each other",
	[DLI_BAD_KVM_FLAGS] = "kvm_flags with KVM_MEM_LOG_DIRTY_PAGES, which is the library's",
	[DLI_BAD_NUMBER] = "a slot number beyond the kernel's limit",
	[DLI_BAD_SIZE] = "a slot of no bytes, or of more than the kernel can log",
	[DLI_BAD_ALIGNMENT] =
		"gpa, hva, bytes or offset_bytes that is no multiple of the page size",
	[DLI_BAD_RANGE] = "a range that wraps around",
	[DLI_BAD_SLOT_RANGE] = "a range that leaves the slot",
	[DLI_BAD_STRUCT] = "a struct whose size is unset or unknown, or whose tail is not zero",
	[DLI_BAD_CHANGE] =
		"a new size, hva, KVM_MEM_READONLY or DL_SLOT_NO_LOG; remove the slot first",
	[DLI_BAD_EXISTS] = "DL_SLOT_EXISTS with DL_SLOT_CLEAN",
	[DLI_BAD_WORDS] = "n_words does not fit the slot",
	[DLI_BAD_COUNT] = "a pointer that is NULL, or a count out of range",
	[DLI_BAD_TICKET] = "an extent of another cursor",
	[DLI_BAD_EXTENT] = "an extent that is not handed out, or is acknowledged already",
	[DLI_BAD_PAUSED] = "DL_TAKE_PAUSED without DL_TAKE_HARVEST",
	[DLI_BAD_GOAL] = "least_run_ppm of more than a million, fixed_ns of the whole "
			 "downtime, or reserved that is not 0",
	[DLI_BAD_RESERVED] = "dl_bitmap.reserved that is not 0",
	[DLI_BAD_FOREIGN_PAGE] =
		"dl_bitmap.page_bytes that is no power of two from 512 bytes to 1 GiB",
	[DLI_BAD_FOREIGN_GPA] = "dl_bitmap.gpa that is no multiple of page_bytes",
	[DLI_BAD_FOREIGN_BYTES] = "dl_bitmap.bytes that wraps around",
	[DLI_BAD_WORD_ALIGNMENT] = "words that are not aligned to 8 bytes",
	[DLI_FEW_WORDS] = "n_words of fewer bits than dl_bitmap.bytes has pages",
	[DLI_BAD_ALIAS] = "alias is not page aligned, not mapped for the slot's size, or a slot's "
			  "own memory",
	[DLI_BAD_WATCH] = "a slot with DL_SLOT_NO_LOG, which cannot be watched",
	[DLI_NO_SLOT] = "there is no such slot",
	[DLI_NO_MEMORY_THERE] = "a mark outside of every slot",
	[DLI_OVERLAP] = "the range overlaps another slot",
	[DLI_PASS_OPEN] = "the cursor's pass is still open",
	[DLI_NO_PASS] = "the cursor has no open pass",
	[DLI_FEW_VCPUS] = "dl_cursor_options.vcpus is more than were added",
	[DLI_VCPUS_MISSING] = "vCPUs of this process were added to no log",
	[DLI_WATCHED] = "part of the alias is watched for another slot",
	[DLI_ALIAS_CHANGED] = "the slot is watched by another alias; end that watch first",
	[DLI_CLOSED] = "the log is closed",
	[DLI_CURSOR_FREED] = "the plan's cursor is freed",
	[DLI_HAS_PLAN] = "the log has a plan already",
	[DLI_NO_RINGS] = "without rings no vCPU can be limited",
	[DLI_NO_MEMORY] = "no memory for the pages",
	[DLI_REGION_NOT_SET] = "the memory region could not be set",
	[DLI_REGION_NOT_DELETED] = "the memory region could not be deleted",
	[DLI_LOGGING_NOT_ON] = "logging could not be switched on",
	[DLI_LOGGING_NOT_OFF] = "logging could not be switched off",
	[DLI_BITMAP_NOT_READ] = "the bitmap could not be read",
	[DLI_BITMAP_NOT_CLEARED] = "the bitmap could not be cleared",
	[DLI_PROTECT_NOT_SET] = "manual protection could not be set",
	[DLI_RINGS_NOT_RESET] = "the rings could not be reset",
	[DLI_RINGS_UNKNOWN] = "it could not be learnt whether rings are on",
	[DLI_RINGS_ON] = "another log has switched rings on, and bitmaps miss what vCPUs write",
	[DLI_SIGNALS_NOT_BLOCKED] = "signals could not be blocked",
	[DLI_TIMER_NOT_SET] = "the descriptor's timer could not be made or set",
	[DLI_VCPU_ADDED_TWICE] = "this vCPU was added already",
	[DLI_NOT_A_VCPU] = "vcpu_fd is not a vCPU's descriptor",
	[DLI_VCPU_NOT_ADDED] = "the vCPU could not be added",
	[DLI_WATCH_NO_TABLE] = "dl_options.os has no userfaultfd, pagemap or close",
	[DLI_WATCH_NO_SCAN] = "no PAGEMAP_SCAN of /proc/self/pagemap (Linux 6.7)",
	[DLI_WATCH_NO_UFFD] = "userfaultfd(2) is refused",
	[DLI_WATCH_NO_WPASYNC] = "userfaultfd has no asynchronous write-protection (Linux 6.7)",
	[DLI_WATCH_HUGE] = "memory of hugetlb, which cannot be watched",
	[DLI_WATCH_TAKEN] = "another userfaultfd has the alias (post-copy)",
	[DLI_WATCH_NOT_BEGUN] = "the alias could not be watched",
	[DLI_WATCH_NOT_SCANNED] = "the alias could not be scanned: is it still mapped?",
};

/* errno values are below 4096. */
enum { ERROR_BITS = 12, FAILURE_BITS = 8 };

int dli_error_note(struct dli_error *last, enum dli_failure failure, uint32_t slot, int error)
{
	uint64_t code = (uint64_t)slot << (ERROR_BITS + FAILURE_BITS) |
			(uint64_t)failure << ERROR_BITS | (uint64_t)-error;

	/* Nothing is published with it. */
	atomic_store_explicit(&last->code, code, memory_order_relaxed);
	return error;
}

int dli_last_error_text(const struct dli_error *last, char *text, size_t text_bytes)
{
	uint64_t code = atomic_load_explicit(&last->code, memory_order_relaxed);
	uint32_t slot = (uint32_t)(code >> (ERROR_BITS + FAILURE_BITS));
	int error = (int)(code & ((1u << ERROR_BITS) - 1));
	char reason[ERROR_TEXT_BYTES];
	enum dli_failure failure = code >> ERROR_BITS & ((1u << FAILURE_BITS) - 1);
	const char *what = words[failure];

	if (!what)
		return snprintf(text, text_bytes, "%s", "");
	if (slot == DLI_NO_NUMBER)
		return snprintf(text, text_bytes, "%s: %s", what, dli_error_text(-error, reason));
	if (failure == DLI_FEW_VCPUS)
		return snprintf(text, text_bytes, "%s, by %u: %s", what, slot,
				dli_error_text(-error, reason));
#ifdef DLI_CHECK_VCPUS
	if (failure == DLI_VCPUS_MISSING) {
		char ids[DLI_VCPU_CHECK_TEXT_BYTES];

		dli_vcpu_check_text(slot, ids);
		return snprintf(text, text_bytes, "%s (ids %s): %s", what, ids,
				dli_error_text(-error, reason));
	}
#endif
	return snprintf(text, text_bytes, "%s (slot %u of address space %u): %s", what,
			slot & 0xffff, slot >> 16, dli_error_text(-error, reason));
}
