/* SPDX-License-Identifier: MIT */
/* The library's duplicate of the VM's descriptor, on /dev/kvm. */
#include "rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGES = 64 };

/* Counts the VM descriptors of this process, and checks that they are close-on-exec. */
static unsigned int vm_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	struct dirent *entry;
	unsigned int count = 0;

	assert_non_null(directory);
	while ((entry = readdir(directory))) {
		char path[64] = "", target[64] = "";

		snprintf(path, sizeof(path), "/proc/self/fd/%.16s", entry->d_name);
		if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, "kvm-vm"))
			continue;
		count++;
		assert_int_equal(fcntl(atoi(entry->d_name), F_GETFD), FD_CLOEXEC);
	}
	closedir(directory);
	return count;
}

static void no_vm_descriptor_survives_an_exec(void **state)
{
	const struct rig_config config = { .mode = DL_MODE_RING, .vcpus = 1 };
	struct rig *rig = rig_new(&config);

	(void)state;
	assert_int_equal(vm_descriptors(), 2);
	dl_log_close(rig->log);
	rig->log = NULL;
	/* The vCPU may still have to be drained. */
	assert_int_equal(vm_descriptors(), 2);
	dl_vcpu_remove(rig->vcpus[0].log);
	rig->vcpus[0].log = NULL;
	assert_int_equal(vm_descriptors(), 1);
}

static void a_duplicate_is_no_standard_stream(void **state)
{
	const struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_BITMAP };
	struct machine machine;
	struct dl_log *log;

	(void)state;
	assert_int_equal(machine_open(&machine), 0);
	close(STDIN_FILENO);
	assert_int_equal(dl_log_open(machine.vm_fd, &options, &log, NULL, 0), 0);
	assert_int_equal(vm_descriptors(), 2);
	assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), -1);
	dl_log_close(log);
	assert_int_equal(vm_descriptors(), 1);
	machine_close(&machine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(no_vm_descriptor_survives_an_exec),
		rig_test(a_duplicate_is_no_standard_stream),
	};

	return rig_run_tests("descriptors on /dev/kvm", tests);
}
