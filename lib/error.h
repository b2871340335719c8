/* SPDX-License-Identifier: MIT */
#ifndef DLI_ERROR_H
#define DLI_ERROR_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The last failure of a log and its handles. It is one number, so that any thread can record a
 * failure, and read the last one, without waiting for another.
 */
struct dli_error {
	_Atomic uint64_t code; /* 0: none */
};

enum dli_failure {
	DLI_FAILED_NOTHING,
	/* -EINVAL, by the field that is wrong. */
	DLI_BAD_FLAGS,
	DLI_BAD_KVM_FLAGS,
	DLI_BAD_NUMBER,
	DLI_BAD_SIZE,
	DLI_BAD_ALIGNMENT,
	DLI_BAD_RANGE,
	DLI_BAD_SLOT_RANGE,
	DLI_BAD_STRUCT,
	DLI_BAD_CHANGE,
	DLI_BAD_EXISTS,
	DLI_BAD_WORDS,
	DLI_BAD_COUNT,
	DLI_BAD_TICKET,
	DLI_BAD_EXTENT,
	DLI_BAD_PAUSED,
	DLI_BAD_GOAL,
	DLI_BAD_RESERVED,
	DLI_BAD_FOREIGN_PAGE,
	DLI_BAD_FOREIGN_GPA,
	DLI_BAD_FOREIGN_BYTES,
	DLI_BAD_WORD_ALIGNMENT,
	DLI_FEW_WORDS,
	DLI_BAD_ALIAS,
	DLI_BAD_WATCH,
	/* Wrong state or order. */
	DLI_NO_SLOT,
	DLI_NO_MEMORY_THERE,
	DLI_OVERLAP,
	DLI_PASS_OPEN,
	DLI_NO_PASS,
	DLI_FEW_VCPUS,	   /* in place of a slot: how many are missing */
	DLI_VCPUS_MISSING, /* in place of a slot: dli_vcpu_check()'s number */
	DLI_WATCHED,
	DLI_ALIAS_CHANGED,
	DLI_CLOSED,
	DLI_CURSOR_FREED,
	DLI_HAS_PLAN,
	DLI_NO_RINGS,
	/* A system call, or memory for it. */
	DLI_NO_MEMORY,
	DLI_REGION_NOT_SET,
	DLI_REGION_NOT_DELETED,
	DLI_LOGGING_NOT_ON,
	DLI_LOGGING_NOT_OFF,
	DLI_BITMAP_NOT_READ,
	DLI_BITMAP_NOT_CLEARED,
	DLI_PROTECT_NOT_SET,
	DLI_RINGS_NOT_RESET,
	DLI_RINGS_UNKNOWN,
	DLI_RINGS_ON,
	DLI_SIGNALS_NOT_BLOCKED,
	DLI_TIMER_NOT_SET,
	DLI_VCPU_ADDED_TWICE,
	DLI_NOT_A_VCPU,
	DLI_VCPU_NOT_ADDED,
	DLI_WATCH_NO_TABLE,
	DLI_WATCH_NO_SCAN,
	DLI_WATCH_NO_UFFD,
	DLI_WATCH_NO_WPASYNC,
	DLI_WATCH_HUGE,
	DLI_WATCH_TAKEN,
	DLI_WATCH_NOT_BEGUN,
	DLI_WATCH_NOT_SCANNED,
	DLI_FAILURES,
};

/* For a failure that concerns no slot. */
#define DLI_NO_NUMBER UINT32_MAX

/* Records a failure. Returns error, a negative errno value. */
int dli_error_note(struct dli_error *last, enum dli_failure failure, uint32_t slot, int error);

/* Writes the last failure; returns the length as snprintf(3) does: 0 if there was none. */
int dli_last_error_text(const struct dli_error *last, char *text, size_t text_bytes);

#endif
