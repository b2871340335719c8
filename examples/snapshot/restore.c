/* SPDX-License-Identifier: MIT */
#include "../clock.h"
#include "../output.h"
#include "commands.h"
#include "image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK_LIMIT_NS (60 * NS_PER_S)

static int describe(const struct snap_header *header, struct layout *layout, char *why,
		    size_t why_bytes)
{
	if (header->machine != SNAP_MACHINE) {
		snprintf(why, why_bytes, "the guest is for ELF machine %u", header->machine);
		return -ENOTSUP;
	}
	if (header->page_bytes != (uint32_t)sysconf(_SC_PAGESIZE)) {
		snprintf(why, why_bytes, "the guest was saved with pages of %u bytes",
			 header->page_bytes);
		return -ENOTSUP;
	}
	return layout_make(layout, header->memory_bytes, header->working_set_bytes, header->vcpus,
			   header->page_bytes, why, why_bytes);
}

int restore_open(struct host *host, const struct snap_header *header, char *why, size_t why_bytes)
{
	const struct machine_kind *kind;
	struct layout layout;
	int r = describe(header, &layout, why, why_bytes);

	if (r)
		return r;
	/* Only what the model has saved does without KVM. */
	kind = machine_choose(header->backend == BACKEND_MODEL ? BACKEND_MODEL : BACKEND_KVM, why,
			      why_bytes);
	if (!kind)
		return -ENODEV;
	r = host_open(host, kind, &layout, header->guest_user);
	if (r)
		snprintf(why, why_bytes, "%s", host->machine.why);
	else
		host->machine.quantum_ns = header->quantum_ns;
	return r;
}

/* The guest checks all that it has ever written, and goes on. */
static int run_on(struct host *host, const struct device_state *state, struct report *report)
{
	struct machine_check check;
	struct device device;
	char why[160] = "";
	bool device_healthy;

	device_init(&device, &host->machine, NULL);
	device_healthy = device_load(&device, state, why, sizeof(why));
	machine_check(&host->machine, CHECK_LIMIT_NS, &check);
	report_member(report, "guest_healthy", "%s", check.healthy ? "true" : "false");
	report_member(report, "device_healthy", "%s", device_healthy ? "true" : "false");
	report_member(report, "checked_pages", "%" PRIu64, check.checked_pages);
	report_member(report, "records", "%" PRIu64, check.records);
	if (check.failure == -ETIMEDOUT && device_healthy)
		return report_error(report, STATUS_FAILED, "%s", check.why);
	if (!check.healthy || !device_healthy)
		return report_error(report, STATUS_CORRUPT, "DAMAGED: %s",
				    check.healthy ? why : check.why);
	report_field(report, "guest",
		     "healthy: it runs on, checked %" PRIu64 " pages and wrote %" PRIu64
		     " records in %.0f ms",
		     check.checked_pages, check.records, (double)check.ns / 1e6);
	return STATUS_DONE;
}

/* A point, and a machine whose memory is that of it. */
struct restored {
	const struct point *point;
	struct host host;
	struct snap_state state;
	uint64_t start_ns;
};

/* The user may expect a newer point. */
static void name_passed_over(struct chain *chain, const struct point *point, struct report *report)
{
	const struct point *newer = &chain->points[chain->n - 1], **path;
	uint32_t n;

	report_rows(report, "passed_over");
	for (; newer != point; newer--) {
		(void)chain_path(chain, newer, &path, &n);
		free(path);
		report_print_error("%s: not restored", chain->why);
		if (!report_row(report))
			continue;
		printf("{ \"number\": %" PRIu64 ", \"why\": ", newer->number);
		output_json_string(chain->why);
		printf(" }");
	}
	report_rows_end(report);
}

/* Returns 0, or a negative errno value with the reason in the chain's why. */
static int find(const struct options *options, struct chain *chain, struct restored *to)
{
	int r = chain_find(chain, options->point, &to->point);

	/* There is no such point: not that it has gone meanwhile. */
	if (r)
		return -ESRCH;
	if (!*to->point->why)
		return restore_open(&to->host, &to->point->header, chain->why, sizeof(chain->why));
	r = -EBADMSG;
	snprintf(chain->why, sizeof(chain->why), "point %" PRIu64 ": %s", to->point->number,
		 to->point->why);
	return r;
}

static int make_memory(const struct options *options, struct chain *chain, struct restored *to)
{
	int r = find(options, chain, to);

	to->start_ns = clock_ns();
	return r ? r : image_restore(chain, to->point, to->host.machine.memory, &to->state);
}

static int start(struct restored *to, struct report *report)
{
	struct machine *machine = &to->host.machine;
	int r = machine_plug(machine, NULL);

	if (!r)
		r = machine_start(machine);
	if (!r)
		r = machine_load(machine, to->state.vcpus);
	if (r)
		return report_error(report, STATUS_FAILED, "%s", machine->why);
	report_field(report, "restored",
		     "point %" PRIu64 ": %" PRIu64 " MiB, %u vCPUs, on %s, in %.0f ms",
		     to->point->number, machine->layout.memory_bytes >> 20, machine->layout.vcpus,
		     machine->kind->name, (double)(clock_ns() - to->start_ns) / 1e6);
	return run_on(&to->host, &to->state.device, report);
}

static int restore(const struct options *options, struct chain *chain, struct report *report)
{
	struct restored to = { 0 };
	int r = make_memory(options, chain, &to), status = STATUS_DONE;

	/* A merge beside this is no damage. What it has made of the point has the same memory. */
	if (chain_is_outdated(r)) {
		host_close(&to.host);
		to.point = NULL;
		r = chain_reload(chain);
		if (!r)
			r = make_memory(options, chain, &to);
	}
	if (r)
		status = report_error(report, r == -EBADMSG ? STATUS_CORRUPT : STATUS_FAILED, "%s",
				      chain->why);
	if (to.point)
		report_member(report, "point", "%" PRIu64, to.point->number);
	if (to.point && !options->point)
		name_passed_over(chain, to.point, report);
	if (!r)
		status = start(&to, report);
	host_close(&to.host);
	return status;
}

int command_restore(const struct options *options, struct report *report)
{
	struct chain chain;
	char why[200];
	int fd = chain_open_dir(options->directory, false, why, sizeof(why)), status;

	if (fd < 0)
		return report_error(report, STATUS_FAILED, "%s", why);
	if (chain_load(&chain, fd)) {
		status = report_error(report, STATUS_FAILED, "%s", chain.why);
	} else {
		name_interrupted_merge(fd, report);
		status = restore(options, &chain, report);
	}
	chain_free(&chain);
	close(fd);
	return status;
}
