/* SPDX-License-Identifier: MIT */
/* dirtylog/model.h from several threads: vCPUs, a device, a migration that checks each pass. */
#include "public.h"

#include <pthread.h>
#include <stdatomic.h>

enum { VCPUS = 3, ROUNDS = 30 };

static struct dlm_vcpu *vcpus[VCPUS];
static struct dl_vcpu *sources[VCPUS];
static atomic_bool stop;
static atomic_ulong failures;

static void *run_vcpu(void *which)
{
	uintptr_t v = (uintptr_t)which;
	uint64_t page = v;

	while (!stop) {
		uint64_t gpa = GPA + (page % PAGES) * PAGE;
		int r = dlm_vcpu_write(vcpus[v], 0, gpa, NULL, 8, NULL);

		if (r == DLM_RING_FULL)
			failures += dl_vcpu_drain(sources[v], 0) != 0;
		else
			page += 7 + v;
		failures += r < 0;
	}
	failures += dlm_vcpu_exit(vcpus[v], EXIT_INTR) != 0;
	return NULL;
}

static void *run_device(void *unused)
{
	uint64_t page = 0;

	while (!stop) {
		failures += dlm_vmm_write(rig.vm, "disk", 0, GPA + page * PAGE + 8, NULL, 8) != 0;
		failures += dl_mark_gpa(rig.log, 0, GPA + page * PAGE + 8, 8) != 0;
		page = (page + 5) % PAGES;
	}
	return unused;
}

static void open_all(const struct dlm_options *kernel, uint32_t mode)
{
	rig_open(kernel, mode, DLM_RECEIVER_GPA);
	for (int v = 0; v < VCPUS; v++) {
		assert_int_equal(dlm_vcpu_add(rig.vm, &vcpus[v]), 0);
		assert_int_equal(dl_vcpu_add(rig.log, dlm_vcpu_fd(vcpus[v]), 0, 0, &sources[v]), 0);
	}
	stop = false;
	rig_join(0);
}

static void migrate_with_threads(const struct dlm_options *kernel, uint32_t mode, bool has_device)
{
	struct dlm_stale stale = { .size = sizeof(stale) };
	pthread_t threads[VCPUS + 1];
	char text[600] = "";

	open_all(kernel, mode);
	for (uintptr_t v = 0; v < VCPUS; v++)
		assert_int_equal(pthread_create(&threads[v], NULL, run_vcpu, (void *)v), 0);
	if (has_device)
		assert_int_equal(pthread_create(&threads[VCPUS], NULL, run_device, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		rig_pass(0);
		/* A device may be between its write and its mark. */
		if (!has_device && dlm_receiver_check(rig.receiver, &stale) == 1 &&
		    dlm_stale_describe(&stale, text, sizeof(text)) > 0)
			fail_msg("%s", text);
	}
	stop = true;
	for (int i = 0; i < VCPUS + has_device; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(dlm_vm_running(rig.vm), 0);
	rig_finish();
	rig_expect_equal();
	assert_int_equal(failures, 0);
	for (int v = 0; v < VCPUS; v++)
		dl_vcpu_remove(sources[v]);
	rig_close();
}

static void checks_while_vcpus_run(void **state)
{
	const struct dlm_options x86 = { .size = sizeof(x86) };
	const struct dlm_options arm64 = { .size = sizeof(arm64), .arch = DLM_ARCH_ARM64 };
	const struct dlm_options emulated = { .size = sizeof(emulated),
					      .write_order = DLM_ORDER_STORE_THEN_LOG };

	migrate_with_threads(&x86, DL_MODE_RING, false);
	migrate_with_threads(&arm64, DL_MODE_RING, false);
	migrate_with_threads(&emulated, DL_MODE_RING, false);
	migrate_with_threads(&x86, DL_MODE_BITMAP, false);
}

static void compares_after_devices_ran(void **state)
{
	const struct dlm_options x86 = { .size = sizeof(x86) };

	migrate_with_threads(&x86, DL_MODE_RING, true);
	migrate_with_threads(&x86, DL_MODE_BITMAP, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(checks_while_vcpus_run),
		cmocka_unit_test(compares_after_devices_ran),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
