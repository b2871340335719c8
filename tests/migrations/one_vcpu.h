/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_ONE_VCPU_H
#define MIGRATIONS_ONE_VCPU_H

/* A migration of a guest with one vCPU, and short forms of the calls on it. */

#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	ENTRIES = 256,
	FIRST_PAGE = 16,
	RING = MODEL_HAS_RING_ACQ_REL,
	BACKUP = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
	MANUAL = MODEL_HAS_MANUAL_PROTECT,
	INITIALLY_SET = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET,
};

static struct migration migration;
static struct guest *guest;
static struct guest_vcpu *vcpu;

static inline void begin_with(const struct guest_config *config, uint32_t start_flags)
{
	migration_open(&migration, config, 1);
	guest = &migration.guest;
	vcpu = &guest->vcpus[0];
	migration_start(&migration, start_flags);
}

static inline void begin(uint32_t has, uint32_t mode, uint32_t start_flags)
{
	begin_with(&(struct guest_config){ .model = { .has = has },
					   .options = { .mode = mode, .ring_entries = ENTRIES } },
		   start_flags);
}

static inline void end(void)
{
	migration_finish(&migration);
	migration_close(&migration);
}

static inline void write_pages(uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(guest, vcpu, 0, FIRST_PAGE + page), 0);
}

static inline void fail_once(unsigned long request, int error, bool after)
{
	const struct model_fault fault = {
		.request = request, .times = 1, .error = error, .after = after
	};

	assert_int_equal(model_fault(guest->model, &fault), 0);
}

static inline int last_harvest(void)
{
	guest_stop(guest);
	return checker_harvest(&migration.checker, DL_HARVEST_PAUSED, NULL);
}

#endif
