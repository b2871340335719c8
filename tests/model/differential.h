/* SPDX-License-Identifier: MIT */
#ifndef MODEL_DIFFERENTIAL_H
#define MODEL_DIFFERENTIAL_H

/* Shared by the differential tests: the options of the host, skipping, running a script. */

#include <stdio.h>

#include "fixture.h"
#include "sides.h"

#define LOG	    KVM_MEM_LOG_DIRTY_PAGES
#define CAP_TSO	    KVM_CAP_DIRTY_LOG_RING
#define CAP_RING    KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define CAP_BACKUP  KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define CAP_MANUAL  KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
#define HVA(slot)   ((uint64_t)(slot)*SIDE_SLOT_PAGES)
#define ALL	    (~0ULL)
#define COUNT_OF(a) (sizeof(a) / sizeof((a)[0]))

static struct model_options options;
static bool have_kvm;
static char no_kvm[80];

static inline int look_at_host(void **unused)
{
	int r = host_options(&options);

	(void)unused;
	have_kvm = !r;
	if (r)
		snprintf(no_kvm, sizeof(no_kvm), "/dev/kvm: %s", strerror(-r));
	setvbuf(stdout, NULL, _IOLBF, 0);
	machine_watchdog("differential", MACHINE_WATCHDOG_SECONDS);
	return 0;
}

static inline void need_host(uint32_t what)
{
	if (!have_kvm) {
		print_message("skip: %s\n", no_kvm);
		skip();
	}
	if ((options.has & what) != what) {
		print_message("skip: this kernel lacks the capability\n");
		skip();
	}
}

static inline void run(const struct op *script, size_t count)
{
	struct pair pair;
	size_t i;

	assert_int_equal(pair_open(&pair, &options), 0);
	for (i = 0; i < count; i++)
		if (pair_do(&pair, &script[i]) == PAIR_DIFFERS)
			fail_msg("operation %zu has different results on the model and the kernel",
				 i);
	pair_close(&pair);
}

#endif
