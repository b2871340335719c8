/* SPDX-License-Identifier: MIT */
#ifndef MODEL_PUBLIC_H
#define MODEL_PUBLIC_H

/* For the tests of dirtylog/model.h: a VM with a log, one slot and one vCPU, by public calls. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <dirtylog/dirtylog.h>
#include <dirtylog/model.h>

enum {
	PAGE = 4096,
	PAGES = 512,
	BYTES = PAGES * PAGE,
	ENTRIES = 256,
	SLOT = 1,
	EXIT_INTR = 10,
	EXIT_RING_FULL = 31,
};

#define GPA UINT64_C(0x1000000)

struct rig {
	struct dlm_vm *vm;
	struct dlm_vcpu *vcpu;
	struct dlm_receiver *receiver;
	struct dl_log *log;
	struct dl_vcpu *source;
	struct dl_cursor *cursor;
	void *memory;
	uint64_t ring_exits;
};

static struct rig rig;

static inline void rig_set_slot(uint32_t number, uint64_t gpa, void *memory, uint64_t bytes,
				uint32_t flags)
{
	const struct dl_slot slot = { .size = sizeof(slot),
				      .flags = flags,
				      .slot = number,
				      .gpa = gpa,
				      .bytes = bytes,
				      .hva = (uintptr_t)memory };

	assert_int_equal(dl_slot_set(rig.log, &slot), 0);
}

/* mode: enum dl_mode. */
static inline void rig_open(const struct dlm_options *kernel, uint32_t mode, uint32_t kind)
{
	struct dl_options options = { .size = sizeof(options), .mode = mode };
	char why[200];

	memset(&rig, 0, sizeof(rig));
	/* The buffer of logged writes has to fit into a ring. */
	if (mode != DL_MODE_BITMAP)
		options.ring_entries = kernel && kernel->pml_entries ? 4 * ENTRIES : ENTRIES;
	if (dlm_vm_new(kernel, &rig.vm, why, sizeof(why)))
		fail_msg("%s", why);
	options.os = dlm_vm_os(rig.vm);
	if (dl_log_open(dlm_vm_fd(rig.vm), &options, &rig.log, why, sizeof(why)))
		fail_msg("%s", why);
	assert_int_equal(dlm_memory_new(rig.vm, BYTES, &rig.memory), 0);
	rig_set_slot(SLOT, GPA, rig.memory, BYTES, 0);
	assert_int_equal(dlm_vcpu_add(rig.vm, &rig.vcpu), 0);
	assert_int_equal(dl_vcpu_add(rig.log, dlm_vcpu_fd(rig.vcpu), 0, 0, &rig.source), 0);
	assert_int_equal(dlm_receiver_new(rig.vm, kind, &rig.receiver), 0);
}

static inline void rig_close(void)
{
	dl_cursor_free(rig.cursor);
	dl_vcpu_remove(rig.source);
	dl_log_close(rig.log);
	dlm_receiver_free(rig.receiver);
	dlm_vm_free(rig.vm);
}

static inline void rig_join(uint32_t flags)
{
	const struct dl_cursor_options options = { .size = sizeof(options), .flags = flags };

	assert_int_equal(dl_cursor_new(rig.log, &options, &rig.cursor), 0);
}

/* The vCPU writes a new value to pages, and empties its ring when it is full. */
static inline void rig_touch(uint64_t page, uint64_t pages)
{
	uint64_t done = 0;

	while (dlm_vcpu_write(rig.vcpu, 0, GPA + page * PAGE, NULL, pages * PAGE, &done) ==
	       DLM_RING_FULL) {
		rig.ring_exits++;
		assert_int_equal(dl_vcpu_drain(rig.source, 0), 0);
	}
	assert_int_equal(done, pages * PAGE);
}

/* Hands what is read to the receiver. Returns how many pages there were. */
static inline uint64_t rig_read(void)
{
	struct dl_extent extents[16];
	uint64_t pages = 0;
	int n;

	while ((n = dl_cursor_read(rig.cursor, extents, 16)) > 0) {
		assert_int_equal(dlm_receiver_put(rig.receiver, extents, (uint32_t)n), 0);
		for (int i = 0; i < n; i++)
			pages += extents[i].bytes / PAGE;
	}
	assert_int_equal(n, 0);
	return pages;
}

static inline uint64_t rig_pass(uint32_t flags)
{
	uint64_t pages;

	assert_int_equal(dlm_receiver_pass(rig.receiver), 0);
	assert_int_equal(dl_harvest(rig.cursor, flags, NULL), 0);
	pages = rig_read();
	assert_int_equal(dl_cursor_end(rig.cursor, DL_END_COMMIT), 0);
	return pages;
}

/* Stops the guest, and passes until nothing is pending. */
static inline void rig_finish(void)
{
	assert_int_equal(dlm_vcpu_exit(rig.vcpu, EXIT_INTR), 0);
	assert_int_equal(dlm_vm_running(rig.vm), 0);
	while (rig_pass(DL_HARVEST_PAUSED))
		;
}

static inline struct dlm_stale rig_stale(void)
{
	struct dlm_stale stale = { .size = sizeof(stale) };

	assert_int_equal(dlm_receiver_compare(rig.receiver, &stale), 1);
	return stale;
}

/* Fails with the oracle's own words. */
static inline void rig_expect_equal(void)
{
	struct dlm_stale stale = { .size = sizeof(stale) };
	char text[600];
	int result = dlm_receiver_compare(rig.receiver, &stale);

	if (result == 1 && dlm_stale_describe(&stale, text, sizeof(text)) > 0)
		fail_msg("%s", text);
	assert_int_equal(result, 0);
}

static inline void expect_says(const struct dlm_stale *stale, const char *part)
{
	char text[600];
	int length = dlm_stale_describe(stale, text, sizeof(text));

	assert_in_range(length, 1, sizeof(text) - 1);
	assert_int_equal(length, strlen(text));
	if (!strstr(text, part))
		fail_msg("\"%s\" does not say \"%s\"", text, part);
}

/* The last call was refused, and dlm_last_error() names the argument. */
static inline void expect_error(int result, int error, const char *part)
{
	char text[300];

	assert_int_equal(result, -error);
	assert_in_range(dlm_last_error(rig.vm, text, sizeof(text)), 1, sizeof(text) - 1);
	if (!strstr(text, part))
		fail_msg("\"%s\" does not say \"%s\"", text, part);
}

#endif
