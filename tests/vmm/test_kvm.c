/* SPDX-License-Identifier: MIT */
/* The scenes on this machine's /dev/kvm: with threads, and with mistakes. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../kvm/machine.h"
#include "misuses.h"

static void no_watchdog(const struct row *row)
{
	(void)row;
	machine_watchdog("nothing", 0);
}

/* The line is of the form that tests/run.sh collects. */
static void skip_with(const char *why)
{
	printf("skip: %s\n", why);
	skip();
}

static bool has_second_space(void)
{
	struct machine machine;
	bool has;

	hv_check(machine_open(&machine), "machine_open");
	has = machine_capability(&machine, KVM_CAP_MULTI_ADDRESS_SPACE) >= 2;
	machine_close(&machine);
	return has;
}

static void skip_unless_possible(const struct row *row)
{
	const struct dl_options options = {
		.size = sizeof(options),
		.mode = row->config.mode,
		.ring_entries = row->config.ring_entries,
	};
	struct machine machine;
	struct dl_log *log;
	char why[300];
	int r = machine_available();

	if (r < 0) {
		snprintf(why, sizeof(why), "/dev/kvm: %s", strerror(-r));
		skip_with(why);
	}
	if (row->scene->needs_second_space && !has_second_space())
		skip_with("this kernel supports only one address space");
	hv_check(machine_open(&machine), "machine_open");
	r = dl_log_open(machine.vm_fd, &options, &log, why, sizeof(why));
	dl_log_close(log);
	machine_close(&machine);
	/* -EINVAL: no ring is as small as that. */
	if (r == -EOPNOTSUPP || r == -EINVAL)
		skip_with(why);
	hv_check(r, why);
	machine_watchdog(row->name, MACHINE_WATCHDOG_SECONDS);
}

/*
 * Plant mistakes only in VMs whose consumers share a cursor. In each mode, each scene still has to
 * notice each mistake, as none concerns only the other VMs. For machines that are emulated.
 */
static bool few_mistakes;

static void add_without_threads(const struct scene *scene, const struct kind *kind)
{
	struct vmm_config config = kind->config;

	if (!few_mistakes || config.shared) {
		add_misuses(scene, kind, &hv_kvm, skip_unless_possible);
		return;
	}
	config.backend = &hv_kvm;
	row_add(scene, &config, kind->name)->before = skip_unless_possible;
}

static void add_kind(const struct kind *kind, bool plant, bool second_space)
{
	struct vmm_config config = kind->config;
	char name[100];

	config.backend = &hv_kvm;
	config.threads = true;
	snprintf(name, sizeof(name), "%s, threads", kind->name);
	for (unsigned int i = 0; i < n_scenes; i++) {
		struct row *row;

		if (scenes[i].needs_threads && !config.ring_entries)
			continue;
		row = row_add(&scenes[i], &config, name);
		row->before = skip_unless_possible;
		row->after = no_watchdog;
		if (plant && !scenes[i].needs_threads &&
		    (second_space || !scenes[i].needs_second_space))
			add_without_threads(&scenes[i], kind);
	}
}

int main(int argc, char **argv)
{
	static const struct kind small = {
		"small ring, shared", { .mode = DL_MODE_RING, .ring_entries = 256, .shared = true }
	};
	bool second_space = !machine_available() && has_second_space();

	few_mistakes = argc == 2 && !strcmp(argv[1], "--few-mistakes");
	if (argc > 1 && !few_mistakes) {
		fprintf(stderr, "usage: vmm-kvm [--few-mistakes]\n");
		return 2;
	}
	add_kind(&small, false, second_space);
	for (int kind = 0; kind < FEW_KINDS; kind++)
		/* The kernel is what it is. */
		if (!few_kinds[kind].config.model.has)
			add_kind(&few_kinds[kind], true, second_space);
	return rows_run("vmm on /dev/kvm");
}
